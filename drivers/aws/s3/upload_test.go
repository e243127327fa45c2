package s3loop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/onloop/eventloop"
	s3loop "github.com/onloop/eventloop/drivers/aws/s3"
)

// partSize is that of uploads in tests.
const partSize = 64 << 10

func smallParts(o *s3loop.UploadOptions) {
	o.PartSizeBytes, o.MultipartUploadThreshold = partSize, partSize
}

func target(key string) *s3loop.UploadInput {
	return &s3loop.UploadInput{Bucket: aws.String(bucket), Key: aws.String(key)}
}

// A spy counts the requests of uploads by operation, and fails those that a test names.
type spy struct {
	s3loop.Putter
	fail map[string]error
	wait <-chan struct{} // parts wait for it, unless it is nil

	mu    sync.Mutex
	calls map[string]int
}

func (s *spy) called(op string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = map[string]int{}
	}
	s.calls[op]++
	return s.fail[op]
}

func (s *spy) count(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

func (s *spy) PutObject(ctx context.Context, in *s3.PutObjectInput, o ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	if err := s.called("put"); err != nil {
		return nil, err
	}
	return s.Putter.PutObject(ctx, in, o...)
}

func (s *spy) UploadPart(ctx context.Context, in *s3.UploadPartInput, o ...func(*s3.Options)) (*s3.UploadPartOutput, error) {
	if s.wait != nil {
		<-s.wait
	}
	if err := s.called("part"); err != nil {
		return nil, err
	}
	return s.Putter.UploadPart(ctx, in, o...)
}

func (s *spy) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput, o ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	if err := s.called("complete"); err != nil {
		return nil, err
	}
	return s.Putter.CompleteMultipartUpload(ctx, in, o...)
}

func (s *spy) AbortMultipartUpload(ctx context.Context, in *s3.AbortMultipartUploadInput, o ...func(*s3.Options)) (*s3.AbortMultipartUploadOutput, error) {
	if err := s.called("abort"); err != nil {
		return nil, err
	}
	return s.Putter.AbortMultipartUpload(ctx, in, o...)
}

// outcome counts the results of an upload and checks each of them.
func outcome(n *int, check func(err error)) func(out *s3loop.UploadOutput, err error) {
	return func(_ *s3loop.UploadOutput, err error) {
		*n++
		check(err)
	}
}

func TestUploadStoresWhatTheLoopWrites(t *testing.T) {
	for _, n := range []int{0, 1, partSize - 1, partSize, partSize + 1, 2*partSize - 1, 3 * partSize, 10*partSize + 7} {
		content, results := randomBytes(n), 0
		onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
			writer, f := s3loop.Upload(background(), w, c, target("a"), smallParts)
			rest := content
			writer.OnDrain(func() { // written in pieces, as there is room
				for len(rest) > 0 && !writer.NeedDrain() {
					k := min(len(rest), 50_000)
					writer.Write(rest[:k])
					rest = rest[k:]
				}
				if len(rest) == 0 {
					writer.Close()
				}
			})
			f.Then(outcome(&results, func(err error) {
				if err != nil || !bytes.Equal(s.get("a"), content) {
					t.Errorf("%d bytes: %v, stored %d", n, err, len(s.get("a")))
				}
			}))
		})
		if results != 1 {
			t.Errorf("%d bytes: %d results", n, results)
		}
	}
}

func TestUploadGivesUpWhenTheWriterSaysSo(t *testing.T) {
	giveUp := errors.New("the film is boring")
	for _, n := range []int{0, 1, partSize, 3 * partSize} {
		results := 0
		onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
			s.put("a", []byte("old"))
			p := &spy{Putter: c}
			writer, f := s3loop.Upload(background(), w, p, target("a"), smallParts)
			writer.Write(randomBytes(n))
			writer.CloseWithError(giveUp)
			f.Then(outcome(&results, func(err error) {
				if !is(giveUp)(err) || string(s.get("a")) != "old" {
					t.Errorf("%d bytes: %v, stored %d bytes", n, err, len(s.get("a")))
				}
				if aborts := p.count("abort"); (n >= partSize) != (aborts == 1) {
					t.Errorf("%d bytes: %d aborts", n, aborts)
				}
			}))
		})
		if results != 1 {
			t.Errorf("%d bytes: %d results", n, results)
		}
	}
}

