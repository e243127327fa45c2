package s3loop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/onloop/eventloop"
	s3loop "github.com/onloop/eventloop/drivers/aws/s3"
	"github.com/onloop/eventloop/looptest"
)

// seeds is in how many orders of events a download from a fake is tested.
const seeds = 50

// A result is what a download has told.
type result struct {
	data  bytes.Buffer
	heads []*s3.GetObjectOutput
	ends  []error
}

// download begins a download whose result is collected.
func (r *result) download(ctx context.Context, l *eventloop.Loop, c s3loop.Getter, in *s3.GetObjectInput, o s3loop.DownloadOptions) *eventloop.Reader {
	o.OnHead = func(h *s3.GetObjectOutput) {
		if r.data.Len() > 0 || h.Body != nil {
			panic("a late head, or one with a body")
		}
		r.heads = append(r.heads, h)
	}
	return s3loop.Download(ctx, l, c, in, func(p []byte) { r.data.Write(p) }, func(err error) { r.ends = append(r.ends, err) }, &o)
}

// check fails unless the download has ended once, as it should.
func (r *result) check(t *testing.T, what string, content []byte, ok func(err error) bool) {
	t.Helper()
	if len(r.ends) != 1 || !ok(r.ends[0]) {
		t.Errorf("%s: ended with %v", what, r.ends)
	}
	if !bytes.Equal(r.data.Bytes(), content) {
		t.Errorf("%s: got %d bytes, which are not the %d", what, r.data.Len(), len(content))
	}
}

func isNil(err error) bool { return err == nil }

func is(target error) func(error) bool {
	return func(err error) bool {
		_, typed := errors.AsType[*s3loop.Error](err)
		return typed && errors.Is(err, target)
	}
}

func TestDownloadGivesTheObject(t *testing.T) {
	for _, n := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
		var r result
		content := randomBytes(n)
		onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
			s.put("a", content)
			r.download(background(), l, c, in("a"), s3loop.DownloadOptions{})
		})
		r.check(t, fmt.Sprint(n), content, isNil)
		if len(r.heads) != 1 || aws.ToInt64(r.heads[0].ContentLength) != int64(n) || aws.ToString(r.heads[0].ETag) == "" {
			t.Errorf("%d: heads: %+v", n, r.heads)
		}
	}
}

func TestDownloadGivesARange(t *testing.T) {
	content := randomBytes(200_000)
	for _, c := range []struct {
		text        string
		first, last int
	}{
		{"bytes=0-0", 0, 0},
		{"bytes=1000-150000", 1000, 150000},
		{"bytes=199999-", 199999, 199999},
		{"bytes=-70000", 130000, 199999},
	} {
		var r result
		onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, client *s3.Client, s *server) {
			s.put("a", content)
			input := in("a")
			input.Range = aws.String(c.text)
			r.download(background(), l, client, input, s3loop.DownloadOptions{})
		})
		r.check(t, c.text, content[c.first:c.last+1], isNil)
	}
}

func TestWhatIsMissingIsATypedError(t *testing.T) {
	var noKey, noBucket result
	onLoop(t, func(l *eventloop.Loop, w *eventloop.Workers, c *s3.Client, s *server) {
		noKey.download(background(), l, c, in("nothing"), s3loop.DownloadOptions{})
		input := in("nothing")
		input.Bucket = aws.String("nowhere")
		noBucket.download(background(), l, c, input, s3loop.DownloadOptions{})
	})
	noKey.check(t, "key", nil, func(err error) bool {
		e, ok := errors.AsType[*s3loop.Error](err)
		_, typed := errors.AsType[*types.NoSuchKey](err)
		return ok && typed && e.Op == s3loop.OpDownload && e.Bucket == bucket && e.Key == "nothing" && e.Offset == 0
	})
	noBucket.check(t, "bucket", nil, func(err error) bool {
		_, typed := errors.AsType[interface {
			error
			ErrorCode() string
		}](err)
		return typed
	})
	if len(noKey.heads)+len(noBucket.heads) > 0 {
		t.Error("a head of nothing")
	}
}

