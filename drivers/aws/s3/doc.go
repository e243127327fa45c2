// Package s3loop uploads to and downloads from Amazon S3, and from servers that speak its
// protocol, as streams of a program on an event loop: with back-pressure in both directions
// and in bounded memory, however large the object.
//
//	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
//		c := s3.NewFromConfig(awsloop.Config(l, cfg))
//		s3loop.Download(ctx, l, c, &s3.GetObjectInput{Bucket: &bucket, Key: &key},
//			func(p []byte) { fmt.Println(len(p)) },
//			func(err error) { fmt.Println("end:", err) }, nil)
//		return nil
//	})
//
// All that is not a stream, from ListObjectsV2 to DeleteObject, is a call: see package
// awsloop. So is presigning: awsloop.Call(ctx, w, s3.NewPresignClient(c).PresignGetObject, in).
// The HTTP client of the loop gets and puts presigned URLs; there is an example.
//
// # Downloads
//
// [Download] delivers an object to callbacks, [Pieces] to a loop in a task, [DownloadTo] to
// an io.Writer off the loop. A download whose connection breaks goes on where it was, as long
// as the object is the same, which is told by its ETag. It is one request at a time: to get
// ranges of one object in parallel, download them with a Range each.
//
// # Uploads
//
// [Upload] stores what the loop writes, [UploadFrom] what an io.Reader gives. Large content
// becomes a multipart upload by the SDK's transfer manager. No object appears before all of
// it is stored, and none if the upload fails.
//
// # Errors
//
// An error of a transfer is an [*Error] with the operation, the bucket, the key and the
// number of bytes that were transferred. It wraps the error of the SDK.
package s3loop
