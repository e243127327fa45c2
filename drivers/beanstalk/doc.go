// Package beanstalk is a client of beanstalkd, a work queue, for programs on an event
// loop. It speaks protocol 1.12.
//
// A [Client] belongs to a loop. Its methods return futures at once: nothing blocks, and
// callbacks run on the loop.
//
//	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
//		c, err := beanstalk.New(l, &beanstalk.Options{Addr: "127.0.0.1:11300"})
//		if err != nil {
//			return err
//		}
//		c.Put(ctx, "mails", []byte("to ann"), beanstalk.PutOptions{}).Ignore()
//		_, err = c.Consume(beanstalk.ConsumeOptions{
//			Tubes: []string{"mails"},
//			OnJob: func(j *beanstalk.Job) {
//				fmt.Printf("%s\n", j.Body)
//				j.Delete()
//			},
//		})
//		return err
//	})
//
// # Producing
//
// [Client.Put] adds a job to a tube. All commands share one connection. The driver sends
// the commands of one turn of the loop in one write, and sends "use" only when the tube
// changes.
//
// # Consuming
//
// [Client.Consume] reserves jobs and calls a function with each. The application settles
// a job with [Job.Delete], [Job.Release] or [Job.Bury], at any time. It has at most
// ConsumeOptions.Parallel jobs at a time. The driver sends the command that settles
// a job and the reserve command for the next job in one write, so a job costs one round
// trip.
//
// A job has a time to run. While the application has the job, the driver extends this
// time. If the program or its connection ends, the server gives the job to another
// consumer. So a job may run twice. If a second run would do harm, the application must
// detect it.
//
// # Lifetime
//
// The client connects with its first command. An idle client does not keep the loop
// alive; a pending command, a consumer and an unsettled job do. [Consumer.Close],
// [Client.Close] and Loop.Shutdown wait for the jobs that the application has. Abort waits
// for nothing.
//
// If a connection is lost, the driver reconnects after a delay that grows with each
// failure: for commands, when there is a command to send; for a consumer, always.
//
// # Errors
//
//   - Error replies of the server are sentinels, such as [ErrNotFound].
//   - Errors of a connection are an [*eventloop.OpError]. They match
//     [eventloop.ErrTimeout], [eventloop.ErrRefused] and the other sentinels.
//   - [ErrUncertain] matches the error of a command that was sent and has no reply: the
//     server may have executed it. The driver never sends such a command again: only the
//     application knows whether that is safe.
//   - A command beyond Options.MaxPending fails with [eventloop.ErrBufferFull] at once.
//   - A call after [Client.Close] or [Client.Abort] fails with an [*eventloop.OpError] that
//     matches [net.ErrClosed], and so does a command that Abort ends.
//
// A command whose context ends fails at once. If it was sent, the driver drops its reply
// on arrival, and never matches that reply to another command. Every command has a
// timeout, by default 5 s from the call. An overdue reply ends its connection, because no
// later reply can arrive before it.
//
// The commands list-tube-used and list-tubes-watched have no method: they concern a
// connection, and the driver manages its connections itself.
package beanstalk
