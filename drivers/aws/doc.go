// Package awsloop calls Amazon Web Services from programs on an event loop, through the
// official SDK, aws-sdk-go-v2. Every operation of every service returns a future.
//
//	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
//		c := cloudfront.NewFromConfig(awsloop.Config(l, cfg))
//		w := eventloop.NewWorkers(l, 8, "cloudfront")
//		f := awsloop.Call(ctx, w, c.CreateInvalidation, in)
//		f.Then(func(out *cloudfront.CreateInvalidationOutput, err error) {
//			fmt.Println(out, err)
//		})
//		return nil
//	})
//
// Clients, inputs, outputs, errors, credentials, retries and middleware of the SDK work as
// usual. The package only moves the calls off the loop and the results onto it. Package
// s3loop, in a separate module, adds S3 uploads and downloads as streams.
//
// # Connections
//
// [Config] makes the SDK send its requests through the HTTP client of the loop. The SDK also
// works with its own HTTP client, which Config replaces. But open connections of that client
// and their goroutines outlive the loop.
//
// # Goroutines
//
// The calls run on [eventloop.Workers]. Give each service, or each purpose, its own Workers:
// then a slow service delays neither the others nor other functions of [eventloop.Work]. An
// operation occupies a goroutine until its end, including the time that the SDK waits before
// a retry.
//
// Do not call an operation in a callback, where it fails with [eventloop.ErrOnLoop], or
// directly in a task, although that seems to work. The SDK sleeps between attempts, which
// would block the loop. It may also wait for its own goroutine that fetches credentials,
// which would wait for the loop.
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
// Invalidations are ordinary operations. Package feature/cloudfront/sign of the SDK computes
// signed URLs and signed cookies without any request: call it anywhere. There are examples
// of both.
package awsloop
