// Package redis is a client of Redis, and of servers that speak its protocol, for
// programs on an event loop.
//
// A [Client] belongs to a loop. Its methods return futures at once: nothing blocks, and
// callbacks run on the loop, in the order of the replies.
//
//	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
//		c, err := redis.New(l, &redis.Options{Addr: "127.0.0.1:6379"})
//		if err != nil {
//			return err
//		}
//		c.Set(ctx, "greeting", "hello, redis").Ignore()
//		c.Get(ctx, "greeting").Then(func(v string, err error) {
//			fmt.Println(v, err) // hello, redis <nil>
//		})
//		return nil
//	})
//
// # Commands
//
// The common commands are methods of [Commands], which a Client embeds. [Do] sends any
// command and converts the reply to a Go value: a struct for HGETALL, a slice of integers,
// and so on. [Client.Send] sends a command and drops the reply.
//
// Commands are pipelined automatically. The client sends the commands of one turn of the
// loop in one write, over one connection, and handles replies that arrive together in one
// batch. No timer delays a command.
//
// Blocking commands, such as BLPOP, have their own connection while they wait, so they do
// not delay other commands. Their order relative to other commands is not defined.
//
// # Lifetime
//
// The client connects with its first command. An idle client does not keep the loop
// alive; a pending command does, as do an open [Subscription] and an open [Consumer].
// [Client.Close] waits for pending commands, [Client.Abort] does not.
//
// If the connection is lost, the client reconnects when there is a command to send, after
// a delay that grows with each failure. It sets the user, name and database before it
// sends any command.
//
// # Errors
//
//   - An error reply of the server is an [*Error].
//   - A nil reply to a command whose result cannot be nil is [ErrNil].
//   - Errors of the connection are an [*eventloop.OpError]. They match
//     [eventloop.ErrTimeout], [eventloop.ErrRefused] and the other sentinels.
//   - [ErrUncertain] matches the error of a command that was sent and has no reply: the
//     server may have executed it. The client never sends such a command again: only the
//     application knows whether that is safe. A command that fails with any other error
//     was not executed, or has an error reply.
//   - A command beyond Options.MaxPending fails with [eventloop.ErrBufferFull] at once.
//   - A call after [Client.Close] or [Client.Abort] fails with an [*eventloop.OpError] that
//     matches [net.ErrClosed], and so does a command that Abort ends.
//
// A command that is canceled by its context fails at once, with an error that matches the
// error of the context and its cause. If it was sent, the client drops
// its reply on arrival, and never matches that reply to another command.
//
// Every command has a timeout, by default 5 s from the call. When a reply is overdue, the
// client closes the connection, because no later reply can overtake it.
//
// # Transactions and scripts
//
// [Client.Tx] collects commands and executes them atomically. It uses the shared
// connection. [Client.Watch] does optimistic locking: it retries a transaction if a watched
// key has changed. [Session] has its own connection, for commands that change the state of
// a connection. [Script] runs a Lua script by its hash.
//
// # Messages and streams
//
// [Client.Subscribe] receives messages of channels, patterns and shards. Messages that are
// published while the connection is down are lost, and OnGap reports the gap.
// [Client.Consume] reads a stream as a member of a consumer group, with a limit on the
// unsettled entries.
//
// # Goroutines
//
// All methods may be called from any goroutine and from any callback. Iterators
// ([Commands.Scan], [Subscription.All]) and [Client.Watch] are for tasks.
//
// # Limitations
//
// The package does not support Redis Cluster, Sentinel and client-side caching. For these,
// use rueidis in functions of [eventloop.Work].
package redis
