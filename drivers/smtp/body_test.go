package smtp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// text returns n bytes of lines, some of which begin with a dot.
func text(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%sline %d\r\n", strings.Repeat(".", i%3), i)
	}
	return b.Bytes()[:n]
}

// A readerOnly has no method but Read.
type readerOnly struct{ io.Reader }

// A writerTo has no method but WriteTo, which can be called again.
type writerTo []byte

func (w writerTo) WriteTo(dst io.Writer) (int64, error) {
	var sum int64
	for p := []byte(w); len(p) > 0; {
		n, err := dst.Write(p[:min(len(p), 1000)])
		sum, p = sum+int64(n), p[n:]
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// A seekOnly is a reader that can seek.
type seekOnly struct{ io.ReadSeeker }

// bodies are all kinds of bodies with the bytes p.
func bodies(p []byte) map[string]any {
	offset := strings.NewReader("not sent" + string(p))
	offset.Seek(8, io.SeekStart)
	return map[string]any{
		"[]byte":          p,
		"*bytes.Buffer":   bytes.NewBuffer(p),
		"*strings.Reader": offset,
		"io.Reader":       readerOnly{bytes.NewReader(p)},
		"io.WriterTo":     writerTo(p),
		"io.ReadSeeker":   seekOnly{bytes.NewReader(p)},
	}
}

// isSentAgain says which bodies of more than a chunk are sent again after a lost
// connection.
var isSentAgain = map[string]bool{"[]byte": true, "*strings.Reader": true, "io.WriterTo": true, "io.ReadSeeker": true}

// take reads a mail and hands it to f. Line ends come as LF.
func take(f func(mail string)) []looptest.Step {
	return step("mail", func(_ net.Conn, in *bufio.Reader) error {
		p, err := io.ReadAll(textproto.NewReader(in).DotReader())
		if err == nil {
			f(string(p))
		}
		return err
	})
}

// received is p as the function take gets it.
func received(p []byte) string {
	s := strings.ReplaceAll(strings.TrimSuffix(string(p), "\r"), "\r\n", "\n")
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return s
}

func TestBodiesOfAllKindsAndSizesArriveWhole(t *testing.T) {
	for _, size := range []int{0, 1, 1000, chunkSize - 1, chunkSize, chunkSize + 1, 3*chunkSize + 5} {
		for name := range bodies(nil) {
			t.Run(fmt.Sprintf("%s,%d", name, size), func(t *testing.T) {
				looptest.Seeds(t, 10, func(t *testing.T, l *eventloop.Loop) error {
					n := looptest.NewNet(t)
					n.Latency(0, 5*time.Millisecond)
					p := text(size)
					c := newClient(t, l, n, nil)
					sent(t, c.Send(t.Context(), Mail{From: "a@x", To: []string{"b@y"}, Body: bodies(p)[name]}), func(Receipt) { c.Close() })
					return n.Script(server, steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"),
						take(func(mail string) {
							if want := received(p); mail != want {
								t.Errorf("%d bytes arrived, want %d", len(mail), len(want))
							}
						}), reply("250 ok"), bye)...)
				})
			})
		}
	}
}

func TestALargeBodyIsReadNoFasterThanTheServerTakesIt(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		const size, step = 4 << 20, 64 << 10
		var read atomic.Int64
		var body endless = func(p []byte) (int, error) {
			if read.Load() == size {
				return 0, io.EOF
			}
			read.Add(int64(len(p)))
			for i := range p {
				p[i] = "x\n"[b2i(i%2 == 1)]
			}
			return len(p), nil
		}
		c := newClient(t, l, n, nil)
		sent(t, c.Send(t.Context(), Mail{From: "a@x", To: []string{"b@y"}, Body: body}), func(Receipt) { c.Close() })
		slow := looptest.Step(func(_ net.Conn, in *bufio.Reader) error {
			for got := int64(0); got < size; got += step {
				time.Sleep(time.Second)
				// Two chunks, what the connection queues with CRLF line ends, and what is on the way.
				if ahead := read.Load() - got; ahead > 4*chunkSize+256<<10+64<<10 {
					return fmt.Errorf("%d bytes ahead of the server", ahead)
				}
				if _, err := io.CopyN(io.Discard, in, step*3/2); err != nil {
					return err
				}
			}
			return nil
		})
		return n.Script(server, steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"), []looptest.Step{slow}, expect("."), reply("250 ok"), bye)...)
	})
}

// When the future has its result, the body belongs to the application, also if the mail
// was given up while it was measured or sent. The race detector says if it does not.
func TestABodyBelongsToTheApplicationAfterTheResult(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer c.Close()
				f.serve(c, bufio.NewReader(c))
			})
		}
	})
	err = eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		c, err := New(l, &Options{Addr: ln.Addr().String(), Security: NoTLS})
		if err != nil {
			return err
		}
		release := l.Hold()
		go func() {
			defer release()
			defer c.Abort()
			body := []byte(strings.Repeat("hello world\r\n", 200_000))
			for i := range 60 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%20)*time.Millisecond/2)
				c.Send(ctx, Mail{From: "a@x", To: []string{"b@y"}, Body: body}).Wait(t.Context())
				cancel()
				for k := 0; k < len(body); k += 100 {
					body[k] = 'x'
				}
			}
		}()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	ln.Close()
	served.Wait()
}

