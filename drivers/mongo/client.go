package mongoloop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/onloop/eventloop"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// Kind is the Kind of clients and cursors in [eventloop.Loop.Handles].
const Kind = "mongo"

// defaultPoolSize is MaxPoolSize of the official client if it is not set.
const defaultPoolSize = 100

// disconnectTime bounds how long the end of a loop waits for the official client. A server
// that does not answer must not hold it up.
const disconnectTime = time.Second

// A Client is a client of MongoDB on a loop. It uses the official client, whose operations
// it runs on goroutines of its own: as many at a time as the pool may have connections. An
// idle client does not keep the loop alive; a pending operation and an open [Cursor] do. All
// methods may be called from any goroutine and from any callback.
type Client struct {
	loop    *eventloop.Loop
	owner   *eventloop.Owner
	workers *eventloop.Workers
	mongo   *mongo.Client
}

// Connect returns a client. It does not wait for a server: operations do, for
// ServerSelectionTimeout at most, by default 30 s. Options that the official client refuses
// are an error.
//
// Unless the options have a Dialer, connections are made by [eventloop.Loop.DialContext]: with
// the names, the cache and the statistics of the loop. When the loop ends, the client is
// disconnected, for which the end of the loop waits for a second at most.
//
// ApplyURI of options looks names up if the scheme is mongodb+srv, which blocks: call it
// before Run, or in a function of [eventloop.Work]. Connect may be called before Run, too.
func Connect(l *eventloop.Loop, opts ...*options.ClientOptions) (*Client, error) {
	o := *options.MergeClientOptions(opts...) // a copy
	if o.Dialer == nil {
		o.Dialer = l
	}
	mc, err := mongo.Connect(&o)
	if err != nil {
		return nil, fmt.Errorf("mongoloop: %w", err)
	}
	n := defaultPoolSize
	if o.MaxPoolSize != nil && *o.MaxPoolSize > 0 && *o.MaxPoolSize < 1<<16 {
		n = int(*o.MaxPoolSize)
	}
	c := &Client{loop: l, mongo: mc, workers: eventloop.NewWorkers(l, n, Kind)}
	// The end of the loop disconnects in an exit callback, when the operations that run have
	// ended by the end of their contexts: Disconnect would wait for them. The callback is not
	// registered before, because the loop would keep it, and c, after Close.
	c.owner, err = eventloop.NewOwner(l, Kind, "client", func(error) { l.OnExit(func() { c.disconnect() }) })
	if err != nil {
		c.disconnect()
		return nil, err
	}
	return c, nil
}

func (c *Client) disconnect() error {
	ctx, cancel := context.WithTimeout(context.Background(), disconnectTime)
	defer cancel()
	return c.mongo.Disconnect(ctx)
}

// Loop returns the loop of the client.
func (c *Client) Loop() *eventloop.Loop { return c.loop }

// Mongo returns the official client, for what this package does not have. Its operations
// block: call them on other goroutines than the loop's, by [Do] for example.
func (c *Client) Mongo() *mongo.Client { return c.mongo }

// Ping asks the server, which the read preference of the client selects, for an answer.
func (c *Client) Ping(ctx context.Context) *eventloop.Future[struct{}] {
	return Do(ctx, c, func(ctx context.Context, mc *mongo.Client) (struct{}, error) {
		return struct{}{}, mc.Ping(ctx, nil)
	})
}

// Close disconnects the client: it waits until the connections that are in use are free, or
// for a second, and closes them. Operations that are not over then fail, and later ones fail
// with an error that matches mongo.ErrClientDisconnected. Close of a client that is closed
// has that error.
//
// Before Run, the future has its result at once. When the loop ends before the result is
// there, the future fails with [eventloop.ErrLoopClosed], and the end of the loop disconnects
// the client.
func (c *Client) Close() *eventloop.Future[struct{}] {
	f, resolve := eventloop.NewFuture[struct{}](c.loop)
	work := eventloop.Work(context.Background(), c.loop, func(context.Context) (struct{}, error) { return struct{}{}, c.close() })
	if _, err := work.Result(); errors.Is(err, eventloop.ErrNotRunning) {
		resolve(struct{}{}, c.close()) // no operation can have begun for which it would wait
		return f
	}
	work.Then(resolve)
	return f
}

func (c *Client) close() error {
	err := c.disconnect()
	c.owner.Close()
	return err
}

// Do calls f with the official client on a goroutine of c, and returns a future of its
// result: for transactions, GridFS, change streams, indexes, and all that has no method here.
// f MUST NOT touch what belongs to the loop. See [eventloop.WorkOn] for the context and for
// panics. An error is that of f; if ctx has ended, it also matches context.Cause(ctx).
func Do[R any](ctx context.Context, c *Client, f func(ctx context.Context, mc *mongo.Client) (R, error)) *eventloop.Future[R] {
	return eventloop.WorkOn(ctx, c.workers, func(ctx context.Context) (R, error) {
		v, err := f(ctx, c.mongo)
		return v, withCause(ctx, err)
	})
}

// An Error is the error of an operation. It wraps that of the official client, for which
// errors.Is and errors.As work, as do mongo.IsTimeout, mongo.IsNetworkError and
// mongo.IsDuplicateKeyError. A FindOne that finds nothing matches mongo.ErrNoDocuments. If the
// server refuses the credentials, errors.As finds a mongo.CommandError with Code 18. The
// official client then clears its pool; other operations fail, until the pool is ready again,
// with an error of that client that only says so in its message.
type Error struct {
	Op         string // the name of the method
	Collection string // with its database: "app.users"
	Err        error
}

func (e *Error) Error() string {
	return fmt.Sprintf("mongoloop: %s in %s: %v", e.Op, e.Collection, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// withCause makes err, the result of a function with the context ctx, match the cause of
// ctx, if ctx has ended.
func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return errors.Join(cause, err)
	}
	return err
}
