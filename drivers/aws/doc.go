// Package awsloop calls Amazon Web Services from programs on an event loop, by the official
// SDK, aws-sdk-go-v2: every operation of every service as a future.
//
//	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
//		c := cloudfront.NewFromConfig(awsloop.Config(l, cfg))
//		w := eventloop.NewWorkers(l, 8, "cloudfront")
//		awsloop.Call(ctx, w, c.CreateInvalidation, in).Then(func(out *cloudfront.CreateInvalidationOutput, err error) {
//			fmt.Println(*out.Invalidation.Id, err)
//		})
//		return nil
//	})
//
// The SDK is the SDK: clients, inputs, outputs, errors, credentials, retries and
// middleware are used as everywhere else. The package only moves the calls off the loop and
// the results onto it. Package s3loop, in a module of its own, adds uploads and downloads of
// S3 as streams.
//
// # Connections
//
// [Config] makes the SDK send its requests through the HTTP client of the loop. The SDK also
// works with its own, which Config replaces; then it leaves connections open, and their
// goroutines, when the loop ends.
//
// # Goroutines
//
// The calls run on [eventloop.Workers]. Give each service, or each purpose, Workers of its
// own: then a service that is slow holds up neither the others nor other functions of
// [eventloop.Work]. An operation occupies a goroutine until its end, which includes the time
// that the SDK waits before it repeats a request.
//
// An operation must not be called in a callback, where it fails with
// [eventloop.ErrOnLoop], nor directly in a task, although that seems to work: the SDK sleeps
// between attempts, and the loop would sleep with it; and it may wait for a goroutine of its
// own that fetches credentials, which would wait for the loop.
//
// # Lifetime
//
// A pending call keeps the loop alive. When the loop ends by force, the context of each call
// ends, and its future fails with [eventloop.ErrLoopClosed]. To read the configuration, call
// config.LoadDefaultConfig in a function of [eventloop.Work]: it reads files and may send
// requests.
//
// # CloudFront
//
// Invalidations are operations like others. Signed URLs and signed cookies are computed by
// package feature/cloudfront/sign of the SDK, without any request: call it anywhere. There
// are examples of both.
package awsloop
