// Package mongoloop is a MongoDB client for programs on an event loop, built on the official
// client, mongo-driver. It has typed collections with operations that return futures, and
// cursors as streams.
//
//	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
//		c, err := mongoloop.Connect(l, options.Client().ApplyURI("mongodb://127.0.0.1"))
//		if err != nil {
//			return err
//		}
//		users := mongoloop.In[User](c, "app", "users")
//		users.FindOne(ctx, bson.M{"_id": 7}).Then(func(u User, err error) { fmt.Println(u.Name, err) })
//		return nil
//	})
//
// # Operations
//
// A [Collection] has the operations of the official client, with its filters, updates,
// options and results. Documents are values of its type. They are encoded and decoded off
// the loop.
//
// [Collection.Find] and [Aggregate] deliver documents to callbacks, and return a [Cursor]
// that can pause and close the delivery. [Collection.All] and [AggregateAll] are iterators
// for tasks. The next batch is requested when the current one has been consumed.
//
// [Do] is for all other operations: it calls a function with the official client on a
// goroutine of this client. There are examples of transactions, change streams and GridFS.
//
// # Lifetime
//
// The client connects with its first operation. An idle client does not keep the loop alive;
// an operation and an open cursor do. When the loop ends, operations fail with
// [eventloop.ErrLoopClosed], and the client is disconnected: no goroutine or connection is
// left. The official client may try to connect at any time; an attempt keeps the loop alive
// until it has finished.
//
// # Errors
//
// An error is an [*Error] with the operation and the collection. It wraps the error of the
// official client. A document that does not fit the type is a [*DecodeError]. The package
// adds no retries to those of the official client: see RetryReads and RetryWrites of its
// options.
//
// # Why the official client
//
// A server replies to the requests of a connection one by one, so pipelining gains nothing.
// A new client would save only the switch of goroutines, and would have to reimplement
// replica set discovery, sessions, retries and authentication. The pools and monitors of
// the official client are goroutines, so it does not run in a task: it runs on workers.
package mongoloop
