package mongoloop

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/onloop/eventloop"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// A DecodeError is the error of a document that does not fit the requested type. It is
// wrapped in an [*Error].
type DecodeError struct {
	Document bson.Raw
	Err      error
}

func (e *DecodeError) Error() string { return "document does not decode: " + e.Err.Error() }

func (e *DecodeError) Unwrap() error { return e.Err }

// Find calls onDocument on the loop with each document that matches the filter, in order,
// and then onEnd once: with nil after the last document, or with an [*Error]. It requests
// the next batch when onDocument has returned for all documents of the current one;
// options.Find().SetBatchSize sets the size of a batch.
//
// A document that does not fit T ends the cursor with a [*DecodeError], after the documents
// before it. The end of ctx also ends the cursor. A panic in onDocument is a panic in a
// callback; with Config.CatchPanics the cursor continues with the next document, or with
// onEnd. A panic during decoding ends the cursor with an error that wraps the
// [*eventloop.PanicError]; the documents of the same batch are not delivered.
//
// Neither function is called after [Cursor.Close], after the end of the loop, or if the loop
// ends by force first. If Find is called before Run, it begins with Run. Find panics if
// onDocument or onEnd is nil.
func (c *Collection[T]) Find(ctx context.Context, filter any, onDocument func(v T), onEnd func(err error), opts ...options.Lister[options.FindOptions]) *Cursor {
	return start(ctx, c, "Find", c.find(filter, opts), onDocument, onEnd)
}

// All returns a sequence of the documents that match the filter, for a task. The task waits
// for each batch. An error is the last element: an [*Error] like that of Find, the end of
// the task's context, or the [*eventloop.PanicError] of a panic during decoding.
func (c *Collection[T]) All(t *eventloop.Task, filter any, opts ...options.Lister[options.FindOptions]) iter.Seq2[T, error] {
	return all[T](t, c, "All", c.find(filter, opts))
}

func (c *Collection[T]) find(filter any, opts []options.Lister[options.FindOptions]) openFunc {
	return func(ctx context.Context) (*mongo.Cursor, error) { return c.coll.Find(ctx, filter, opts...) }
}

// Aggregate is like [Collection.Find], for the results of a pipeline, as values of R.
func Aggregate[R, T any](ctx context.Context, c *Collection[T], pipeline any, onDocument func(v R), onEnd func(err error), opts ...options.Lister[options.AggregateOptions]) *Cursor {
	return start(ctx, c, "Aggregate", aggregate(c, pipeline, opts), onDocument, onEnd)
}

// AggregateAll is like [Collection.All], for the results of a pipeline, as values of R.
func AggregateAll[R, T any](t *eventloop.Task, c *Collection[T], pipeline any, opts ...options.Lister[options.AggregateOptions]) iter.Seq2[R, error] {
	return all[R](t, c, "AggregateAll", aggregate(c, pipeline, opts))
}

func aggregate[T any](c *Collection[T], pipeline any, opts []options.Lister[options.AggregateOptions]) openFunc {
	return func(ctx context.Context) (*mongo.Cursor, error) { return c.coll.Aggregate(ctx, pipeline, opts...) }
}

type openFunc func(ctx context.Context) (*mongo.Cursor, error)

// maxPiece is the maximum number of decoded documents that wait for delivery.
const maxPiece = 1000

// A source reads the documents of a cursor, on goroutines of the client, one call at a time.
type source[R any] struct {
	open   openFunc
	cursor *mongo.Cursor
}

// next returns documents of one batch, or the error or io.EOF that follows the last one. It
// may return documents and an error.
func (s *source[R]) next(ctx context.Context) (docs []R, err error) {
	if s.cursor == nil {
		if s.cursor, err = s.open(ctx); err != nil {
			return nil, err
		}
	}
	for len(docs) < maxPiece {
		if !s.cursor.Next(ctx) {
			if err := s.cursor.Err(); err != nil {
				return docs, err
			}
			return docs, io.EOF
		}
		var v R
		if err := s.cursor.Decode(&v); err != nil {
			return docs, &DecodeError{append(bson.Raw(nil), s.cursor.Current...), err}
		}
		docs = append(docs, v)
		if s.cursor.RemainingBatchLength() == 0 {
			break
		}
	}
	return docs, nil
}

// close closes the cursor at the server. It waits for a call of next in progress.
func (s *source[R]) close() {
	if s.cursor == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), disconnectTime)
	defer cancel()
	s.cursor.Close(ctx)
}

func all[R, T any](t *eventloop.Task, c *Collection[T], op string, open openFunc) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		s := &source[R]{open: open}
		var mu sync.Mutex // held while the source is used
		defer func() {
			eventloop.WorkOn(context.Background(), c.client.workers, func(context.Context) (struct{}, error) {
				mu.Lock()
				defer mu.Unlock()
				s.close()
				return struct{}{}, nil
			}).Ignore()
		}()
		for {
			var end error
			docs, err := eventloop.WorkOn(t.Context(), c.client.workers, func(ctx context.Context) (docs []R, _ error) {
				mu.Lock()
				defer mu.Unlock()
				if docs, end = s.next(ctx); end != nil && end != io.EOF {
					end = c.fail(ctx, op, end)
				}
				return docs, nil
			}).Await(t)
			if err != nil { // end may not be read: the function may still run
				yield(*new(R), err)
				return
			}
			for _, v := range docs {
				if !yield(v, nil) {
					return
				}
			}
			if end != nil {
				if end != io.EOF {
					yield(*new(R), end)
				}
				return
			}
		}
	}
}