// The loop writes a part and then nothing more, and does not close the writer.
func TestAFailingPartEndsAnUploadThatWaitsForTheLoop(t *testing.T) {
	broken := errors.New("broken")
	results := 0
	onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
		p := &spy{Putter: c, fail: map[string]error{"part": broken}}
		writer, f := s3loop.Upload(background(), w, p, target("a"), smallParts)
		writer.Write(randomBytes(partSize + 1))
		f.Then(outcome(&results, func(err error) {
			if !is(broken)(err) || s.get("a") != nil || p.count("abort") != 1 || p.count("complete") != 0 {
				t.Errorf("%v; %d aborts", err, p.count("abort"))
			}
			if _, err := writer.Write([]byte("x")); err == nil {
				t.Error("Write after the failure succeeds")
			}
		}))
	})
	if results != 1 {
		t.Errorf("%d results", results)
	}
}

func TestACanceledUploadIsAborted(t *testing.T) {
	cause := errors.New("enough")
	for _, n := range []int{0, 1, partSize + 1} {
		results := 0
		ctx, cancel := context.WithCancelCause(background())
		onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
			p := &spy{Putter: c}
			writer, f := s3loop.Upload(ctx, w, p, target("a"), smallParts)
			writer.Write(randomBytes(n))
			writer.OnDrain(func() { cancel(cause) }) // the upload waits for more
			f.Then(outcome(&results, func(err error) {
				if !errors.Is(err, cause) || !errors.Is(err, context.Canceled) || s.get("a") != nil {
					t.Errorf("%d bytes: %v", n, err)
				}
				if n > partSize && p.count("abort") > 1 {
					t.Errorf("%d bytes: %d aborts", n, p.count("abort"))
				}
			}))
		})
		if results != 1 {
			t.Errorf("%d bytes: %d results", n, results)
		}
	}
}

func TestUploadsThatCannotBegin(t *testing.T) {
	results := 0
	onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
		failed := func(what string, ok func(err error) bool) func(out *s3loop.UploadOutput, err error) {
			return outcome(&results, func(err error) {
				if err == nil || ok != nil && !ok(err) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		nowhere := target("a")
		nowhere.Bucket = aws.String("nowhere")
		writer, f := s3loop.Upload(background(), w, c, nowhere) // the writer is not closed
		writer.Write([]byte("x"))
		writer.OnDrain(func() { writer.Close() })
		f.Then(failed("bucket", func(err error) bool {
			api, ok := errors.AsType[smithy.APIError](err)
			e, typed := errors.AsType[*s3loop.Error](err)
			return ok && api.ErrorCode() == "NoSuchBucket" && typed && e.Op == s3loop.OpUpload && e.Bucket == "nowhere" && e.Offset == 1
		}))
		_, f = s3loop.Upload(background(), w, c, nil)
		f.Then(failed("nil", nil))
		withBody := target("a")
		withBody.Body = strings.NewReader("x")
		_, f = s3loop.Upload(background(), w, c, withBody)
		f.Then(failed("body", nil))
		s3loop.UploadFrom(background(), w, c, target("a")).Then(failed("no body", nil))
		s3loop.UploadFrom(background(), w, c, nil).Then(failed("nil", nil))
		_, f = s3loop.Upload(background(), w, nil, target("a"))
		f.Then(failed("no client", nil))
	})
	if results != 6 {
		t.Errorf("%d results, want 6", results)
	}
}

// A countingBody counts its Closes.
type countingBody struct {
	io.Reader
	closes atomic.Int32
}

func (b *countingBody) Close() error {
	b.closes.Add(1)
	return nil
}

func TestTheBodyIsClosedOnce(t *testing.T) {
	canceled, cancel := context.WithCancel(background())
	cancel()
	for _, what := range []string{"success", "failure", "canceled before", "canceled in the queue", "end of the loop in the queue", "end of the loop", "loop ended"} {
		body := &countingBody{Reader: bytes.NewReader(randomBytes(3 * partSize))}
		l := eventloop.New(nil)
		s := newServer()
		w := eventloop.NewWorkers(l, 1, "s3")
		in := target("a")
		in.Body = body
		l.Post(func() {
			p := &spy{Putter: s.client(l)}
			ctx := background()
			switch what {
			case "failure":
				p.fail = map[string]error{"part": errors.New("broken")}
			case "canceled before":
				ctx = canceled
			case "canceled in the queue", "end of the loop in the queue":
				eventloop.WorkOn(ctx, w, func(ctx context.Context) (int, error) { // the only worker
					if what == "canceled in the queue" {
						for body.closes.Load() == 0 {
							time.Sleep(time.Millisecond)
						}
						return 0, nil
					}
					<-ctx.Done()
					return 0, nil
				}).Ignore()
				if what == "canceled in the queue" {
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					l.AfterFunc(time.Millisecond, cancel)
				} else {
					l.AfterFunc(time.Millisecond, l.Stop)
				}
			case "end of the loop":
				body.Reader = io.MultiReader(body.Reader, readerFunc(func([]byte) (int, error) {
					l.Stop()
					for body.closes.Load() == 0 { // as a Read that Close ends
						time.Sleep(time.Millisecond)
					}
					return 0, os.ErrClosed
				}))
			case "loop ended":
				return
			}
			s3loop.UploadFrom(ctx, w, p, in, smallParts).Then(func(_ *s3loop.UploadOutput, err error) {
				if (err == nil) != (what == "success") {
					t.Errorf("%s: %v", what, err)
				}
			})
		})
		if err := l.Run(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if what == "loop ended" {
			_, err := s3loop.UploadFrom(background(), w, s.client(l), in).Result()
			if !errors.Is(err, eventloop.ErrLoopClosed) {
				t.Errorf("%s: %v", what, err)
			}
		}
		for end := time.Now().Add(watchdogTime); body.closes.Load() == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond) // the body of an upload that never ran is closed aside
		}
		if n := body.closes.Load(); n != 1 {
			t.Errorf("%s: closed %d times", what, n)
		}
		s.Close()
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAFileIsUploaded(t *testing.T) {
	for _, n := range []int{0, 100, 3*partSize + 1} {
		content, results := randomBytes(n), 0
		onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
			in := target("a")
			in.Body = tempFile(t, content)
			s3loop.UploadFrom(background(), w, c, in, smallParts).Then(outcome(&results, func(err error) {
				if err != nil || !bytes.Equal(s.get("a"), content) {
					t.Errorf("%d bytes: %v, stored %d", n, err, len(s.get("a")))
				}
				if _, err := in.Body.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
					t.Errorf("the file is not closed: %v", err)
				}
			}))
		})
		if results != 1 {
			t.Errorf("%d bytes: %d results", n, results)
		}
	}
}