func TestABrokenDownloadIsResumed(t *testing.T) {
	content := randomBytes(300_000)
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		g := &fakeGetter{content: content, etag: `"v1"`, breaks: []int{0, 100_000, 1, 0, 0, 50_000, -1}}
		r := &result{}
		r.download(background(), l, g, in("a"), s3loop.DownloadOptions{})
		l.OnExit(func() {
			r.check(t, "", content, isNil)
			reqs := g.requests()
			want := []string{"", "bytes=0-299999", "bytes=100000-299999", "bytes=100001-299999", "bytes=100001-299999", "bytes=100001-299999", "bytes=150001-299999"}
			if len(reqs) != len(want) || len(r.heads) != 1 || g.bodies() != 0 {
				t.Errorf("%d requests, %d heads, %d open bodies", len(reqs), len(r.heads), g.bodies())
				return
			}
			for i, w := range want {
				if got := aws.ToString(reqs[i].Range); got != w || i > 0 && aws.ToString(reqs[i].IfMatch) != g.etag {
					t.Errorf("request %d: range %q of %q, want %q", i, got, aws.ToString(reqs[i].IfMatch), w)
				}
			}
		})
		return nil
	})
}

// Whatever the range that is asked for, and wherever the bodies break, the bytes are those
// of the range.
func TestResumedBytesAreThoseOfTheRange(t *testing.T) {
	content := randomBytes(200_000)
	for seed := range uint64(100) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		first := rnd.IntN(len(content))
		last := first + rnd.IntN(len(content)-first)
		g := &fakeGetter{content: content, etag: `"v1"`}
		for range rnd.IntN(8) {
			g.breaks = append(g.breaks, 1+rnd.IntN(40_000)) // a byte each time, so that all are resumed
		}
		input := in("a")
		input.Range = aws.String(fmt.Sprintf("bytes=%d-%d", first, last))
		var r result
		run(t, func(l *eventloop.Loop) { r.download(background(), l, g, input, s3loop.DownloadOptions{}) })
		r.check(t, fmt.Sprintf("seed %d", seed), content[first:last+1], isNil)
	}
}

func TestAPartIsResumedByItsRange(t *testing.T) {
	content := randomBytes(300_000)
	g := &fakeGetter{content: content, etag: `"v1"`, breaks: []int{10}}
	g.answer = func(n int, out *s3.GetObjectOutput) error {
		if n == 0 { // part 2 is the second third
			out.ContentRange, out.ContentLength = aws.String("bytes 100000-199999/300000"), aws.Int64(100_000)
			out.Body = &fakeBody{g: g, ctx: background(), r: bytes.NewReader(content[100_000:100_010]), end: io.ErrUnexpectedEOF}
		}
		return nil
	}
	input := in("a")
	input.PartNumber = aws.Int32(2)
	var r result
	run(t, func(l *eventloop.Loop) { r.download(background(), l, g, input, s3loop.DownloadOptions{}) })
	r.check(t, "", content[100_000:200_000], isNil)
	if reqs := g.requests(); len(reqs) != 2 || reqs[1].PartNumber != nil || aws.ToString(reqs[1].Range) != "bytes=100010-199999" {
		t.Errorf("requests: %+v", reqs)
	}
}