// A Cursor is a Find or an Aggregate in progress. It keeps the loop alive until its end or
// Close, unless it is unref'd. All methods may be called from any goroutine and from any
// callback.
type Cursor struct {
	owner *eventloop.Owner
	life  eventloop.Promise[struct{}] // pending until the end
	wake  func()                      // schedules a delivery
	stop  func()                      // ends a request

	mu     sync.Mutex
	paused bool
	closed bool
}

// A reading is the state of a Cursor of values of R. It belongs to the loop.
type reading[R any] struct {
	*Cursor
	ctx        context.Context
	cancel     context.CancelFunc
	client     *Client
	fail       func(ctx context.Context, err error) error
	source     source[R]
	onDocument func(v R)
	onEnd      func(err error)

	fetching bool // a function of Work uses the source
	posted   bool // deliver is posted
	docs     []R  // the undelivered documents
	end      error
	over     bool
}

func start[R, T any](ctx context.Context, c *Collection[T], op string, open openFunc, onDocument func(v R), onEnd func(err error)) *Cursor {
	if onDocument == nil || onEnd == nil {
		panic("mongoloop: " + op + " needs two functions")
	}
	if ctx == nil {
		panic("mongoloop: nil context")
	}
	r := &reading[R]{Cursor: &Cursor{}, client: c.client, source: source[R]{open: open}, onDocument: onDocument, onEnd: onEnd}
	r.ctx, r.cancel = context.WithCancel(ctx)
	r.fail = func(ctx context.Context, err error) error { return c.fail(ctx, op, err) }
	l := c.client.loop
	r.wake = func() { l.Post(r.post) }
	r.stop = r.cancel
	owner, err := eventloop.NewOwner(l, Kind, fmt.Sprintf("%s in %s", op, c.name()), func(error) { r.cancel() })
	if err != nil {
		r.cancel()
		r.closed = true
		return r.Cursor
	}
	r.owner = owner
	r.life.Init(owner)
	r.life.Ignore()
	r.wake()
	return r.Cursor
}

// post runs on the loop. It delivers each document in a separate callback, so that a large
// batch does not block the loop.
func (r *reading[R]) post() {
	if !r.posted {
		r.posted = true
		r.client.loop.Post(r.deliver)
	}
}

func (r *reading[R]) deliver() {
	r.posted = false
	r.mu.Lock()
	paused, closed := r.paused, r.closed
	r.mu.Unlock()
	switch {
	case closed:
		r.finish()
	case r.over || r.fetching || paused:
	case len(r.docs) > 0:
		v := r.docs[0]
		r.docs = r.docs[1:]
		r.post() // before the callback, which may panic
		r.onDocument(v)
	case r.end != nil:
		err := r.end
		r.finish()
		if err == io.EOF {
			err = nil
		}
		r.onEnd(err)
	default:
		r.fetch()
	}
}

// fetch gets the next documents.
func (r *reading[R]) fetch() {
	r.fetching = true
	type result struct {
		docs []R
		end  error
	}
	eventloop.WorkOn(r.ctx, r.client.workers, func(ctx context.Context) (result, error) {
		docs, end := r.source.next(ctx)
		if end != nil && end != io.EOF {
			end = r.fail(ctx, end)
		}
		return result{docs, end}, nil
	}).Then(func(v result, err error) {
		r.fetching = false
		r.docs, r.end = v.docs, v.end
		if err != nil { // the function never ran, or decoding has panicked
			r.end = r.fail(r.ctx, err)
		}
		r.post()
	})
}

// finish ends the handle, once no function uses the source.
func (r *reading[R]) finish() {
	if r.over || r.fetching {
		return
	}
	r.over, r.docs = true, nil
	r.cancel()
	if r.source.cursor != nil && r.end != io.EOF { // the cursor may still exist at the server
		eventloop.WorkOn(context.Background(), r.client.workers, func(context.Context) (struct{}, error) {
			r.source.close()
			return struct{}{}, nil
		}).Ignore()
	}
	r.life.Resolve(struct{}{}, nil)
	r.owner.Close()
}

// Pause stops the callbacks and the requests for further batches. If it is called on the
// loop, no callback is called after it, until Resume.
func (c *Cursor) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = true
}

// Resume undoes Pause.
func (c *Cursor) Resume() {
	c.mu.Lock()
	resumed := c.paused && !c.closed
	c.paused = false
	c.mu.Unlock()
	if resumed {
		c.wake()
	}
}

// Close ends the cursor, here and at the server. It does not wait, and onEnd is not
// called. If it is called on the loop, no callback is called after it. A second call
// does nothing.
func (c *Cursor) Close() {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if !closed {
		c.stop()
		c.wake()
	}
}

// Ref makes the cursor keep the loop alive. This is the default.
func (c *Cursor) Ref() {
	if c.owner != nil {
		c.owner.Ref()
	}
}

// Unref lets the loop end although the cursor is open, while no batch is requested.
func (c *Cursor) Unref() {
	if c.owner != nil {
		c.owner.Unref()
	}
}
