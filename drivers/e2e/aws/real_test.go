package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
	s3loop "github.com/onloop/eventloop/drivers/aws/s3"
)

// watchdogTime is when something that should have ended is taken to hang.
const watchdogTime = 2 * time.Minute

var shared = sync.OnceValues(newServer) // stopped by TestMain

// on runs f on a loop, with a client of the shared server.
func on(t *testing.T, f func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client)) {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	onServer(t, s, f)
}

func onServer(t *testing.T, s *server, f func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client)) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), watchdogTime, errors.New("the loop hangs"))
	defer cancel()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		f(l, eventloop.NewWorkers(l, 8, "s3"), s3.NewFromConfig(awsloop.Config(l, config(s.Addr)), pathStyle))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A content is n bytes that look random, and their hash.
func content(n int64) (r io.Reader, sum func() [32]byte) {
	h := sha256.New()
	return io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{7}), n), h), func() [32]byte { return [32]byte(h.Sum(nil)) }
}

func TestAMultipartUploadComesBack(t *testing.T) {
	const size = 50 << 20 // seven parts, the last of them short
	steps := 0
	on(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		source, sum := content(size)
		writer, f := s3loop.Upload(context.Background(), w, c, &s3loop.UploadInput{Bucket: aws.String(bucket), Key: aws.String("multipart")})
		buf := make([]byte, 100_000)
		writer.OnDrain(func() {
			for !writer.NeedDrain() {
				n, err := source.Read(buf)
				writer.Write(buf[:n])
				if err == io.EOF {
					writer.Close()
					return
				}
			}
		})
		f.Then(func(out *s3loop.UploadOutput, err error) {
			if steps++; err != nil || aws.ToInt64(out.ContentLength) != size {
				t.Errorf("%+v, %v", out, err)
				return
			}
			if !strings.HasSuffix(strings.Trim(*out.ETag, `"`), "-7") {
				t.Errorf("not seven parts: %s", *out.ETag)
			}
			h := sha256.New()
			s3loop.Download(context.Background(), l, c, input("multipart"), func(p []byte) { h.Write(p) }, func(err error) {
				if steps++; err != nil || [32]byte(h.Sum(nil)) != sum() {
					t.Errorf("the content is another: %v", err)
				}
			}, nil)
		})
	})
	if steps != 2 {
		t.Errorf("%d steps, want 2", steps)
	}
}

func TestRangesAndPresignedURLs(t *testing.T) {
	steps := 0
	on(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		l.Go(context.Background(), func(task *eventloop.Task) error {
			ctx := task.Context()
			presign := s3.NewPresignClient(c)
			put, err := awsloop.Call(ctx, w, presign.PresignPutObject, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("presigned")}).Await(task)
			if err != nil {
				return err
			}
			res, err := l.HTTP().Do(ctx, put.Method, put.URL, &eventloop.HTTPOptions{Body: []byte("0123456789")}).Await(task)
			if err != nil || res.Status != 200 {
				return fmt.Errorf("PUT: %v, %w", res, err)
			}
			in := input("presigned")
			in.Range = aws.String("bytes=3-5")
			var got []byte
			for p, err := range s3loop.Pieces(task, w, c, in, nil) {
				if err != nil {
					return err
				}
				got = append(got, p...)
			}
			if string(got) != "345" {
				t.Errorf("range: %q", got)
			}
			var req *v4.PresignedHTTPRequest
			if req, err = awsloop.Call(ctx, w, presign.PresignGetObject, input("presigned")).Await(task); err != nil {
				return err
			}
			if res, err = l.HTTP().Get(ctx, req.URL).Await(task); err != nil || string(res.Body) != "0123456789" {
				t.Errorf("GET: %v, %v", res, err)
			}
			if res, err = l.HTTP().Get(ctx, req.URL+"0").Await(task); err != nil || res.Status != 403 {
				t.Errorf("GET with a wrong signature: %v, %v", res, err)
			}
			steps++
			return nil
		})
	})
	if steps != 1 {
		t.Error("the task failed")
	}
}