func TestTheRestOfAFileIsUploaded(t *testing.T) {
	content := randomBytes(1000)
	results := 0
	onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
		f := tempFile(t, content)
		f.Seek(300, io.SeekStart)
		in := target("a")
		in.Body = f
		s3loop.UploadFrom(background(), w, c, in).Then(outcome(&results, func(err error) {
			if err != nil || !bytes.Equal(s.get("a"), content[300:]) {
				t.Errorf("%v, stored %d", err, len(s.get("a")))
			}
		}))
	})
	if results != 1 {
		t.Errorf("%d results", results)
	}
}

func tempFile(t *testing.T, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "film")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// A changingFile is a file that is changed before the Read number at.
type changingFile struct {
	*os.File
	at     int
	change func(f *os.File) error
}

func (f *changingFile) Read(p []byte) (int, error) {
	if f.at--; f.at == 0 {
		if err := f.change(f.File); err != nil {
			return 0, err
		}
	}
	return f.File.Read(p[:min(len(p), 1000)])
}

func TestAFileThatChangesIsNotUploaded(t *testing.T) {
	for what, change := range map[string]func(f *os.File) error{
		"shorter": func(f *os.File) error { return f.Truncate(500) },
		"longer": func(f *os.File) error {
			_, err := f.WriteAt([]byte("more"), 1<<20)
			return err
		},
		"rewritten": func(f *os.File) error {
			return os.Chtimes(f.Name(), time.Now(), time.Unix(1, 0)) // as a write at another time
		},
	} {
		for _, n := range []int{2000, 3 * partSize} {
			results := 0
			onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
				s.put("a", []byte("old"))
				in := target("a")
				in.Body = &changingFile{tempFile(t, randomBytes(n)), n / 1000, change}
				s3loop.UploadFrom(background(), w, c, in, smallParts).Then(outcome(&results, func(err error) {
					if !is(s3loop.ErrChanged)(err) || string(s.get("a")) != "old" {
						t.Errorf("%s, %d bytes: %v, stored %d", what, n, err, len(s.get("a")))
					}
				}))
			})
			if results != 1 {
				t.Errorf("%s: %d results", what, results)
			}
		}
	}
}