func TestAnObjectThatWasReplacedIsNotMixed(t *testing.T) {
	content := randomBytes(300_000)
	for what, answer := range map[string]func(out *s3.GetObjectOutput) error{
		"refused":      func(*s3.GetObjectOutput) error { return status(412) },
		"shorter":      func(*s3.GetObjectOutput) error { return status(416) },
		"other ETag":   func(out *s3.GetObjectOutput) error { out.ETag = aws.String(`"v2"`); return nil },
		"no range":     func(out *s3.GetObjectOutput) error { out.ContentRange = nil; return nil },
		"other range":  func(out *s3.GetObjectOutput) error { out.ContentRange = aws.String("bytes 0-9/10"); return nil },
		"broken range": func(out *s3.GetObjectOutput) error { out.ContentRange = aws.String("bytes 5"); return nil },
	} {
		g := &fakeGetter{content: content, etag: `"v1"`, breaks: []int{1000}}
		g.answer = func(n int, out *s3.GetObjectOutput) error {
			if n == 1 {
				return answer(out)
			}
			return nil
		}
		var r result
		run(t, func(l *eventloop.Loop) { r.download(background(), l, g, in("a"), s3loop.DownloadOptions{}) })
		r.check(t, what, content[:1000], func(err error) bool {
			e, ok := errors.AsType[*s3loop.Error](err)
			return is(s3loop.ErrChanged)(err) && ok && e.Offset == 1000
		})
		if n := len(g.requests()); n != 2 || g.bodies() != 0 {
			t.Errorf("%s: %d requests, %d open bodies", what, n, g.bodies())
		}
	}
}

func TestADownloadGivesUpWithoutProgress(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: errors.New("connection reset")}
	for _, c := range []struct {
		what     string
		getter   *fakeGetter
		max      int
		requests int
		want     error
	}{
		{"default", &fakeGetter{breaks: []int{10, 0, 0, 0, 0}, with: reset}, 0, 4, reset},
		{"twice", &fakeGetter{breaks: []int{10, 0, 0, 0, 0}}, 2, 3, io.ErrUnexpectedEOF},
		{"never", &fakeGetter{breaks: []int{10}}, -1, 1, io.ErrUnexpectedEOF},
		{"short body", &fakeGetter{breaks: []int{10}, with: io.EOF}, -1, 1, io.ErrUnexpectedEOF},
		{"unavailable", &fakeGetter{breaks: []int{10}, answer: func(n int, _ *s3.GetObjectOutput) error {
			if n > 0 {
				return reset
			}
			return nil
		}}, 0, 4, reset},
		{"forbidden", &fakeGetter{breaks: []int{10}, answer: func(n int, _ *s3.GetObjectOutput) error {
			if n > 0 {
				return status(403)
			}
			return nil
		}}, 0, 2, nil},
		{"no ETag", &fakeGetter{breaks: []int{10}, answer: func(_ int, out *s3.GetObjectOutput) error {
			out.ETag = nil
			return nil
		}}, 0, 1, io.ErrUnexpectedEOF},
		{"no length", &fakeGetter{breaks: []int{10}, answer: func(_ int, out *s3.GetObjectOutput) error {
			out.ContentLength = nil
			return nil
		}}, 0, 1, io.ErrUnexpectedEOF},
	} {
		t.Run(c.what, func(t *testing.T) {
			looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error { // with its backoff in virtual time
				g := &fakeGetter{content: randomBytes(1000), etag: `"v1"`, breaks: c.getter.breaks, with: c.getter.with, answer: c.getter.answer}
				r := &result{}
				r.download(background(), l, g, in("a"), s3loop.DownloadOptions{MaxResumes: c.max})
				l.OnExit(func() {
					r.check(t, c.what, g.content[:10], func(err error) bool {
						return err != nil && (c.want == nil || is(c.want)(err))
					})
					if n := len(g.requests()); n != c.requests || g.bodies() != 0 {
						t.Errorf("%d requests, want %d; %d open bodies", n, c.requests, g.bodies())
					}
				})
				return nil
			})
		})
	}
}

