package mongoloop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/onloop/eventloop"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// Kind is the Kind of clients and cursors in [eventloop.Loop.Handles].
const Kind = "mongo"

// defaultPoolSize is MaxPoolSize of the official client if it is not set.
const defaultPoolSize = 100

// disconnectTime is the maximum time for which the end of a loop waits for the official
// client, so that a server that does not respond cannot delay it.
const disconnectTime = time.Second

// A Client is a client of MongoDB on a loop. It runs the operations of the official client
// on its own goroutines, at most one per connection of the pool. An idle client does not
// keep the loop alive; a pending operation and an open [Cursor] do. All methods may be
// called from any goroutine and from any callback.
type Client struct {
	loop    *eventloop.Loop
	owner   *eventloop.Owner
	workers *eventloop.Workers
	mongo   *mongo.Client
}

// Connect returns a client. It does not wait for a server: operations wait, for at most
// ServerSelectionTimeout, by default 30 s. Connect fails if l is nil or the official client
// rejects the options.
//
// Unless the options have a Dialer, the client dials with [eventloop.Loop.DialContext], which
// uses the resolver, the cache and the statistics of the loop. When the loop ends, it
// disconnects the client and waits for that for at most a second.
//
// ApplyURI of options blocks in DNS lookups if the scheme is mongodb+srv. Call it before
// Run, or in a function of [eventloop.Work]. Connect may be called before Run, too.
func Connect(l *eventloop.Loop, opts ...*options.ClientOptions) (*Client, error) {
	if l == nil {
		return nil, errors.New("mongoloop: nil Loop")
	}
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
	// The end of the loop disconnects in an exit callback. By then the end of their contexts
	// has ended the running operations, for which Disconnect would wait. The callback is not
	// registered earlier, because the loop would keep it, and c, after Close.
	c.owner, err = eventloop.NewOwner(l, Kind, "client of "+hostsOf(&o), func(error) { l.OnExit(func() { c.disconnect() }) })
	if err != nil {
		c.disconnect()
		return nil, err
	}
	return c, nil
}

// hostsOf returns the addresses that the official client begins with.
func hostsOf(o *options.ClientOptions) string {
	if len(o.Hosts) == 0 {
		return "localhost:27017" // its default
	}
	return strings.Join(o.Hosts, ",")
}

func (c *Client) disconnect() error {
	ctx, cancel := context.WithTimeout(context.Background(), disconnectTime)
	defer cancel()
	return c.mongo.Disconnect(ctx)
}

// Loop returns the loop of the client.
func (c *Client) Loop() *eventloop.Loop { return c.loop }

// Mongo returns the official client, for operations that this package does not provide. They
// block, so call them off the loop, for example with [Do].
func (c *Client) Mongo() *mongo.Client { return c.mongo }

// Ping sends a ping to the server that the client's read preference selects.
func (c *Client) Ping(ctx context.Context) *eventloop.Future[struct{}] {
	return Do(ctx, c, func(ctx context.Context, mc *mongo.Client) (struct{}, error) {
		return struct{}{}, mc.Ping(ctx, nil)
	})
}

// Close disconnects the client. It waits until the connections in use are free, for at most
// a second, and then closes all connections. Unfinished operations then fail, and later
// operations fail with an error that matches mongo.ErrClientDisconnected. A second Close
// fails with that error, too.
//
// Before Run, the future has its result at once. If the loop ends before Close is finished,
// the future fails with [eventloop.ErrLoopClosed], and the end of the loop disconnects the
// client.
func (c *Client) Close() *eventloop.Future[struct{}] {
	f, resolve := eventloop.NewFuture[struct{}](c.loop)
	work := eventloop.Work(context.Background(), c.loop, func(context.Context) (struct{}, error) { return struct{}{}, c.close() })
	if _, err := work.Result(); errors.Is(err, eventloop.ErrNotRunning) {
		resolve(struct{}{}, c.close()) // does not wait: no operation can have begun
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
// result. Use it for transactions, GridFS, change streams, indexes, and other operations
// without a method in this package. f must not touch state that belongs to the loop. See
// [eventloop.WorkOn] for the context and for panics. The error is that of f; if ctx has
// ended, it also matches the error of ctx and its cause. If ctx ends before f is called,
// the error is the cause.
func Do[R any](ctx context.Context, c *Client, f func(ctx context.Context, mc *mongo.Client) (R, error)) *eventloop.Future[R] {
	checkClient(c)
	return eventloop.WorkOn(ctx, c.workers, func(ctx context.Context) (R, error) {
		v, err := f(ctx, c.mongo)
		return v, withContext(ctx, err)
	})
}

func checkClient(c *Client) {
	if c == nil {
		panic("mongoloop: nil Client")
	}
}

// An Error is the error of an operation. It wraps the error of the official client, so
// errors.Is, errors.As, mongo.IsTimeout, mongo.IsNetworkError and mongo.IsDuplicateKeyError
// work. A FindOne without a match matches mongo.ErrNoDocuments. If the server refuses the
// credentials, errors.As finds a mongo.CommandError with Code 18. The official client then
// clears its pool. Until the pool is ready again, other operations fail with an error of
// the official client that gives this reason only in its message.
type Error struct {
	Op         string // the name of the method
	Collection string // with its database: "app.users"
	Err        error
}

func (e *Error) Error() string {
	return fmt.Sprintf("mongoloop: %s in %s: %v", e.Op, e.Collection, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// withContext makes err, the result of a function with the context ctx, match the error of
// ctx and its cause, if ctx has ended. The error of the official client does not match the
// cause, and not always the error of ctx.
func withContext(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	for _, end := range []error{ctx.Err(), context.Cause(ctx)} {
		if end != nil && !errors.Is(err, end) {
			err = fmt.Errorf("%w: %w", err, end)
		}
	}
	return err
}
