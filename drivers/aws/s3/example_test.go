package s3loop_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
	s3loop "github.com/onloop/eventloop/drivers/aws/s3"
)

// withS3 runs f on a loop, with workers and a client of a server that has one object,
// "greeting".
func withS3(f func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client)) {
	server := newServer()
	defer server.Close()
	server.put("greeting", []byte("hello, s3"))
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		f(l, eventloop.NewWorkers(l, 8, "s3"), server.client(l))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

func Example() {
	server := newServer() // instead of Amazon's
	defer server.Close()
	server.put("greeting", []byte("hello, s3"))
	cfg := aws.Config{Region: "us-east-1", Credentials: aws.AnonymousCredentials{}, BaseEndpoint: &server.URL}
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		c := s3.NewFromConfig(awsloop.Config(l, cfg), func(o *s3.Options) { o.UsePathStyle = true })
		in := &s3.GetObjectInput{Bucket: aws.String("films"), Key: aws.String("greeting")}
		s3loop.Download(ctx, l, c, in,
			func(p []byte) { fmt.Printf("%s\n", p) },
			func(err error) { fmt.Println("end:", err) }, nil)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// hello, s3
	// end: <nil>
}

func ExampleDownload() {
	withS3(func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		in := &s3.GetObjectInput{Bucket: aws.String("films"), Key: aws.String("greeting"), Range: aws.String("bytes=7-8")}
		var d *eventloop.Reader
		d = s3loop.Download(context.Background(), l, c, in, func(p []byte) {
			fmt.Printf("%s\n", p)
			d.Pause() // what is slow to take the data holds up the server
			l.AfterFunc(time.Millisecond, d.Resume)
		}, func(err error) {
			fmt.Println("end:", err)
		}, &s3loop.DownloadOptions{OnHead: func(h *s3.GetObjectOutput) { fmt.Println(*h.ContentLength, "bytes") }})
	})
	// Output:
	// 2 bytes
	// s3
	// end: <nil>
}

func ExampleDownload_missing() {
	withS3(func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		in := &s3.GetObjectInput{Bucket: aws.String("films"), Key: aws.String("sequel")}
		s3loop.Download(context.Background(), l, c, in, func([]byte) {}, func(err error) {
			_, missing := errors.AsType[*types.NoSuchKey](err)
			fmt.Println(missing)
		}, nil)
	})
	// Output: true
}

func ExampleDownloadTo() {
	withS3(func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		sum := md5.New()
		in := &s3.GetObjectInput{Bucket: aws.String("films"), Key: aws.String("greeting")}
		s3loop.DownloadTo(context.Background(), w, c, in, sum, nil).Then(func(head *s3.GetObjectOutput, err error) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(*head.ETag == fmt.Sprintf(`"%x"`, sum.Sum(nil)))
		})
	})
	// Output: true
}

func ExamplePieces() {
	withS3(func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			in := &s3.GetObjectInput{Bucket: aws.String("films"), Key: aws.String("greeting")}
			for p, err := range s3loop.Pieces(t, w, c, in, nil) {
				if err != nil {
					return err
				}
				fmt.Printf("%s\n", p)
			}
			return nil
		})
	})
	// Output: hello, s3
}

func ExampleUpload() {
	withS3(func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		in := &s3loop.UploadInput{Bucket: aws.String("films"), Key: aws.String("numbers"), ContentType: aws.String("text/plain")}
		body, stored := s3loop.Upload(context.Background(), w, c, in)
		n := 0
		body.OnDrain(func() { // at first, and whenever all is taken
			for ; n < 100_000 && !body.NeedDrain(); n++ {
				fmt.Fprintln(body, n)
			}
			if n == 100_000 {
				body.Close()
			}
		})
		stored.Then(func(out *s3loop.UploadOutput, err error) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(*out.ContentLength, "bytes")
		})
	})
	// Output: 588890 bytes
}

func ExampleUploadFrom() {
	withS3(func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		file, err := os.Open("example_test.go")
		if err != nil {
			log.Fatal(err)
		}
		in := &s3loop.UploadInput{Bucket: aws.String("films"), Key: aws.String("source"), Body: file} // it will be closed
		opts := func(o *s3loop.UploadOptions) { o.Concurrency = 2 }
		s3loop.UploadFrom(context.Background(), w, c, in, opts).Then(func(_ *s3loop.UploadOutput, err error) {
			fmt.Println("stored:", err)
		})
	})
	// Output: stored: <nil>
}

// All operations that are not streams are calls.
func Example_calls() {
	withS3(func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			put := &s3.PutObjectInput{Bucket: aws.String("films"), Key: aws.String("small"), Body: strings.NewReader("x")}
			if _, err := awsloop.Call(t.Context(), w, c.PutObject, put).Await(t); err != nil {
				return err
			}
			pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: aws.String("films")})
			for page, err := range awsloop.AllPages(t, w, pages) {
				if err != nil {
					return err
				}
				for _, o := range page.Contents {
					fmt.Println(*o.Key, *o.Size)
				}
			}
			return nil
		})
	})
	// Output:
	// greeting 9
	// small 1
}

// A presigned URL needs no credentials: the HTTP client of the loop, or a browser, gets it.
func Example_presignedURL() {
	withS3(func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		in := &s3.GetObjectInput{Bucket: aws.String("films"), Key: aws.String("greeting")}
		presign := s3.NewPresignClient(c).PresignGetObject
		hour := s3.WithPresignExpires(time.Hour)
		awsloop.Call(context.Background(), w, presign, in, hour).Then(func(req *v4.PresignedHTTPRequest, err error) {
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(strings.Contains(req.URL, "X-Amz-Expires=3600"))
			l.HTTP().Get(context.Background(), req.URL).Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil {
					fmt.Println(err)
					return
				}
				fmt.Println(res.Status, string(bytes.TrimSpace(res.Body)))
			})
		})
	})
	// Output:
	// true
	// 200 hello, s3
}