// The client has a fault: in the first request, or in the one for the rest.
func TestAPanicInTheClientEndsADownload(t *testing.T) {
	oops := errors.New("oops")
	for at := range 2 {
		newGetter := func() *fakeGetter {
			return &fakeGetter{content: randomBytes(1000), etag: `"v1"`, breaks: []int{10}, answer: func(n int, _ *s3.GetObjectOutput) error {
				if n == at {
					panic(oops)
				}
				return nil
			}}
		}
		var ends []error
		err := eventloop.Run(t.Context(), &eventloop.Config{CatchPanics: true}, func(l *eventloop.Loop) error {
			s3loop.Download(background(), l, newGetter(), in("a"), func([]byte) {}, func(err error) { ends = append(ends, err) }, nil)
			w := eventloop.NewWorkers(l, 1, "s3")
			s3loop.DownloadTo(background(), w, newGetter(), in("a"), io.Discard, nil).Then(func(_ *s3.GetObjectOutput, err error) { ends = append(ends, err) })
			l.Go(background(), func(task *eventloop.Task) error {
				for _, err := range s3loop.Pieces(task, w, newGetter(), in("a"), nil) {
					if err != nil {
						ends = append(ends, err)
					}
				}
				return nil
			})
			return nil
		})
		if err != nil || len(ends) != 3 {
			t.Errorf("request %d: %v, %d ends, want 3", at, err, len(ends))
		}
		for _, err := range ends {
			if pe, ok := errors.AsType[*eventloop.PanicError](err); !ok || pe.Value != oops {
				t.Errorf("request %d: %v", at, err)
			}
		}
	}
}

func TestAWrongChecksumIsNotResumed(t *testing.T) {
	content, wrong := randomBytes(1000), errors.New("checksum did not match")
	g := &fakeGetter{content: content, etag: `"v1"`, breaks: []int{1000}, with: wrong}
	var r result
	run(t, func(l *eventloop.Loop) { r.download(background(), l, g, in("a"), s3loop.DownloadOptions{}) })
	r.check(t, "", content, is(wrong))
	if n := len(g.requests()); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestPauseHoldsUpTheServer(t *testing.T) {
	content := randomBytes(10 << 16)
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		g := &fakeGetter{content: content, etag: `"v1"`}
		got, ended := 0, 0
		var d *eventloop.Reader
		d = s3loop.Download(background(), l, g, in("a"), func(p []byte) {
			got += len(p)
			d.Pause()
			at := got
			l.AfterFunc(time.Second, func() {
				if got != at {
					t.Error("data came while the download was paused")
				}
				d.Resume()
			})
		}, func(err error) {
			if ended++; err != nil {
				t.Error(err)
			}
		}, nil)
		l.OnExit(func() {
			if got != len(content) || ended != 1 {
				t.Errorf("got %d bytes, ended %d times", got, ended)
			}
		})
		return nil
	})
}

func TestStopAndCancelEndADownload(t *testing.T) {
	content, cause := randomBytes(10<<16), errors.New("enough")
	for _, stop := range []bool{false, true} {
		looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
			g := &fakeGetter{content: content, etag: `"v1"`}
			ctx, cancel := context.WithCancelCause(background())
			var ends []error
			var d *eventloop.Reader
			d = s3loop.Download(ctx, l, g, in("a"), func(p []byte) {
				if stop {
					d.Stop()
				} else {
					cancel(cause)
				}
			}, func(err error) { ends = append(ends, err) }, nil)
			l.OnExit(func() {
				switch {
				case stop && len(ends) != 0, !stop && (len(ends) != 1 || !is(cause)(ends[0]) || !is(context.Canceled)(ends[0])):
					t.Errorf("stop %v: ended with %v", stop, ends)
				case g.bodies() != 0:
					t.Errorf("stop %v: %d open bodies", stop, g.bodies())
				}
			})
			return nil
		})
	}
}

func TestTheEndOfTheLoopEndsADownload(t *testing.T) {
	for _, when := range []string{"at once", "at a piece", "in a pause", "in a backoff"} {
		looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
			g := &fakeGetter{content: randomBytes(10 << 16), etag: `"v1"`}
			if when == "in a backoff" {
				g.breaks = []int{1, 0, 0, 0}
			}
			var d *eventloop.Reader
			d = s3loop.Download(background(), l, g, in("a"), func(p []byte) {
				switch when {
				case "at a piece":
					l.Stop()
				case "in a pause":
					d.Pause()
					l.AfterFunc(time.Second, l.Stop)
				default:
					l.AfterFunc(time.Millisecond, l.Stop)
				}
			}, func(err error) { t.Errorf("%s: ended with %v", when, err) }, nil)
			if when == "at once" {
				l.Stop()
			}
			t.Cleanup(func() {
				if g.bodies() != 0 {
					t.Errorf("%s: %d open bodies", when, g.bodies())
				}
			})
			return nil
		})
	}
}