func TestABodyOfAnotherLengthIsNotUploaded(t *testing.T) {
	for _, says := range []int64{0, 99, 101, 5 * partSize} {
		results := 0
		onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
			in := target("a")
			in.ContentLength = aws.Int64(says)
			writer, f := s3loop.Upload(background(), w, c, in, smallParts)
			writer.Write(randomBytes(100))
			writer.Close()
			f.Then(outcome(&results, func(err error) {
				if !is(s3loop.ErrLength)(err) || s.get("a") != nil {
					t.Errorf("%d: %v", says, err)
				}
			}))
		})
		if results != 1 {
			t.Errorf("%d: %d results", says, results)
		}
	}
}

// A panicOf is a reader that panics after some bytes, and a file whose second Stat panics
// if it is at its end before.
type panicOf struct {
	io.Reader
	value any
}

func (p *panicOf) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if err == io.EOF {
		panic(p.value)
	}
	return n, err
}

type panicInStat struct {
	*os.File
	value any
	stats int
}

func (p *panicInStat) Stat() (os.FileInfo, error) {
	if p.stats++; p.stats == 2 {
		panic(p.value)
	}
	return p.File.Stat()
}

func TestAPanicInTheBodyAbortsTheUpload(t *testing.T) {
	oops := errors.New("oops")
	for _, n := range []int{0, partSize - 1, partSize, partSize + 1, 4*partSize + 1} {
		for what, body := range map[string]io.Reader{
			"Read": &panicOf{bytes.NewReader(randomBytes(n)), oops},
			"Stat": &panicInStat{File: tempFile(t, randomBytes(n)), value: oops},
		} {
			results := 0
			onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
				p := &spy{Putter: c}
				in := target("a")
				in.Body = body
				s3loop.UploadFrom(background(), w, p, in, smallParts).Then(outcome(&results, func(err error) {
					e, typed := errors.AsType[*s3loop.Error](err)
					if !typed || e.Op != s3loop.OpUpload || e.Offset != int64(n) || !errors.Is(err, oops) {
						t.Errorf("%s after %d bytes: %v", what, n, err)
					}
					pe, ok := errors.AsType[*eventloop.PanicError](err)
					if !ok || pe.Value != oops || !strings.Contains(pe.Error(), what) || strings.Contains(string(pe.Stack), "recover") {
						t.Errorf("%s after %d bytes: not the panic: %v", what, n, err)
					}
					if aborts := p.count("abort"); (n >= partSize) != (aborts == 1) || s.get("a") != nil {
						t.Errorf("%s after %d bytes: %d aborts", what, n, aborts)
					}
				}))
			})
			if results != 1 {
				t.Errorf("%s after %d bytes: %d results", what, n, results)
			}
		}
	}
}

// A badCloser is a body whose Close fails badly. Its last Read waits for Close if it blocks.
type badCloser struct {
	io.Reader
	blocks bool
	fail   func()
	closes atomic.Int32
}

func (b *badCloser) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	for b.blocks && err == io.EOF && b.closes.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	return n, err
}

func (b *badCloser) Close() error {
	b.closes.Add(1)
	b.fail()
	return nil
}

func TestAPanicInCloseOfTheBodyIsTheErrorOfTheUpload(t *testing.T) {
	cause, broken := errors.New("enough"), errors.New("broken")
	for _, goexit := range []bool{false, true} {
		for _, what := range []string{"success", "failure", "canceled"} { // Close runs on another goroutine if Read is interrupted
			results := 0
			ctx, cancel := context.WithCancelCause(background())
			body := &badCloser{Reader: bytes.NewReader(randomBytes(partSize + 1)), blocks: what != "success"}
			body.fail = func() {
				if goexit {
					runtime.Goexit()
				}
				panic("oops")
			}
			onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
				p := &spy{Putter: c}
				switch what {
				case "failure":
					p.fail = map[string]error{"part": broken}
				case "canceled":
					l.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
				}
				in := target("a")
				in.Body = body
				s3loop.UploadFrom(ctx, w, p, in, smallParts).Then(outcome(&results, func(err error) {
					e, typed := errors.AsType[*s3loop.Error](err)
					pe, panicked := errors.AsType[*eventloop.PanicError](err)
					if !typed || e.Op != s3loop.OpUpload || panicked == goexit || is(s3loop.ErrGoexit)(err) != goexit {
						t.Errorf("%s, goexit=%v: %v", what, goexit, err)
					}
					if panicked && (pe.Value != "oops" || !strings.Contains(pe.Error(), "badCloser")) {
						t.Errorf("%s: %v", what, pe)
					}
					if what == "failure" && !is(broken)(err) || what == "canceled" && !is(cause)(err) {
						t.Errorf("%s, goexit=%v: %v", what, goexit, err)
					}
				}))
			})
			cancel(nil)
			if n := body.closes.Load(); results != 1 || n != 1 {
				t.Errorf("%s, goexit=%v: %d results, closed %d times", what, goexit, results, n)
			}
		}
	}
}

