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
// [Client.Put] adds a job to a tube. All commands share one connection: what one turn of
// the loop asks for leaves in one write, and the driver sends "use" only when the tube
// changes.
//
// # Consuming
//
// [Client.Consume] reserves jobs and calls a function with each. The application settles
// a job with [Job.Delete], [Job.Release] or [Job.Bury], at any time. It has up to
// ConsumeOptions.Parallel jobs at a time: that is the back-pressure. The command that
// settles a job and the one that asks for the next leave in one write, so a job costs one
// round trip.
//
// A job has a time to run. While the application has the job, the driver extends this
// time. If the program or its connection ends, the server gives the job to another
// consumer. So a job may run twice: if the second run would do harm, the application has
// to notice it.
//
// # Lifetime
//
// The client connects with its first command. An idle client does not keep the loop
// alive; a pending command, a consumer and a job that is not settled do.
// [Consumer.Close] waits for the jobs that the application has, and so do [Client.Close]
// and Loop.Shutdown. Abort waits for nothing.
//
// If a connection is lost, the driver connects again after a time that grows with each
// failure: for commands when there is one to send, for a consumer always.
//
// # Errors
//
//   - Error replies of the server are sentinels, such as [ErrNotFound].
//   - Errors of a connection are an [*eventloop.OpError]. They match
//     [eventloop.ErrTimeout], [eventloop.ErrRefused] and the other sentinels.
//   - [ErrUncertain] matches the error of a command that was sent and has no reply: the
//     server may have executed it. It is never sent again; whether that is right, only
//     the application knows.
//   - A command beyond Options.MaxPending fails with [eventloop.ErrBufferFull] at once.
//
// A command whose context ends fails at once. If it was sent, its reply is dropped when
// it comes, and never becomes that of another command. Every command has a timeout, by
// default 5 s from the call. An overdue reply ends its connection, because no later reply
// can come before it.
//
// The commands list-tube-used and list-tubes-watched, which ask about a connection, have
// no method: the driver manages its connections itself.
package beanstalk