func TestHandlesShowADownload(t *testing.T) {
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		g := &fakeGetter{content: randomBytes(100), etag: `"v1"`}
		s3loop.Download(background(), l, g, in("a"), func(p []byte) {
			hs := slices.Collect(l.Handles())
			if len(hs) != 1 || hs[0].Kind != eventloop.KindReader || hs[0].Name != "*s3loop.object s3://films/a at byte 100" {
				t.Errorf("handles: %+v", hs)
			}
		}, func(error) {}, nil)
		return nil
	})
}

// A failingWriter takes n bytes.
type failingWriter struct {
	n   int
	err error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.n)
	if w.n -= n; n < len(p) {
		return n, w.err
	}
	return n, nil
}

func TestDownloadToWritesTheObject(t *testing.T) {
	content, full := randomBytes(200_000), errors.New("disk full")
	for _, c := range []struct {
		writer *failingWriter
		ok     func(err error) bool
		offset int64
	}{
		{&failingWriter{n: 1 << 20}, isNil, 0},
		{&failingWriter{100_000, full}, is(full), 100_000},
		{&failingWriter{100_000, nil}, is(io.ErrShortWrite), 100_000},
	} {
		g := &fakeGetter{content: content, etag: `"v1"`, breaks: []int{70_000, 5}}
		calls := 0
		run(t, func(l *eventloop.Loop) {
			w := eventloop.NewWorkers(l, 1, "s3")
			s3loop.DownloadTo(background(), w, g, in("a"), c.writer, nil).Then(func(head *s3.GetObjectOutput, err error) {
				calls++
				if !c.ok(err) || err == nil && (aws.ToString(head.ETag) != `"v1"` || head.Body != nil) {
					t.Errorf("%+v, %v", head, err)
				}
				if e, _ := errors.AsType[*s3loop.Error](err); err != nil && e.Offset != c.offset {
					t.Errorf("offset %d, want %d", e.Offset, c.offset)
				}
			})
		})
		if calls != 1 || g.bodies() != 0 {
			t.Errorf("%d results, %d open bodies", calls, g.bodies())
		}
	}
}

func TestPiecesInATask(t *testing.T) {
	content := randomBytes(300_000)
	for _, limit := range []int{1 << 20, 100_000} {
		looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
			g := &fakeGetter{content: content, etag: `"v1"`, breaks: []int{70_000}}
			w := eventloop.NewWorkers(l, 1, "s3")
			var got []byte
			l.Go(background(), func(task *eventloop.Task) error {
				for p, err := range s3loop.Pieces(task, w, g, in("a"), nil) {
					if err != nil {
						t.Error(err)
					}
					if got = append(got, p...); len(got) >= limit {
						break
					}
				}
				return nil
			})
			l.OnExit(func() {
				if len(got) < min(limit, len(content)) || !bytes.Equal(got, content[:len(got)]) {
					t.Errorf("got %d bytes", len(got))
				}
			})
			t.Cleanup(func() {
				if g.bodies() != 0 {
					t.Errorf("%d open bodies", g.bodies())
				}
			})
			return nil
		})
	}
}

func TestPiecesEndWithTheError(t *testing.T) {
	for _, c := range []struct {
		input *s3.GetObjectInput
		want  int
	}{{in("a"), 403}, {nil, 0}} {
		g := &fakeGetter{answer: func(int, *s3.GetObjectOutput) error { return status(403) }}
		var errs []error
		run(t, func(l *eventloop.Loop) {
			w := eventloop.NewWorkers(l, 1, "s3")
			l.Go(background(), func(task *eventloop.Task) error {
				for p, err := range s3loop.Pieces(task, w, g, c.input, nil) {
					if errs = append(errs, err); p != nil {
						t.Error("a piece with an error")
					}
				}
				return nil
			})
		})
		if len(errs) != 1 || errs[0] == nil {
			t.Errorf("errors: %v", errs)
		}
	}
}
