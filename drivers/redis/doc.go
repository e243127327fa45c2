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
// The common commands are methods of [Commands], which a Client has. Any command can be
// sent with [Do], which converts the reply to a Go value: a struct for HGETALL, a slice
// of integers, and so on. [Client.Send] sends a command whose reply is of no interest.
//
// Commands are pipelined by themselves: what one turn of the loop asks for leaves in one
// write, over one connection, and the replies that arrive together are handled
// together. No timer delays a command.
//
// Commands that wait at the server, such as BLPOP, have a connection of their own while
// they wait, so they delay no others. Their order relative to other commands is not
// defined.
//
// # Lifetime
//
// The client connects with its first command. An idle client does not keep the loop
// alive; a pending command does, as do an open [Subscription] and an open [Consumer].
// [Client.Close] waits for pending commands, [Client.Abort] does not.
//
// If the connection is lost, the client connects again when there is something to send,
// after a time that grows with each failure. User, name and database are set before any
// command goes out.
//
// # Errors
//
//   - An error reply of the server is an [*Error].
//   - A nil reply to a command whose result cannot be nil is [ErrNil].
//   - Errors of the connection are an [*eventloop.OpError]. They match
//     [eventloop.ErrTimeout], [eventloop.ErrRefused] and the other sentinels.
//   - [ErrUncertain] matches the error of a command that was sent and has no reply: the
//     server may have executed it. The client never sends such a command again; whether
//     that is right, only the application knows. A command that fails with any other
//     error was not executed, or has an error reply.
//   - More commands than Options.MaxPending fail with [eventloop.ErrBufferFull] at once.
//
// A command that is canceled by its context fails at once. Its reply, if the command was
// sent, is dropped when it comes, and never becomes that of another command.
//
// Every command has a timeout, by default 5 s from the call. When a reply is overdue,
// the connection is given up, because no later reply can overtake it.
//
// # Transactions and scripts
//
// [Client.Tx] collects commands and executes them as a whole. It needs no connection of
// its own. [Client.Watch] does optimistic locking: it runs a transaction again if what
// it has read has changed. [Session] is a connection of its own, for all that changes
// the state of a connection. [Script] runs Lua by its hash.
//
// # Messages and streams
//
// [Client.Subscribe] gets messages of channels, patterns and shards. Messages that are
// published while the connection is down are lost, and OnGap says so.
// [Client.Consume] reads a stream as a member of a consumer group, with a bound of the
// entries that are in the hands of the application.
//
// # Goroutines
//
// All methods may be called from any goroutine and from any callback. Iterators
// ([Commands.Scan], [Subscription.All]) and [Client.Watch] are for tasks.
//
// # What it is not
//
// There is no support for Redis Cluster, Sentinel and client-side caching. For these
// use rueidis in functions of [eventloop.Work].
package redis