func TestWrongCredentialsAreATypedError(t *testing.T) {
	results := 0
	on(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		wrong := s3.New(c.Options(), func(o *s3.Options) {
			o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "WRONG"}, nil
			})
		})
		check := func(what string, err error) {
			results++
			if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != "SignatureDoesNotMatch" {
				t.Errorf("%s: %v", what, err)
			}
		}
		ctx := context.Background()
		awsloop.Call(ctx, w, wrong.ListBuckets, nil).Then(func(_ *s3.ListBucketsOutput, err error) { check("call", err) })
		s3loop.Download(ctx, l, wrong, input(small), func([]byte) {}, func(err error) { check("download", err) }, nil)
		writer, f := s3loop.Upload(ctx, w, wrong, &s3loop.UploadInput{Bucket: aws.String(bucket), Key: aws.String("x")})
		writer.Close()
		f.Then(func(_ *s3loop.UploadOutput, err error) { check("upload", err) })
	})
	if results != 3 {
		t.Errorf("%d results, want 3", results)
	}
}

func TestMissingBucketsAndKeys(t *testing.T) {
	results := 0
	on(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		s3loop.Download(context.Background(), l, c, input("missing"), func([]byte) {}, func(err error) {
			results++
			if _, ok := errors.AsType[*types.NoSuchKey](err); !ok {
				t.Error(err)
			}
		}, nil)
		in := &s3loop.UploadInput{Bucket: aws.String("nowhere"), Key: aws.String("x"), Body: strings.NewReader("x")}
		s3loop.UploadFrom(context.Background(), w, c, in).Then(func(_ *s3loop.UploadOutput, err error) {
			results++
			if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != "NoSuchBucket" {
				t.Error(err)
			}
		})
	})
	if results != 2 {
		t.Errorf("%d results, want 2", results)
	}
}

// The server dies in the middle of a download, and comes back, with the same object or with
// another one.
func TestADownloadOutlivesItsServer(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		s, err := newServer()
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, 20<<20)
		rand.NewChaCha8([32]byte{8}).Read(body)
		put := func(b []byte) {
			_, err := s3.NewFromConfig(config(s.Addr), pathStyle).PutObject(context.Background(), &s3.PutObjectInput{
				Bucket: aws.String(bucket), Key: aws.String("film"), Body: bytes.NewReader(b)})
			if err != nil {
				t.Error(err)
			}
		}
		put(body)
		var got bytes.Buffer
		ends := 0
		onServer(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
			var d *eventloop.Reader
			died := false
			d = s3loop.Download(context.Background(), l, c, input("film"), func(p []byte) {
				if got.Write(p); died || got.Len() < 1<<20 {
					return
				}
				died = true
				d.Pause()
				eventloop.Work(context.Background(), l, func(context.Context) (struct{}, error) {
					s.Kill()
					err := s.Restart()
					if replaced && err == nil {
						put(body[1:])
					}
					return struct{}{}, err
				}).Then(func(_ struct{}, err error) {
					if err != nil {
						t.Error(err)
					}
					d.Resume()
				})
			}, func(err error) {
				ends++
				switch {
				case replaced && !errors.Is(err, s3loop.ErrChanged):
					t.Errorf("%v, want ErrChanged", err)
				case !replaced && err != nil:
					t.Error(err)
				}
			}, nil)
		})
		if ends != 1 || !bytes.Equal(got.Bytes(), body[:got.Len()]) || !replaced && got.Len() != len(body) {
			t.Errorf("replaced %v: ended %d times, got %d bytes", replaced, ends, got.Len())
		}
		s.stop()
	}
}

// The server dies for good.
func TestADownloadEndsWithItsServer(t *testing.T) {
	s, err := newServer()
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	ends := 0
	onServer(t, s, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client) {
		in := &s3loop.UploadInput{Bucket: aws.String(bucket), Key: aws.String("film"), Body: io.LimitReader(zeros{}, 20<<20)}
		s3loop.UploadFrom(context.Background(), w, c, in).Then(func(_ *s3loop.UploadOutput, err error) {
			if err != nil {
				t.Error(err)
			}
			died := false
			s3loop.Download(context.Background(), l, c, input("film"), func(p []byte) {
				if !died {
					died = true
					s.Kill()
				}
			}, func(err error) {
				ends++
				e, ok := errors.AsType[*s3loop.Error](err)
				if !ok || e.Offset == 0 || e.Offset >= 20<<20 {
					t.Errorf("%v", err)
				}
			}, &s3loop.DownloadOptions{MaxResumes: 1, Options: []func(*s3.Options){func(o *s3.Options) { o.Retryer = aws.NopRetryer{} }}})
		})
	})
	if ends != 1 {
		t.Errorf("ended %d times", ends)
	}
}