// The future of an upload that never begins has failed before Close is called.
func TestAPanicInCloseOfABodyThatIsNotReadIsAnEvent(t *testing.T) {
	for _, end := range []bool{false, true} {
		body := &badCloser{Reader: strings.NewReader("x"), fail: func() { panic("oops") }}
		var events []error
		l := eventloop.New(&eventloop.Config{EventHandler: func(err error) { events = append(events, err) }})
		s := newServer()
		w := eventloop.NewWorkers(l, 1, "s3")
		l.Post(func() {
			eventloop.WorkOn(background(), w, func(ctx context.Context) (int, error) { // the only worker
				for body.closes.Load() == 0 && ctx.Err() == nil {
					time.Sleep(time.Millisecond)
				}
				return 0, nil
			}).Ignore()
			ctx, cancel := context.WithCancel(background())
			in := target("a")
			in.Body = body
			s3loop.UploadFrom(ctx, w, s.client(l), in).Ignore()
			if end {
				l.AfterFunc(time.Millisecond, l.Stop)
			} else {
				l.AfterFunc(time.Millisecond, cancel)
			}
			l.OnExit(cancel)
		})
		if err := l.Run(t.Context()); err != nil {
			t.Error(err)
		}
		if !end && (len(events) != 1 || !errors.As(events[0], new(*eventloop.PanicError))) {
			t.Errorf("events %v, want the panic", events)
		}
		for end := time.Now().Add(watchdogTime); body.closes.Load() == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if n := body.closes.Load(); n != 1 {
			t.Errorf("closed %d times", n)
		}
		s.Close()
	}
}

// A panicking is a client with a fault: middleware, or a provider of credentials.
type panicking struct {
	*spy
	op    string
	value any
}

func (p *panicking) UploadPart(ctx context.Context, in *s3.UploadPartInput, o ...func(*s3.Options)) (*s3.UploadPartOutput, error) {
	if p.op == "part" {
		panic(p.value)
	}
	return p.spy.UploadPart(ctx, in, o...)
}

func (p *panicking) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput, o ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	if p.op == "complete" {
		panic(p.value)
	}
	return p.spy.CompleteMultipartUpload(ctx, in, o...)
}

func TestAPanicInTheClientAbortsTheUpload(t *testing.T) {
	oops := errors.New("oops")
	for _, op := range []string{"part", "complete"} {
		results := 0
		onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
			p := &panicking{&spy{Putter: c}, op, oops}
			writer, f := s3loop.Upload(background(), w, p, target("a"), smallParts)
			writer.Write(randomBytes(3 * partSize))
			writer.Close()
			f.Then(outcome(&results, func(err error) {
				_, typed := errors.AsType[*s3loop.Error](err)
				pe, ok := errors.AsType[*eventloop.PanicError](err)
				if !typed || !ok || pe.Value != oops || p.count("abort") != 1 || s.get("a") != nil {
					t.Errorf("%s: %v; %d aborts", op, err, p.count("abort"))
				}
			}))
		})
		if results != 1 {
			t.Errorf("%s: %d results", op, results)
		}
	}
}

// A quitting is a body, and a client, that ends its goroutine, as the methods of testing.T
// do that stop a test.
type quitting struct {
	*spy
	io.Reader
	when string
}

func (q *quitting) Read(p []byte) (int, error) {
	n, err := q.Reader.Read(p)
	if err == io.EOF && q.when == "Read" {
		runtime.Goexit()
	}
	return n, err
}

func (q *quitting) UploadPart(ctx context.Context, in *s3.UploadPartInput, o ...func(*s3.Options)) (*s3.UploadPartOutput, error) {
	if q.when == "UploadPart" {
		runtime.Goexit()
	}
	return q.spy.UploadPart(ctx, in, o...)
}

func (q *quitting) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput, o ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	if q.when == "CompleteMultipartUpload" {
		runtime.Goexit()
	}
	return q.spy.CompleteMultipartUpload(ctx, in, o...)
}

func (q *quitting) OnObjectBytesTransferred(context.Context, *transfermanager.ObjectBytesTransferredEvent) {
	switch q.when {
	case "listener":
		runtime.Goexit()
	case "listener's panic":
		panic("oops")
	}
}