type endless func(p []byte) (int, error)

func (f endless) Read(p []byte) (int, error) { return f(p) }

var errDisk = errors.New("disk error")

// A mail whose body fails must not arrive in part, neither complete nor again.
func TestABodyThatFailsIsNeverDelivered(t *testing.T) {
	for _, size := range []int{0, 10, chunkSize, 3 * chunkSize} {
		for name, fail := range map[string]func() (int, error){
			"error":  func() (int, error) { return 0, errDisk },
			"panic":  func() (int, error) { panic(errDisk) },
			"goexit": func() (int, error) { runtime.Goexit(); return 0, nil },
		} {
			t.Run(fmt.Sprintf("%s,%d", name, size), func(t *testing.T) {
				protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
					c := newClient(t, l, n, func(o *Options) { o.MaxConns = 1 })
					body := io.MultiReader(bytes.NewReader(text(size)), endless(func([]byte) (int, error) { return fail() }))
					var want []error
					if name != "goexit" {
						want = append(want, errDisk)
					}
					fails(t, c.Send(t.Context(), Mail{From: "a@x", To: []string{"b@y"}, Body: body}), want...)
					sent(t, c.Send(t.Context(), mail()), func(Receipt) { c.Close() })
					notAll := step("mail", func(_ net.Conn, in *bufio.Reader) error {
						if _, err := io.ReadAll(textproto.NewReader(in).DotReader()); err == nil {
							return errors.New("half a mail was delivered")
						}
						return nil
					})
					if size < chunkSize { // it fails before the mail begins, and the session is good
						return n.Script(server, steps(greet("PIPELINING"), accept(), bye)...)
					}
					if size == chunkSize { // the error may be known before the mail begins, or not
						return n.Script(server, perConnection(steps(greet("PIPELINING"), []looptest.Step{either(t, notAll)}), steps(greet("PIPELINING"), accept(), bye))...)
					}
					return n.Script(server, perConnection(
						steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"), notAll),
						steps(greet("PIPELINING"), accept(), bye))...)
				})
			})
		}
	}
}

// either takes one or two mails: the first may have failed before it began.
func either(t *testing.T, notAll []looptest.Step) looptest.Step {
	return func(c net.Conn, in *bufio.Reader) error {
		if err := follow(c, in, steps(envelope, reply("250 ok", "250 ok", "354 go"))); err != nil {
			return err
		}
		first, err := in.Peek(7)
		if err != nil {
			return nil
		}
		if string(first) == "Subject" {
			return follow(c, in, steps(hi, reply("250 ok"), bye))
		}
		return follow(c, in, notAll)
	}
}

func TestALostMailIsSentAgainIfItsBodyCanBeReadAgain(t *testing.T) {
	for _, size := range []int{1000, 20 * chunkSize} {
		for name := range bodies(nil) {
			t.Run(fmt.Sprintf("%s,%d", name, size), func(t *testing.T) {
				looptest.Seeds(t, 20, func(t *testing.T, l *eventloop.Loop) error {
					n := looptest.NewNet(t)
					n.Latency(0, 5*time.Millisecond)
					p := text(size)
					c := newClient(t, l, n, nil)
					f := c.Send(t.Context(), Mail{From: "a@x", To: []string{"b@y"}, Body: bodies(p)[name]})
					f.Then(func(Receipt, error) { c.Close() })
					begun := steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"))
					if size > chunkSize {
						begun = append(begun, looptest.ExpectBytes(string(p[:8])))
					} else {
						begun = begun[:len(begun)-1] // cut before the replies: nothing of the mail was sent
					}
					whole := steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"),
						take(func(mail string) {
							if want := received(p); mail != want {
								t.Errorf("%d bytes arrived, want %d", len(mail), len(want))
							}
						}), reply("250 ok"), bye)
					if size <= chunkSize || isSentAgain[name] {
						sent(t, f, nil)
						return n.Script(server, perConnection(begun, whole)...)
					}
					fails(t, f)
					f.Then(func(_ Receipt, err error) {
						if errors.Is(err, ErrUncertain) {
							t.Errorf("%v: the end of the mail was never sent", err)
						}
					})
					return n.Script(server, perConnection(begun, step("again", func(net.Conn, *bufio.Reader) error {
						return errors.New("a second connection")
					}))...)
				})
			})
		}
	}
}

// A closer counts its Close, which ends a Read that waits.
type closer struct {
	io.Reader
	closed chan struct{}
	count  atomic.Int32
}

func newCloser(r io.Reader) *closer { return &closer{Reader: r, closed: make(chan struct{})} }

func (c *closer) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err == io.ErrNoProgress {
		<-c.closed
		return n, net.ErrClosed
	}
	return n, err
}

