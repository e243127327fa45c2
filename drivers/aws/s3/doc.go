// Package s3loop uploads to and downloads from Amazon S3 and compatible servers, as streams
// for programs on an event loop: with back-pressure in both directions, and in bounded
// memory, however large the object.
//
//	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
//		c := s3.NewFromConfig(awsloop.Config(l, cfg))
//		s3loop.Download(ctx, l, c, &s3.GetObjectInput{Bucket: &bucket, Key: &key},
//			func(p []byte) { fmt.Println(len(p)) },
//			func(err error) { fmt.Println("end:", err) }, nil)
//		return nil
//	})
//
// For operations that are not streams, from ListObjectsV2 to DeleteObject, and for
// presigning, use package awsloop:
//
//	awsloop.Call(ctx, w, s3.NewPresignClient(c).PresignGetObject, in)
//
// The HTTP client of the loop can get and put presigned URLs; there is an example.
//
// # Downloads
//
// [Download] delivers an object to callbacks, [Pieces] to a loop in a task, [DownloadTo] to
// an io.Writer off the loop. After a broken connection, a download resumes at the current
// offset if the ETag shows that the object is unchanged. A download sends one request at a
// time: to get ranges of one object in parallel, start one download per Range.
//
// # Uploads
//
// [Upload] stores data that the loop writes, [UploadFrom] the content of an io.Reader. The
// SDK's transfer manager splits large content into a multipart upload. The object appears
// only when it is stored completely, and not at all if the upload fails.
//
// # Errors
//
// An error of a transfer is an [*Error] with the operation, the bucket, the key and the
// number of bytes that were transferred. It wraps the error of the SDK.
package s3loop