func TestCodeThatEndsItsGoroutineAbortsTheUpload(t *testing.T) {
	for _, when := range []string{"Read", "UploadPart", "CompleteMultipartUpload", "listener", "listener's panic"} {
		for _, n := range []int{partSize, partSize + 1, 8*partSize + 1} {
			results := 0
			onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
				q := &quitting{&spy{Putter: c}, bytes.NewReader(randomBytes(n)), when}
				in := target("a")
				in.Body = q
				listen := func(o *s3loop.UploadOptions) { o.ObjectProgressListeners.Register(q) }
				s3loop.UploadFrom(background(), w, q, in, smallParts, listen).Then(outcome(&results, func(err error) {
					e, typed := errors.AsType[*s3loop.Error](err)
					_, panicked := errors.AsType[*eventloop.PanicError](err)
					if !typed || e.Op != s3loop.OpUpload || panicked != (when == "listener's panic") || errors.Is(err, s3loop.ErrGoexit) == panicked {
						t.Errorf("%s, %d bytes: %v", when, n, err)
					}
					if aborts := q.count("abort"); aborts != 1 || s.get("a") != nil {
						t.Errorf("%s, %d bytes: %d aborts, stored %d", when, n, aborts, len(s.get("a")))
					}
					if n := s.openUploads(); n != 0 {
						t.Errorf("%s: %d unfinished multipart uploads at the server", when, n)
					}
				}))
			})
			if results != 1 {
				t.Errorf("%s, %d bytes: %d results", when, n, results)
			}
		}
	}
}

// The part fails first. That closes the body, whose Read panics because of it.
func TestAPanicAfterAFailureIsNotLost(t *testing.T) {
	broken, results := errors.New("broken"), 0
	onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
		body, reading := &countingBody{}, make(chan struct{})
		body.Reader = io.MultiReader(bytes.NewReader(randomBytes(partSize)), readerFunc(func([]byte) (int, error) {
			close(reading)
			for body.closes.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			panic("oops")
		}))
		in := target("a")
		in.Body = body
		p := &spy{Putter: c, fail: map[string]error{"part": broken}, wait: reading}
		s3loop.UploadFrom(background(), w, p, in, smallParts).Then(outcome(&results, func(err error) {
			if pe, ok := errors.AsType[*eventloop.PanicError](err); !ok || pe.Value != "oops" || !is(broken)(err) || p.count("abort") != 1 {
				t.Errorf("%v; %d aborts", err, p.count("abort"))
			}
		}))
	})
	if results != 1 {
		t.Errorf("%d results", results)
	}
}

func TestTheEndOfTheLoopEndsAnUpload(t *testing.T) {
	for _, n := range []int{0, partSize + 1} {
		var f *eventloop.Future[*s3loop.UploadOutput]
		var writer *eventloop.PipeWriter
		onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
			writer, f = s3loop.Upload(background(), w, c, target("a"), smallParts)
			writer.Write(randomBytes(n))
			writer.OnDrain(l.Stop)
		})
		if _, err := f.Result(); !errors.Is(err, eventloop.ErrLoopClosed) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if _, err := writer.Write([]byte("x")); !errors.Is(err, eventloop.ErrLoopClosed) {
			t.Errorf("%d bytes: Write: %v", n, err)
		}
	}
}

func TestHandlesShowAnUpload(t *testing.T) {
	onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
		writer, f := s3loop.Upload(background(), w, c, target("a"))
		var shown []string
		for h := range l.Handles() {
			shown = append(shown, fmt.Sprint(h.Kind, " ", h.Name))
		}
		if !slices.Contains(shown, "s3 upload of s3://films/a, 1 pending") {
			t.Errorf("handles: %q", shown)
		}
		writer.Close()
		f.Then(func(_ *s3loop.UploadOutput, err error) {
			for h := range l.Handles() {
				if h.Kind == s3loop.Kind && h.Ref {
					t.Errorf("after the upload: %+v", h)
				}
			}
		})
	})
}

func TestAFailureThatNothingHandlesIsReported(t *testing.T) {
	var events []error
	s := newServer()
	defer s.Close()
	cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
	err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
		in := target("a")
		in.Bucket = aws.String("nowhere")
		writer, _ := s3loop.Upload(background(), eventloop.NewWorkers(l, 1, ""), s.client(l), in)
		writer.Close()
		return nil
	})
	if err != nil || len(events) != 1 || !strings.Contains(events[0].Error(), "s3://nowhere/a") {
		t.Errorf("%v, events: %v", err, events)
	}
}