func (c *closer) Close() error {
	if c.count.Add(1) == 1 {
		close(c.closed)
	}
	return nil
}

// stuck is a reader that waits for Close of its closer.
var stuck = endless(func([]byte) (int, error) { return 0, io.ErrNoProgress })

func TestABodyIsClosedOnce(t *testing.T) {
	taken := steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"), take(func(string) {}), reply("250 ok"))
	refused := steps(greet("PIPELINING"), envelope, reply("550 no", "503 no", "503 no"))
	for _, c := range []struct {
		name   string
		body   io.Reader
		end    func(c *Client, l *eventloop.Loop, cancel func())
		script []looptest.Step
	}{
		{"sent", bytes.NewReader(text(10)), nil, taken},
		{"large and sent", bytes.NewReader(text(3 * chunkSize)), nil, taken},
		{"refused", bytes.NewReader(text(3 * chunkSize)), nil, refused},
		{"failed", io.MultiReader(bytes.NewReader(text(3*chunkSize)), endless(func([]byte) (int, error) { return 0, errDisk })), nil, greet()[:1]},
		{"canceled while it is read", io.MultiReader(bytes.NewReader(text(chunkSize+10)), stuck), func(_ *Client, _ *eventloop.Loop, cancel func()) { cancel() }, greet()[:1]},
		{"canceled in the queue", bytes.NewReader(nil), func(_ *Client, _ *eventloop.Loop, cancel func()) { cancel() }, nil},
		{"aborted", stuck, func(c *Client, _ *eventloop.Loop, _ func()) { c.Abort() }, greet()[:1]},
	} {
		t.Run(c.name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				client := newClient(t, l, n, nil)
				body := newCloser(c.body)
				if s, ok := c.body.(*bytes.Reader); ok {
					s.Seek(0, io.SeekStart)
				}
				if c.name == "failed" || c.name == "canceled while it is read" {
					size := chunkSize + 10
					last := stuck
					if c.name == "failed" {
						last = func([]byte) (int, error) { return 0, errDisk }
					}
					body.Reader = io.MultiReader(bytes.NewReader(text(size)), last)
				}
				ctx, cancel := context.WithCancel(t.Context())
				f := client.Send(ctx, Mail{From: "a@x", To: []string{"b@y"}, Body: body})
				f.Then(func(Receipt, error) { client.Close() })
				if c.end != nil {
					l.AfterFunc(time.Duration(1+looptest.Rand(t).IntN(100))*time.Millisecond, func() { c.end(client, l, cancel) })
				}
				l.OnExit(func() {
					cancel()
					if n := body.count.Load(); n != 1 {
						t.Errorf("the body was closed %d times", n)
					}
				})
				return n.Script(server, steps(c.script, []looptest.Step{drain})...)
			})
		})
	}
}

func TestABodyThatSendRefusesIsNotClosed(t *testing.T) {
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		c := newClient(t, l, looptest.NewNet(t), nil)
		body := newCloser(strings.NewReader("x"))
		c.Send(t.Context(), Mail{From: "a@x\n", To: []string{"b@y"}, Body: body}).Ignore()
		c.Close()
		c.Send(t.Context(), Mail{From: "a@x", To: []string{"b@y"}, Body: body}).Ignore()
		l.OnExit(func() {
			if n := body.count.Load(); n != 0 {
				t.Errorf("the body was closed %d times", n)
			}
		})
		return nil
	})
}

// A badCloser is a body whose Close panics. Its Read waits for Close.
type badCloser struct {
	reads  chan struct{}
	closed chan struct{}
}

func (b *badCloser) Read([]byte) (int, error) {
	b.reads <- struct{}{}
	<-b.closed
	return 0, io.ErrClosedPipe
}

func (b *badCloser) Close() error {
	close(b.closed)
	panic("oops")
}

// The mail has its result before its body is closed. If a Read is in progress, Close runs on
// the goroutine that interrupts it.
func TestAPanicInCloseOfABodyIsAnEvent(t *testing.T) {
	for _, reading := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var events []error
			cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
			err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
				dial := func(context.Context, string, string) (net.Conn, error) {
					ours, theirs := net.Pipe()
					go func() {
						defer theirs.Close()
						(&fakeServer{}).serve(theirs, bufio.NewReader(theirs))
					}()
					return ours, nil
				}
				c, err := New(l, &Options{Addr: server, Security: NoTLS, LocalName: "client.example", Dial: dial})
				if err != nil {
					return err
				}
				ctx, cancel := context.WithCancel(t.Context())
				body := &badCloser{make(chan struct{}, 1), make(chan struct{})}
				m := mail()
				m.Body = body
				fails(t, c.Send(ctx, m), context.Canceled).Then(func(Receipt, error) { c.Close() })
				if !reading {
					cancel()
					return nil
				}
				go func() { <-body.reads; cancel() }()
				return nil
			})
			if err != nil || len(events) != 1 || !errors.As(events[0], new(*eventloop.PanicError)) {
				t.Errorf("reading=%v: Run returns %v, events %v", reading, err, events)
			}
		})
	}
}
