// Package mongoloop is a client of MongoDB for programs on an event loop, by the official
// client, mongo-driver: typed collections whose operations are futures, and cursors as
// streams.
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
// [Collection.Find] and [Aggregate] deliver documents to callbacks, with a [Cursor] to pause
// and to close them. [Collection.All] and [AggregateAll] are iterators for tasks. The next
// batch is requested when the last one is used up.
//
// [Do] is for all the rest: it calls a function with the official client on a goroutine of
// this one. There are examples of transactions, change streams and GridFS.
//
// # Lifetime
//
// The client connects with its first operation. An idle client does not keep the loop alive;
// an operation and an open cursor do. When the loop ends, operations fail with
// [eventloop.ErrLoopClosed] and the client is disconnected: nothing of it is left. An attempt
// to connect, which the official client may make at any time, keeps the loop alive until it
// is over.
//
// # Errors
//
// An error is an [*Error] with the operation and the collection, around the error of the
// official client. A document that does not fit the type is a [*DecodeError]. Nothing is
// repeated beyond what the official client repeats: see RetryReads and RetryWrites of its
// options.
//
// # Why the official client
//
// Servers answer the requests of a connection one by one, so there is nothing to pipeline,
// and a client of our own would gain only the change of goroutine; discovery of replica
// sets, sessions, retries and authentication would have to be written again. Its pools and
// monitors are goroutines, so it does not run in a task: it belongs on workers.
package mongoloop
