package s3loop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/onloop/eventloop"
	awsloop "github.com/onloop/eventloop/drivers/aws"
)

// watchdogTime is when something that should have ended is taken to hang.
const watchdogTime = 2 * time.Minute

const bucket = "films"

func background() context.Context { return context.Background() }

// A server is gofakes3, in this process, with an empty bucket.
type server struct {
	*httptest.Server
	backend *s3mem.Backend
}

func newServer() *server {
	b := s3mem.New()
	if err := b.CreateBucket(bucket); err != nil {
		panic(err)
	}
	return &server{httptest.NewServer(gofakes3.New(b).Server()), b}
}

// put stores an object.
func (s *server) put(key string, content []byte) {
	_, err := s.backend.PutObject(bucket, key, nil, bytes.NewReader(content), int64(len(content)), nil)
	if err != nil {
		panic(err)
	}
}

// get returns the content of an object, or nil if there is none.
func (s *server) get(key string) []byte {
	o, err := s.backend.GetObject(bucket, key, nil)
	if err != nil {
		return nil
	}
	defer o.Contents.Close()
	b, err := io.ReadAll(o.Contents)
	if err != nil {
		panic(err)
	}
	return b
}

var anyCredentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET"}, nil
})

// openUploads returns the number of unfinished multipart uploads.
func (s *server) openUploads() int {
	c := s3.New(s3.Options{
		HTTPClient:   s.Client(),
		Region:       "us-east-1",
		BaseEndpoint: aws.String(s.URL),
		Credentials:  anyCredentials,
		UsePathStyle: true,
	})
	out, err := c.ListMultipartUploads(background(), &s3.ListMultipartUploadsInput{Bucket: aws.String(bucket)})
	if err != nil {
		panic(err)
	}
	return len(out.Uploads)
}

// client returns a client of the server on the loop.
func (s *server) client(l *eventloop.Loop) *s3.Client {
	cfg := awsloop.Config(l, aws.Config{
		Region:       "us-east-1",
		BaseEndpoint: aws.String(s.URL),
		Credentials:  anyCredentials,
	})
	return s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
}

// onLoop runs f on a loop, with workers and a client of a server of its own, and fails if
// the loop does not end.
func onLoop(t *testing.T, f func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server)) {
	t.Helper()
	s := newServer()
	defer s.Close()
	run(t, func(l *eventloop.Loop) { f(l, eventloop.NewWorkers(l, 8, "s3"), s.client(l), s) })
}

func run(t *testing.T, f func(l *eventloop.Loop)) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), watchdogTime, errors.New("the loop hangs"))
	defer cancel()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		f(l)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// randomBytes returns n bytes that are the same in each run.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// in is the input for an object.
func in(key string) *s3.GetObjectInput {
	return &s3.GetObjectInput{Bucket: aws.String(bucket), Key: aws.String(key)}
}

// A fakeGetter has one object. Its bodies break where a test says.
type fakeGetter struct {
	content []byte
	etag    string
	answer  func(n int, out *s3.GetObjectOutput) error // changes the answer to request n, from 0 on
	breaks  []int                                      // after how many bytes body n breaks; negative or missing: it does not
	with    error                                      // what a broken body returns; nil: io.ErrUnexpectedEOF

	mu     sync.Mutex
	inputs []s3.GetObjectInput
	open   int // bodies that are not closed
}

func (g *fakeGetter) requests() []s3.GetObjectInput {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inputs[:len(g.inputs):len(g.inputs)]
}

func (g *fakeGetter) bodies() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (g *fakeGetter) GetObject(ctx context.Context, in *s3.GetObjectInput, _ ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	n := len(g.inputs)
	g.inputs = append(g.inputs, *in)
	first, last := 0, len(g.content)-1
	out := &s3.GetObjectOutput{ETag: aws.String(g.etag), ContentType: aws.String("video/mp4")}
	if r := aws.ToString(in.Range); r != "" {
		if _, err := fmt.Sscanf(r, "bytes=%d-%d", &first, &last); err != nil {
			return nil, err
		}
		out.ContentRange = aws.String(fmt.Sprintf("bytes %d-%d/%d", first, last, len(g.content)))
	}
	part := g.content[first : last+1]
	out.ContentLength = aws.Int64(int64(len(part)))
	if g.answer != nil {
		if err := g.answer(n, out); err != nil {
			return nil, err
		}
	}
	if out.Body == nil {
		b := &fakeBody{g: g, ctx: ctx, r: bytes.NewReader(part), end: io.EOF}
		if n < len(g.breaks) && g.breaks[n] >= 0 && (g.breaks[n] < len(part) || g.with != nil) {
			b.r, b.end = bytes.NewReader(part[:min(g.breaks[n], len(part))]), g.with
			if b.end == nil {
				b.end = io.ErrUnexpectedEOF
			}
		}
		out.Body = b
	}
	g.open++
	return out, nil
}

type fakeBody struct {
	g      *fakeGetter
	ctx    context.Context
	r      *bytes.Reader
	end    error
	closed bool
}

func (b *fakeBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = b.end
	}
	return n, err
}

func (b *fakeBody) Close() error {
	b.g.mu.Lock()
	defer b.g.mu.Unlock()
	if b.closed {
		panic("a second Close")
	}
	b.closed = true
	b.g.open--
	return nil
}

// status is the error of a request that was answered with a status.
func status(code int) error {
	return &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: code}}, Err: fmt.Errorf("status %d", code)}
}
