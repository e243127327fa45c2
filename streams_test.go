package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/sockio"
)

// streamed runs f as a task with the stream of a connection, in virtual time, and
// far with the other end of it on a goroutine of its own.
func streamed(t *testing.T, cfg *eventloop.ConnConfig, f func(k *eventloop.Task, nc net.Conn) error, far func(nc net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, other := net.Pipe()
		done := make(chan int)
		go func() { defer close(done); defer other.Close(); far(other) }()
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := l.Adopt(near, cfg)
			l.Go(context.Background(), func(k *eventloop.Task) error {
				nc := c.NetConn(k)
				defer nc.Close()
				return f(k, nc)
			}).Then(func(_ struct{}, err error) { wantEqual(t, "the task's error", err, nil) })
			return err
		})
		wantEqual(t, "Run", err, nil)
		<-done
	})
}

// A stream that holds back what arrived keeps the reading side from noticing a
// reset, which the writing side has met.
func TestStreamWriteAndFlushedEndWhenThePeerResetsThoughNotAllThatArrivedIsRead(t *testing.T) {
	for name, write := range map[string]func(k *eventloop.Task, c *eventloop.Conn, s net.Conn) error{
		"Write": func(_ *eventloop.Task, _ *eventloop.Conn, s net.Conn) error {
			_, err := s.Write(plenty)
			return err
		},
		"Flushed": func(k *eventloop.Task, c *eventloop.Conn, _ net.Conn) error {
			c.Write(plenty)
			_, err := c.Flushed().Await(k)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			blocked := make(chan struct{})
			serveTask(t, &eventloop.ConnConfig{MaxBuffered: -1, OnEvent: func(*eventloop.Conn, error) {}}, func(k *eventloop.Task, c *eventloop.Conn) error {
				s := c.NetConn(k)
				var one [1]byte
				if _, err := s.Read(one[:]); err != nil {
					return err
				}
				close(blocked)
				if err := write(k, c, s); !errors.Is(err, eventloop.ErrReset) {
					t.Errorf("%s = %v, want a reset", name, err)
				}
				rest := make([]byte, 4)
				if _, err := io.ReadFull(s, rest); err != nil || string(rest) != "ello" {
					t.Errorf("what had arrived = %q, %v", rest, err)
				}
				return nil
			}, func(addr string) {
				peer := dial(t, addr)
				io.WriteString(peer, "hello")
				<-blocked
				readString(t, peer, 1) // it has begun to write
				reset(t, peer)
			})
		})
	}
}

// serveTask runs a loop with a listener on a real socket, each connection of
// which is a task. client runs on a goroutine of its own; afterwards the loop ends
// when its connections do.
func serveTask(t *testing.T, cfg *eventloop.ConnConfig, serve func(k *eventloop.Task, c *eventloop.Conn) error, client func(addr string)) {
	t.Helper()
	var conf eventloop.ConnConfig
	if cfg != nil {
		conf = *cfg
	}
	mustRun(t, nil, func(l *eventloop.Loop) {
		conf.OnConnect = func(c *eventloop.Conn) {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				defer c.Close()
				return serve(k, c)
			}).Then(func(_ struct{}, err error) { wantEqual(t, "the task's error", err, nil) })
		}
		ln, err := l.Listen("tcp", "127.0.0.1:0", &conf)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer ln.Close()
			client(ln.Addr().String())
		}()
	})
}

// dial connects to addr, or ends the test.
func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		panic(err)
	}
	return nc.(*net.TCPConn)
}

func TestStreamReadsLinesWithAScanner(t *testing.T) {
	var lines []string
	streamed(t, nil, func(k *eventloop.Task, nc net.Conn) error {
		s := bufio.NewScanner(nc)
		for s.Scan() {
			lines = append(lines, s.Text())
		}
		return s.Err()
	}, func(nc net.Conn) {
		for _, part := range []string{"on", "e\ntw", "o\n", "\nthree"} {
			io.WriteString(nc, part)
			time.Sleep(time.Second)
		}
	})
	wantSlice(t, "lines", lines, []string{"one", "two", "", "three"})
}

func TestStreamServesJSON(t *testing.T) {
	type message struct {
		N    int
		Text string
	}
	serveTask(t, nil, func(k *eventloop.Task, c *eventloop.Conn) error {
		nc := c.NetConn(k)
		dec, enc := json.NewDecoder(nc), json.NewEncoder(nc)
		for {
			var m message
			if err := dec.Decode(&m); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			m.N++
			if err := enc.Encode(m); err != nil {
				return err
			}
		}
	}, func(addr string) {
		nc := dial(t, addr)
		defer nc.Close()
		dec, enc := json.NewDecoder(nc), json.NewEncoder(nc)
		for i := range 100 {
			sent := message{i, strings.Repeat("x", i*100)}
			enc.Encode(sent)
			var got message
			if err := dec.Decode(&got); err != nil || got.N != i+1 || got.Text != sent.Text {
				t.Errorf("answer %d = %v, %v", i, got, err)
				return
			}
		}
	})
}

func TestStreamServesTextproto(t *testing.T) {
	streamed(t, nil, func(k *eventloop.Task, nc net.Conn) error {
		c := textproto.NewConn(nc)
		if err := c.PrintfLine("220 hello"); err != nil {
			return err
		}
		line, err := c.ReadLine()
		wantEqual(t, "line", line, "HELO there")
		if err != nil {
			return err
		}
		h, err := c.ReadMIMEHeader()
		wantEqual(t, "header", h.Get("Subject"), "tasks")
		return err
	}, func(nc net.Conn) {
		c := textproto.NewConn(nc)
		code, msg, err := c.ReadResponse(220)
		if code != 220 || msg != "hello" || err != nil {
			t.Errorf("greeting = %d %q %v", code, msg, err)
		}
		c.PrintfLine("HELO there")
		c.PrintfLine("Subject: tasks\r\n")
	})
}

func TestStreamServesHTTPRequests(t *testing.T) {
	serveTask(t, nil, func(k *eventloop.Task, c *eventloop.Conn) error {
		nc := c.NetConn(k)
		r := bufio.NewReader(nc)
		for {
			req, err := http.ReadRequest(r)
			if err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return err
			}
			resp := &http.Response{
				StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Request: req,
				ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
			}
			if err := resp.Write(nc); err != nil {
				return err
			}
		}
	}, func(addr string) {
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		for i := range 5 {
			body := strings.Repeat("body ", i*1000)
			resp, err := client.Post("http://"+addr+"/echo", "text/plain", strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(got) != body || err != nil {
				t.Errorf("answer of %d bytes, %v; want %d", len(got), err, len(body))
			}
		}
	})
}

func TestCopyBetweenTwoStreamsIsAProxy(t *testing.T) {
	const size = 3 << 20
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan int)
	go func() {
		defer close(echoed)
		defer upstream.Close()
		nc, err := upstream.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		echoAll(nc)
	}()
	serveTask(t, nil, func(k *eventloop.Task, c *eventloop.Conn) error {
		up, err := k.Loop().Dial(k.Context(), "tcp", upstream.Addr().String(), nil)
		if err != nil {
			return err
		}
		defer up.Close()
		copyTo := func(dst, src *eventloop.Conn) func(k *eventloop.Task) error {
			return func(k *eventloop.Task) error {
				_, err := io.Copy(dst.NetConn(k), src.NetConn(k))
				dst.CloseWrite()
				return err
			}
		}
		g := k.Group()
		g.Go(copyTo(up, c))
		g.Go(copyTo(c, up))
		return g.Wait()
	}, func(addr string) {
		nc := dial(t, addr)
		defer nc.Close()
		sent := pattern(size)
		go func() {
			nc.Write(sent)
			nc.CloseWrite()
		}()
		got, err := io.ReadAll(nc)
		if !bytes.Equal(got, sent) || err != nil {
			t.Errorf("%d bytes came back, %v; want the %d that were sent", len(got), err, size)
		}
	})
	<-echoed
}

// echoAll is io.Copy without the pipes that package net keeps for splice.
func echoAll(nc net.Conn) {
	io.Copy(struct{ io.Writer }{nc}, struct{ io.Reader }{nc})
}

// pattern returns n bytes that tell where they belong.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return p
}

func TestTwoTasksOnOneConnection(t *testing.T) {
	const n = 500
	serveTask(t, nil, func(k *eventloop.Task, c *eventloop.Conn) error {
		g := k.Group()
		g.Go(func(k *eventloop.Task) error { // writes on its own clock
			nc := c.NetConn(k)
			for i := range n {
				if _, err := fmt.Fprintln(nc, i); err != nil {
					return err
				}
				k.Yield()
			}
			return nil
		})
		g.Go(func(k *eventloop.Task) error {
			s, i := bufio.NewScanner(c.NetConn(k)), 0
			for ; s.Scan(); i++ {
				wantEqual(t, "line", s.Text(), fmt.Sprint(i))
			}
			wantEqual(t, "lines", i, n)
			return s.Err()
		})
		return g.Wait()
	}, func(addr string) {
		nc := dial(t, addr)
		defer nc.Close()
		go func() {
			for i := range n {
				fmt.Fprintln(nc, i)
			}
			nc.CloseWrite()
		}()
		s, i := bufio.NewScanner(nc), 0
		for ; s.Scan(); i++ {
			wantEqual(t, "line at the client", s.Text(), fmt.Sprint(i))
		}
		wantEqual(t, "lines at the client", i, n)
	})
}

func TestASecondReaderAndASecondWriterGetAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe() // without a reader: a Write waits
		defer far.Close()
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := l.Adopt(near, &eventloop.ConnConfig{HighWater: 10})
			var first []error
			for _, op := range []func(nc net.Conn) (int, error){
				func(nc net.Conn) (int, error) { return nc.Read(make([]byte, 1)) },
				func(nc net.Conn) (int, error) { return nc.Write(make([]byte, 100)) },
			} {
				l.Go(context.Background(), func(k *eventloop.Task) error {
					_, err := op(c.NetConn(k))
					first = append(first, err)
					return nil
				})
				l.Go(context.Background(), func(k *eventloop.Task) error {
					_, err := op(c.NetConn(k))
					wantErr(t, "error of the second", err, eventloop.ErrConn)
					if errors.Is(err, net.ErrClosed) || eventloop.IsInfo(err) {
						t.Errorf("error of the second = %v", err)
					}
					return nil
				})
			}
			l.AfterFunc(time.Second, func() { c.Abort() })
			l.OnExit(func() { wantSlice(t, "errors of the first", first, []error{net.ErrClosed, net.ErrClosed}) })
			return err
		})
	})
}

// What arrives before Stream.

func TestDataThatArrivedBeforeStreamIsNotLost(t *testing.T) {
	for _, ended := range []bool{false, true} {
		for _, wait := range []time.Duration{0, 100 * time.Millisecond} {
			t.Run(fmt.Sprint(ended, wait), func(t *testing.T) {
				serveTask(t, nil, func(k *eventloop.Task, c *eventloop.Conn) error {
					if err := k.Sleep(wait); err != nil {
						return err
					}
					nc := c.NetConn(k)
					if ended {
						got, err := io.ReadAll(nc)
						wantEqual(t, "data", string(got), "hello")
						wantEqual(t, "error", err, nil)
					} else {
						got := make([]byte, 5)
						_, err := io.ReadFull(nc, got)
						wantEqual(t, "data", string(got), "hello")
						wantEqual(t, "error", err, nil)
					}
					_, err := io.WriteString(nc, "answer")
					return err
				}, func(addr string) {
					nc := dial(t, addr)
					defer nc.Close()
					io.WriteString(nc, "hello")
					if ended {
						nc.CloseWrite()
					}
					got, err := io.ReadAll(nc)
					wantEqual(t, "answer", string(got), "answer")
					wantEqual(t, "error of the client", err, nil)
				})
			})
		}
	}
}

func TestAnEndThatCameBeforeStreamIsReadAndCanBeAnswered(t *testing.T) {
	serveTask(t, nil, func(k *eventloop.Task, c *eventloop.Conn) error {
		if err := k.Sleep(50 * time.Millisecond); err != nil {
			return err
		}
		nc := c.NetConn(k)
		got, err := io.ReadAll(nc)
		wantEqual(t, "bytes", len(got), 0)
		wantEqual(t, "error", err, nil)
		_, err = io.WriteString(nc, "answer")
		return err
	}, func(addr string) {
		nc := dial(t, addr)
		defer nc.Close()
		nc.CloseWrite()
		got, err := io.ReadAll(nc)
		wantEqual(t, "answer", string(got), "answer")
		wantEqual(t, "error of the client", err, nil)
	})
}

func TestBytesThatNothingAsksForEndTheConnectionOnceThePeerHasLeft(t *testing.T) {
	if !sockio.Raw {
		t.Skip("only Linux reports that the peer has left while received bytes are unread")
	}
	var events []error
	mustRun(t, nil, func(l *eventloop.Loop) {
		c, peer := adopt(t, l, &eventloop.ConnConfig{
			ReadTimeout: 500 * time.Millisecond, // which does not run before the end
			OnEvent:     func(_ *eventloop.Conn, err error) { events = append(events, err) },
		})
		io.WriteString(peer, "for the next reader")
		l.AfterFunc(800*time.Millisecond, func() {
			wantEqual(t, "closed while the peer is there", c.Closed(), false)
			peer.Close()
		})
	})
	if len(events) != 1 || !errors.Is(events[0], eventloop.ErrNoReader) || !errors.Is(events[0], eventloop.ErrConn) {
		t.Errorf("events = %v, want one ErrNoReader", events)
	}
}

// A task that has the stream for longer than ReadTimeout and leaves bytes unread does not
// keep the connection open: after it, nothing reads them.
func TestBytesThatAStreamLeavesEndTheConnectionOnceThePeerHasLeft(t *testing.T) {
	if !sockio.Raw {
		t.Skip("only Linux reports that the peer has left while received bytes are unread")
	}
	var events []error
	mustRun(t, nil, func(l *eventloop.Loop) {
		c, peer := adopt(t, l, &eventloop.ConnConfig{
			ReadTimeout: 200 * time.Millisecond,
			OnEvent:     func(_ *eventloop.Conn, err error) { events = append(events, err) },
		})
		io.WriteString(peer, "for the next reader")
		peer.Close()
		l.Go(context.Background(), func(k *eventloop.Task) error {
			k.Sleep(100 * time.Millisecond) // the bytes wait for a reader
			c.NetConn(k)
			return k.Sleep(500 * time.Millisecond)
		})
	})
	if len(events) != 1 || !errors.Is(events[0], eventloop.ErrNoReader) {
		t.Errorf("events = %v, want one ErrNoReader", events)
	}
}

// While reading is paused, the end waits, however long no reader comes. Afterwards it waits
// for a reader for a limited time.
func TestAnEndWithoutAReaderWaitsForTheEndOfAPause(t *testing.T) {
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprint("reads ", reads), func(t *testing.T) {
			var events []error
			cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
			err := virtually(t, cfg, func(l *eventloop.Loop) {
				near, far := net.Pipe()
				far.Close()
				c, err := l.Adopt(near, nil)
				if err != nil {
					t.Error(err)
					return
				}
				l.Go(context.Background(), func(k *eventloop.Task) error {
					k.Sleep(time.Second)
					c.PauseReading()
					k.Sleep(time.Hour)
					wantEqual(t, "events during the pause", len(events), 0)
					wantEqual(t, "Closed during the pause", c.Closed(), false)
					c.ResumeReading()
					if reads {
						_, err := c.NetConn(k).Read(make([]byte, 1))
						wantEqual(t, "Read", err, io.EOF)
						return nil
					}
					k.Sleep(time.Minute)
					wantSlice(t, "events", events, []error{io.EOF})
					wantEqual(t, "Closed a minute later", c.Closed(), true)
					return nil
				})
			})
			wantEqual(t, "Run", err, nil)
		})
	}
}

func TestStreamAfterStreamLosesNothing(t *testing.T) {
	const n = 20
	serveTask(t, nil, func(k *eventloop.Task, c *eventloop.Conn) error {
		for i := range n { // a task a letter, and a pause in between
			_, err := k.Loop().Go(k.Context(), func(k *eventloop.Task) error {
				p := make([]byte, 1)
				_, err := c.NetConn(k).Read(p)
				wantEqual(t, "letter", p[0], 'a'+byte(i))
				return err
			}).Await(k)
			if err != nil {
				return err
			}
			k.Sleep(time.Duration(i%3) * time.Millisecond)
		}
		return nil
	}, func(addr string) {
		nc := dial(t, addr)
		defer nc.Close()
		for i := range n {
			nc.Write([]byte{'a' + byte(i)})
			if i%2 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		io.Copy(io.Discard, nc)
	})
}

func TestWhatTheTaskDidNotReadGoesToTheCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		var events []string
		go func() {
			time.Sleep(time.Second) // until the task has the stream
			io.WriteString(far, "headbody")
			time.Sleep(time.Second)
			io.WriteString(far, "more")
			far.Close()
		}()
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := l.Adopt(near, &eventloop.ConnConfig{
				OnData:  func(c *eventloop.Conn, p []byte) { events = append(events, string(p)) },
				OnEvent: func(c *eventloop.Conn, err error) { events = append(events, err.Error()) },
				OnClose: func(c *eventloop.Conn) { events = append(events, "close") },
			})
			l.Go(context.Background(), func(k *eventloop.Task) error {
				head := make([]byte, 4)
				_, err := io.ReadFull(c.NetConn(k), head)
				events = append(events, "task: "+string(head))
				return err
			})
			return err
		})
		wantEqual(t, "Run", err, nil)
		wantSlice(t, "events", events, []string{"task: head", "body", "more", "EOF", "close"})
	})
}

func TestAnEndThatNoReadToldGoesToOnEventWhenTheTaskEnds(t *testing.T) {
	for _, read := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			var events []string
			eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
				c, err := l.Adopt(near, &eventloop.ConnConfig{
					OnEvent: func(c *eventloop.Conn, err error) { events = append(events, err.Error()) },
					OnClose: func(c *eventloop.Conn) { events = append(events, "close") },
				})
				l.Go(context.Background(), func(k *eventloop.Task) error {
					nc := c.NetConn(k)
					k.Sleep(time.Second)
					far.Close()
					k.Sleep(time.Second)
					if read {
						_, err := nc.Read(make([]byte, 1))
						wantEqual(t, "Read", err, io.EOF)
					}
					events = append(events, "task")
					return nil
				})
				return err
			})
			want := []string{"task", "EOF", "close"}
			if read {
				want = []string{"task", "close"}
			}
			wantSlice(t, "events", events, want)
		})
	}
}

// A finConn is a connection whose peer ends its side with the byte fin, and still
// receives, which a net.Pipe does not do after its Close.
type finConn struct {
	net.Conn
	ended bool
}

const fin = 4

func (c *finConn) Read(p []byte) (n int, err error) {
	if !c.ended {
		n, err = c.Conn.Read(p)
		c.ended = n == 1 && p[0] == fin
	}
	if c.ended {
		return 0, io.EOF
	}
	return n, err
}

func (c *finConn) CloseWrite() error { return nil }

// endUnread runs a loop in virtual time with a connection of which a task has a
// NetConn. The peer ends its side, no Read returns the end, and the task ends after it
// has called pause. afterwards runs on the loop in the turn after the end of the task. log
// holds the callbacks of the connection, and what the test has added.
func endUnread(t *testing.T, cfg eventloop.ConnConfig, pause func(k *eventloop.Task, c *eventloop.Conn), afterwards func(l *eventloop.Loop, c *eventloop.Conn, log *[]string)) {
	t.Helper()
	var log []string
	err := virtually(t, nil, func(l *eventloop.Loop) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		cfg.OnData = func(_ *eventloop.Conn, p []byte) { log = append(log, string(p)) }
		cfg.OnEvent = func(_ *eventloop.Conn, err error) { log = append(log, err.Error()) }
		cfg.OnClose = func(*eventloop.Conn) { log = append(log, "close") }
		c, err := l.Adopt(&finConn{Conn: near}, &cfg)
		if err != nil {
			t.Error(err)
			return
		}
		l.Go(context.Background(), func(k *eventloop.Task) error {
			c.NetConn(k)
			far.Write([]byte{fin})
			k.Sleep(time.Second) // the stream has the end
			pause(k, c)
			return nil
		}).Then(func(struct{}, error) {
			l.Post(func() { afterwards(l, c, &log) })
		})
	})
	wantEqual(t, "Run", err, nil)
}

func pauseReading(_ *eventloop.Task, c *eventloop.Conn) { c.PauseReading() }

func TestAnEndThatNoReadReturnedIsHeldWhileReadingIsPaused(t *testing.T) {
	endUnread(t, eventloop.ConnConfig{}, pauseReading, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		l.AfterFunc(time.Second, func() {
			wantEqual(t, "callbacks during the pause", len(*log), 0)
			wantEqual(t, "Closed during the pause", c.Closed(), false)
			c.ResumeReading()
			c.PauseReading() // before the end is delivered
		})
		l.AfterFunc(2*time.Second, func() {
			wantEqual(t, "callbacks during the second pause", len(*log), 0)
			c.ResumeReading()
		})
		l.AfterFunc(3*time.Second, func() {
			wantSlice(t, "callbacks", *log, []string{"EOF", "close"})
			wantEqual(t, "Err", c.Err(), io.EOF)
		})
	})
}

func TestAnEndThatNoReadReturnedIsHeldWhileOutputIsOverHighWater(t *testing.T) {
	pause := func(_ *eventloop.Task, c *eventloop.Conn) {
		c.PauseWriting()
		c.Write(make([]byte, 100))
	}
	endUnread(t, eventloop.ConnConfig{HighWater: 10}, pause, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		wantEqual(t, "callbacks during the pause", len(*log), 0)
		l.AfterFunc(time.Second, func() { // reading has continued after 20 ms
			wantSlice(t, "callbacks", *log, []string{"EOF", "close"})
		})
	})
}

func TestAHeldEndGoesToTheNextStream(t *testing.T) {
	endUnread(t, eventloop.ConnConfig{}, pauseReading, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		l.AfterFunc(time.Second, c.ResumeReading)
		l.Go(context.Background(), func(k *eventloop.Task) error {
			begin := time.Now()
			_, err := c.NetConn(k).Read(make([]byte, 1))
			wantEqual(t, "Read", err, io.EOF)
			wantEqual(t, "time until the end", time.Since(begin), time.Second)
			wantEqual(t, "callbacks", len(*log), 0)
			return nil
		}).Then(func(struct{}, error) {
			l.AfterFunc(time.Second, func() { wantSlice(t, "callbacks", *log, []string{"close"}) })
		})
	})
}

// A second task that does not read the end either leaves it to the callbacks.
func TestAHeldEndThatTheNextStreamDoesNotReadGoesToTheCallbacks(t *testing.T) {
	endUnread(t, eventloop.ConnConfig{}, pauseReading, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			c.NetConn(k)
			return nil
		}).Then(func(struct{}, error) {
			c.ResumeReading()
			l.AfterFunc(time.Second, func() { wantSlice(t, "callbacks", *log, []string{"EOF", "close"}) })
		})
	})
}

func TestDetachReturnsAConnectionWhoseReadReturnsTheHeldEnd(t *testing.T) {
	endUnread(t, eventloop.ConnConfig{}, pauseReading, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		c.Detach().Then(func(nc net.Conn, err error) {
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			_, err = nc.Read(make([]byte, 1)) // returns immediately
			wantEqual(t, "Read", err, io.EOF)
			wantSlice(t, "callbacks", *log, []string{"close"})
		})
	})
}

func TestStartTLSFailsOnceAfterAHeldEnd(t *testing.T) {
	endUnread(t, eventloop.ConnConfig{}, pauseReading, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		c.StartTLS(&tls.Config{InsecureSkipVerify: true}).Then(func(_ tls.ConnectionState, err error) {
			if err == nil {
				t.Error("StartTLS succeeded")
			}
		})
		c.ResumeReading()
		l.AfterFunc(time.Second, func() {
			if len(*log) != 2 || (*log)[0] == "EOF" || (*log)[1] != "close" {
				t.Errorf("callbacks = %q, want one error and close", *log)
			}
		})
	})
}

// The pause ends while the loop is busy for longer than ReadTimeout.
func TestReadTimeoutDoesNotOvertakeAHeldEnd(t *testing.T) {
	cfg := eventloop.ConnConfig{ReadTimeout: time.Minute}
	endUnread(t, cfg, pauseReading, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		l.AfterFunc(time.Hour, func() {
			wantEqual(t, "callbacks during the pause", len(*log), 0)
			c.ResumeReading()
			time.Sleep(time.Hour)
		})
		l.AfterFunc(3*time.Hour, func() { wantSlice(t, "callbacks", *log, []string{"EOF", "close"}) })
	})
}

func TestAHeldEndLeavesAHalfOpenConnectionOpen(t *testing.T) {
	cfg := eventloop.ConnConfig{AllowHalfOpen: true}
	endUnread(t, cfg, pauseReading, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		c.ResumeReading()
		l.AfterFunc(time.Second, func() {
			wantSlice(t, "callbacks", *log, []string{"EOF"})
			c.Close()
		})
	})
}

// CloseWrite after the peer's end ends both directions, but the connection stays open
// until its streams have ended.
func TestAnEndThatNoReadReturnedIsReportedAfterCloseWrite(t *testing.T) {
	for _, half := range []bool{false, true} {
		closeWrite := func(k *eventloop.Task, c *eventloop.Conn) {
			wantEqual(t, "CloseWrite", c.CloseWrite(), nil)
			k.Sleep(time.Second)
			wantEqual(t, "Closed before the task ends", c.Closed(), false)
		}
		cfg := eventloop.ConnConfig{AllowHalfOpen: half}
		endUnread(t, cfg, closeWrite, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
			l.AfterFunc(time.Second, func() { wantSlice(t, "callbacks", *log, []string{"EOF", "close"}) })
		})
	}
}

func TestCloseWriteDuringAPauseDropsNeitherUnreadBytesNorTheEnd(t *testing.T) {
	pause := func(k *eventloop.Task, c *eventloop.Conn) {
		c.PauseReading()
		wantEqual(t, "Unread", c.Unread([]byte("rest")), nil)
	}
	endUnread(t, eventloop.ConnConfig{AllowHalfOpen: true}, pause, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		wantEqual(t, "CloseWrite", c.CloseWrite(), nil)
		l.AfterFunc(time.Second, func() {
			wantEqual(t, "callbacks during the pause", len(*log), 0)
			c.ResumeReading()
		})
		l.AfterFunc(2*time.Second, func() { wantSlice(t, "callbacks", *log, []string{"rest", "EOF", "close"}) })
	})
}

func TestPipeSendsUnreadBytesBeforeAHeldEnd(t *testing.T) {
	pause := func(k *eventloop.Task, c *eventloop.Conn) {
		c.PauseReading()
		wantEqual(t, "Unread", c.Unread([]byte("rest")), nil)
	}
	endUnread(t, eventloop.ConnConfig{}, pause, func(l *eventloop.Loop, c *eventloop.Conn, log *[]string) {
		near, far := net.Pipe()
		received := make(chan string, 1)
		go func() {
			text, _ := io.ReadAll(far)
			received <- string(text)
		}()
		dst, err := l.Adopt(near, nil)
		if err != nil {
			t.Error(err)
			return
		}
		c.Pipe(dst).Then(func(n int64, err error) {
			wantEqual(t, "piped bytes", n, 4)
			wantEqual(t, "error of the pipe", err, nil)
		})
		c.ResumeReading()
		l.AfterFunc(time.Second, func() {
			wantEqual(t, "received", <-received, "rest")
			wantSlice(t, "callbacks", *log, []string{"EOF", "close"})
		})
	})
}

// Deadlines.

func TestDeadlinesOfAStream(t *testing.T) {
	streamed(t, &eventloop.ConnConfig{HighWater: 10}, func(k *eventloop.Task, nc net.Conn) error {
		p := make([]byte, 100)
		began := time.Now()
		timedOut := func(what string, err error, after time.Duration) {
			t.Helper()
			wantErr(t, what, err, os.ErrDeadlineExceeded)
			wantErr(t, what, err, eventloop.ErrTimeout)
			if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
				t.Errorf("%s is no timeout", what)
			}
			wantEqual(t, "time of "+what, time.Since(began), after)
		}
		nc.SetReadDeadline(began.Add(time.Second))
		_, err := nc.Read(p)
		timedOut("Read", err, time.Second)
		_, err = nc.Read(p)
		timedOut("a second Read", err, time.Second)

		nc.SetReadDeadline(time.Time{})
		n, err := nc.Read(p) // comes at 2 s
		wantEqual(t, "Read without a deadline", string(p[:n]), "data")
		wantEqual(t, "error", err, nil)
		wantEqual(t, "time", time.Since(began), 2*time.Second)

		nc.SetDeadline(began.Add(time.Hour))
		nc.SetDeadline(began.Add(3 * time.Second)) // sooner than the timer that is armed
		_, err = nc.Read(p)
		timedOut("Read", err, 3*time.Second)
		n, err = nc.Write(p)
		timedOut("Write", err, 3*time.Second)
		wantEqual(t, "bytes written after the deadline", n, 0)

		nc.SetDeadline(began.Add(4 * time.Second))
		n, err = nc.Write(p) // the peer reads nothing until 5 s
		timedOut("Write", err, 4*time.Second)
		if n == 0 || n == len(p) {
			t.Errorf("%d bytes of %d were written, want a part", n, len(p))
		}
		nc.SetWriteDeadline(began.Add(time.Minute))
		_, err = nc.Write(p[n:])
		wantEqual(t, "Write of the rest", err, nil)
		wantEqual(t, "time", time.Since(began), 5*time.Second)
		return nil
	}, func(nc net.Conn) {
		time.Sleep(2 * time.Second)
		io.WriteString(nc, "data")
		time.Sleep(3 * time.Second)
		got, _ := io.ReadAll(nc)
		wantEqual(t, "bytes that arrived", len(got), 100)
	})
}

func TestADeadlineThatHasPassedCountsMoreThanDataThatIsThere(t *testing.T) {
	streamed(t, nil, func(k *eventloop.Task, nc net.Conn) error {
		k.Sleep(time.Second)
		nc.SetReadDeadline(time.Now().Add(-1))
		_, err := nc.Read(make([]byte, 10))
		wantErr(t, "Read", err, os.ErrDeadlineExceeded)
		nc.SetReadDeadline(time.Time{})
		_, err = nc.Read(make([]byte, 10))
		wantEqual(t, "Read without a deadline", err, nil)
		return nil
	}, func(nc net.Conn) { io.WriteString(nc, "data") })
}

func TestTheTaskContextEndsReadAndWriteAndLosesNoData(t *testing.T) {
	why := errors.New("enough")
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go func() {
			time.Sleep(2 * time.Second)
			io.WriteString(far, "late")
			io.Copy(io.Discard, far)
		}()
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := l.Adopt(near, &eventloop.ConnConfig{HighWater: 10})
			ctx, cancel := context.WithCancelCause(context.Background())
			l.AfterFunc(time.Second, func() { cancel(why) })
			g := l.Go(ctx, func(k *eventloop.Task) error {
				_, err := c.NetConn(k).Read(make([]byte, 1))
				wantEqual(t, "Read", err, why)
				return nil
			})
			l.Go(ctx, func(k *eventloop.Task) error {
				n, err := c.NetConn(k).Write(make([]byte, 100))
				wantEqual(t, "Write", err, why)
				wantEqual(t, "bytes written", n, 20) // HighWater bytes and one piece
				return nil
			})
			l.Go(context.Background(), func(k *eventloop.Task) error {
				defer c.Close()
				if _, err := g.Await(k); err != nil {
					return err
				}
				p := make([]byte, 10)
				n, err := c.NetConn(k).Read(p)
				wantEqual(t, "data", string(p[:n]), "late")
				return err
			})
			return err
		})
		far.Close()
	})
}

func TestReadTimeoutEndsARead(t *testing.T) {
	streamed(t, &eventloop.ConnConfig{ReadTimeout: time.Second}, func(k *eventloop.Task, nc net.Conn) error {
		_, err := nc.Read(make([]byte, 1))
		wantErr(t, "Read", err, eventloop.ErrTimeout)
		_, again := nc.Read(make([]byte, 1))
		wantEqual(t, "a second Read", again, err)
		_, err = nc.Write([]byte("x"))
		wantEqual(t, "Write", err, again)
		return nil
	}, func(nc net.Conn) { io.Copy(io.Discard, nc) })
}

// Back-pressure.

func TestATaskThatDoesNotReadHoldsItsPeerBack(t *testing.T) {
	const chunks = 4000
	written := make(chan int, chunks+1)
	serveTask(t, nil, func(k *eventloop.Task, c *eventloop.Conn) error {
		nc := c.NetConn(k)
		for n := -1; n != len(written); { // until the peer gets nothing rid any more
			n = len(written)
			k.Sleep(100 * time.Millisecond)
		}
		if n := len(written); n == chunks {
			t.Errorf("the peer wrote all %d chunks", n)
		}
		n, err := io.Copy(io.Discard, nc)
		wantEqual(t, "bytes", n, chunks*16<<10)
		return err
	}, func(addr string) {
		nc := dial(t, addr)
		defer nc.Close()
		nc.SetWriteBuffer(16 << 10)
		for range chunks {
			nc.Write(make([]byte, 16<<10))
			written <- 1
		}
	})
}

func TestAPeerThatDoesNotReadHoldsBackOnlyItsTask(t *testing.T) {
	const size = 16 << 20
	for _, max := range []int{0, 100 << 10} {
		release := make(chan int)
		serveTask(t, &eventloop.ConnConfig{MaxBuffered: max}, func(k *eventloop.Task, c *eventloop.Conn) error {
			nc := c.NetConn(k)
			ticks := 0
			tick := k.Loop().Every(time.Millisecond, func() {
				if n := c.Buffered(); n > 512<<10 {
					t.Errorf("%d bytes are buffered", n)
				}
				if ticks++; ticks == 20 {
					close(release)
				}
			})
			defer tick.Stop()
			n, err := nc.Write(pattern(size))
			wantEqual(t, "bytes written", n, size)
			if ticks < 20 {
				t.Error("Write did not wait for the peer")
			}
			return err
		}, func(addr string) {
			nc := dial(t, addr)
			defer nc.Close()
			<-release
			got, err := io.ReadAll(nc)
			if !bytes.Equal(got, pattern(size)) || err != nil {
				t.Errorf("%d bytes arrived, %v; want the %d that were written", len(got), err, size)
			}
		})
	}
}

func TestTwoPeersThatBothWriteFirstDoNotWaitForEachOther(t *testing.T) {
	const size = 8 << 20
	talk := func(k *eventloop.Task, c *eventloop.Conn) error {
		g := k.Group()
		g.Go(func(k *eventloop.Task) error {
			_, err := c.NetConn(k).Write(make([]byte, size))
			return err
		})
		g.Go(func(k *eventloop.Task) error {
			_, err := io.ReadFull(c.NetConn(k), make([]byte, size))
			return err
		})
		return g.Wait()
	}
	mustRun(t, nil, func(l *eventloop.Loop) {
		run := func(c *eventloop.Conn) {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				defer c.Close()
				return talk(k, c)
			}).Then(func(_ struct{}, err error) { wantEqual(t, "error", err, nil) })
		}
		var ln *eventloop.Listener
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { ln.Close(); run(c) }})
		if err != nil {
			t.Fatal(err)
		}
		l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{OnConnect: run})
	})
}

// Misuse and ends.

func TestReadAndWriteOfAStreamAreForTasks(t *testing.T) {
	use := func(who string, nc net.Conn) {
		p := make([]byte, 1)
		_, read := nc.Read(p)
		_, write := nc.Write(p)
		wantErr(t, "Read by "+who, read, eventloop.ErrNotOnTask)
		wantErr(t, "Write by "+who, write, eventloop.ErrNotOnTask)
	}
	var kept net.Conn
	streamed(t, nil, func(k *eventloop.Task, nc net.Conn) error {
		kept = nc
		other := make(chan int)
		go func() {
			use("another goroutine", nc)
			close(other)
		}()
		<-other
		k.Loop().Post(func() { use("a callback", nc) })
		if err := k.Yield(); err != nil {
			return err
		}
		_, err := nc.Write([]byte("still fine"))
		return err
	}, func(nc net.Conn) {
		got, _ := io.ReadAll(nc)
		wantEqual(t, "data", string(got), "still fine")
	})
	use("another goroutine after the end of the task", kept)
}

func TestAStreamMayBeReadAndWrittenByOneTaskAfterTheOther(t *testing.T) {
	streamed(t, nil, func(k *eventloop.Task, nc net.Conn) error {
		for _, want := range []string{"first", "again"} {
			_, err := k.Loop().Go(k.Context(), func(*eventloop.Task) error {
				p := make([]byte, 5)
				if _, err := io.ReadFull(nc, p); err != nil {
					return err
				}
				wantEqual(t, "bytes", string(p), want)
				_, err := nc.Write(p)
				return err
			}).Await(k)
			if err != nil {
				return err
			}
		}
		// A task that waits is told when the task of the stream ends.
		k.Loop().Go(context.Background(), func(*eventloop.Task) error {
			_, err := nc.Read(make([]byte, 1))
			wantErr(t, "Read when the task of the stream has ended", err, eventloop.ErrNotOnTask)
			return nil
		})
		return k.Yield()
	}, func(nc net.Conn) {
		for _, s := range []string{"first", "again"} {
			io.WriteString(nc, s)
			got := make([]byte, 5)
			io.ReadFull(nc, got)
			wantEqual(t, "answer", string(got), s)
		}
		nc.Read(make([]byte, 1)) // until the other end is closed
	})
}

func TestCloseAndDeadlinesOfAStreamFromOtherGoroutinesEndWhatWaits(t *testing.T) {
	type how struct {
		f    func(nc net.Conn) error
		want error
	}
	for name, end := range map[string]how{
		"Close":           {net.Conn.Close, net.ErrClosed},
		"SetDeadline":     {func(nc net.Conn) error { return nc.SetDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"SetReadDeadline": {func(nc net.Conn) error { return nc.SetReadDeadline(time.Now()) }, os.ErrDeadlineExceeded},
	} {
		for _, from := range []string{"goroutine", "callback", "task"} {
			t.Run(name+" from a "+from, func(t *testing.T) {
				streamed(t, nil, func(k *eventloop.Task, nc net.Conn) error {
					do := func() { wantEqual(t, name, end.f(nc), nil) }
					switch l := k.Loop(); from {
					case "goroutine":
						time.AfterFunc(time.Millisecond, do)
					case "callback":
						l.AfterFunc(time.Millisecond, do)
					case "task":
						l.Go(k.Context(), func(*eventloop.Task) error { do(); return nil })
					}
					_, err := nc.Read(make([]byte, 1))
					wantErr(t, "Read", err, end.want)
					return nil
				}, func(nc net.Conn) { nc.Read(make([]byte, 1)) })
			})
		}
	}
}

func TestStreamForAnotherTaskOrNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := l.Adopt(near, nil)
			l.Go(context.Background(), func(k *eventloop.Task) error {
				defer c.Abort()
				_, err := c.NetConn(nil).Read(make([]byte, 1))
				wantErr(t, "Read without a task", err, eventloop.ErrNotOnTask)
				g := k.Group()
				g.Go(func(*eventloop.Task) error {
					_, err := c.NetConn(k).Read(make([]byte, 1))
					wantErr(t, "Read for another task", err, eventloop.ErrNotOnTask)
					return nil
				})
				wantEqual(t, "streams of one task are the same", c.NetConn(k) == c.NetConn(k), true)
				return g.Wait()
			})
			return err
		})
	})
}

func TestStreamOnAConnectionOfAnotherLoop(t *testing.T) {
	other, end := startLoop(t, nil)
	near, far := net.Pipe()
	defer far.Close()
	c, err := other.Adopt(near, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			_, err := c.NetConn(k).Read(make([]byte, 1))
			wantErr(t, "Read", err, eventloop.ErrNotOnTask)
			return nil
		})
	})
	c.Abort()
	end()
}

// wantClosed tries everything on a stream whose connection was closed.
func wantClosed(t *testing.T, nc net.Conn) {
	t.Helper()
	_, read := nc.Read(make([]byte, 10))
	_, write := nc.Write([]byte("x"))
	for what, err := range map[string]error{
		"Read": read, "Write": write, "Close": nc.Close(), "SetDeadline": nc.SetDeadline(time.Time{}),
		"CloseWrite": nc.(interface{ CloseWrite() error }).CloseWrite(),
	} {
		wantErr(t, what, err, net.ErrClosed)
	}
}

func TestStreamOnAClosedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go io.Copy(far, strings.NewReader("data that stays unread"))
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := l.Adopt(near, nil)
			l.Go(context.Background(), func(k *eventloop.Task) error {
				nc := c.NetConn(k)
				k.Sleep(time.Second) // the data is here
				wantEqual(t, "Close", nc.Close(), nil)
				wantClosed(t, nc)
				wantClosed(t, c.NetConn(k))
				k.Sleep(time.Hour) // it is gone
				wantClosed(t, nc)
				wantClosed(t, c.NetConn(k))
				return nil
			})
			return err
		})
		far.Close()
	})
}

func TestCloseByWhomeverEndsReadAndWriteAtOnce(t *testing.T) {
	for name, closer := range map[string]func(l *eventloop.Loop, c *eventloop.Conn){
		"a callback":        func(l *eventloop.Loop, c *eventloop.Conn) { c.Close() },
		"Abort":             func(l *eventloop.Loop, c *eventloop.Conn) { c.Abort() },
		"another goroutine": func(l *eventloop.Loop, c *eventloop.Conn) { go c.Close() },
		"another task": func(l *eventloop.Loop, c *eventloop.Conn) {
			l.Go(context.Background(), func(k *eventloop.Task) error { return c.NetConn(k).Close() })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe() // reads nothing, so that Close takes its time
				waited := 0
				eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
					c, err := l.Adopt(near, &eventloop.ConnConfig{HighWater: 10})
					began := time.Now()
					for _, op := range []func(nc net.Conn) (int, error){
						func(nc net.Conn) (int, error) { return nc.Read(make([]byte, 1)) },
						func(nc net.Conn) (int, error) { return nc.Write(make([]byte, 100)) },
					} {
						l.Go(context.Background(), func(k *eventloop.Task) error {
							_, err := op(c.NetConn(k))
							wantErr(t, "error", err, net.ErrClosed)
							wantEqual(t, "time", time.Since(began), time.Second)
							waited++
							return nil
						})
					}
					l.AfterFunc(time.Second, func() { closer(l, c) })
					return err
				})
				wantEqual(t, "tasks that went on", waited, 2)
				far.Close()
			})
		})
	}
}

func TestStreamOfAConnectionThatIsStillConnecting(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			echoAll(nc)
			nc.Close()
		}
	}()
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			c, err := l.Dial(k.Context(), "tcp", ln.Addr().String(), nil)
			if err != nil {
				return err
			}
			nc := c.NetConn(k)
			defer nc.Close()
			io.WriteString(nc, "early")
			p := make([]byte, 5)
			_, err = io.ReadFull(nc, p)
			wantEqual(t, "echo", string(p), "early")
			return err
		}).Then(func(_ struct{}, err error) { wantEqual(t, "error", err, nil) })
	})
	ln.Close()
	addr := deadAddr(t)
	mustRun(t, nil, func(l *eventloop.Loop) {
		l.Go(context.Background(), func(k *eventloop.Task) error {
			c, err := l.Dial(k.Context(), "tcp", addr, nil)
			if err != nil {
				return err
			}
			nc := c.NetConn(k)
			_, err = nc.Read(make([]byte, 1))
			wantErr(t, "Read", err, eventloop.ErrRefused)
			_, err = nc.Write([]byte("x"))
			wantErr(t, "Write", err, eventloop.ErrRefused)
			_, err = c.NetConn(k).Read(make([]byte, 1))
			wantErr(t, "Read of another Stream", err, eventloop.ErrRefused)
			k.Sleep(10 * time.Millisecond)
			_, err = c.NetConn(k).Read(make([]byte, 1))
			wantErr(t, "Read of another Stream, later", err, eventloop.ErrRefused)
			return nil
		}).Then(func(_ struct{}, err error) { wantEqual(t, "error", err, nil) })
	})
}

func TestAResetEndsReadWithItsErrorAndNoEventComes(t *testing.T) {
	for _, during := range []string{"Read", "Write", "neither"} {
		t.Run(during, func(t *testing.T) {
			var events []error
			cfg := &eventloop.ConnConfig{OnEvent: func(c *eventloop.Conn, err error) { events = append(events, err) }}
			reset := make(chan int)
			serveTask(t, cfg, func(k *eventloop.Task, c *eventloop.Conn) (err error) {
				nc := c.NetConn(k)
				if _, err := io.ReadFull(nc, make([]byte, 2)); err != nil {
					return err
				}
				close(reset)
				switch during {
				case "Read":
					_, err = nc.Read(make([]byte, 1))
				case "Write":
					for err == nil {
						_, err = nc.Write(make([]byte, 64<<10))
					}
				default:
					for !c.Closed() {
						k.Sleep(time.Millisecond)
					}
					return nil
				}
				wantErr(t, during, err, eventloop.ErrReset)
				return nil
			}, func(addr string) {
				nc := dial(t, addr)
				io.WriteString(nc, "hi")
				<-reset
				nc.SetLinger(0)
				nc.Close()
			})
			wantEqual(t, "events", len(events), 0)
		})
	}
}

func TestTheEndOfTheLoopUnwindsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		unwound := 0
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := l.Adopt(near, &eventloop.ConnConfig{HighWater: 10})
			for _, op := range []func(nc net.Conn) (int, error){
				func(nc net.Conn) (int, error) { return nc.Read(make([]byte, 1)) },
				func(nc net.Conn) (int, error) { return nc.Write(make([]byte, 100)) },
			} {
				f := l.Go(context.Background(), func(k *eventloop.Task) error {
					nc := c.NetConn(k)
					defer func() {
						_, err := nc.Read(make([]byte, 1))
						wantErr(t, "Read while unwinding", err, eventloop.ErrLoopClosed)
						nc.Close()
						unwound++
					}()
					_, err := op(nc)
					wantErr(t, "error", err, eventloop.ErrLoopClosed)
					return err
				})
				l.OnExit(func() {
					_, err := f.Result()
					wantErr(t, "result", err, eventloop.ErrLoopClosed)
				})
			}
			l.AfterFunc(time.Second, l.Stop)
			return err
		})
		wantEqual(t, "Run", err, nil)
		wantEqual(t, "tasks unwound", unwound, 2)
		far.Close()
	})
}

func TestStreamOfAPipedConnectionIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, farA := net.Pipe()
		b, farB := net.Pipe()
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			src, _ := l.Adopt(a, nil)
			dst, _ := l.Adopt(b, nil)
			src.Pipe(dst).Then(nil)
			l.Go(context.Background(), func(k *eventloop.Task) error {
				k.Sleep(time.Second)
				if _, err := src.NetConn(k).Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("Read = %v, want an error", err)
				}
				src.Abort()
				dst.Abort()
				return nil
			})
			return nil
		})
		farA.Close()
		farB.Close()
	})
}

func TestDetachGivesWhatTheStreamHasNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		go io.WriteString(far, "headbody")
		eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := l.Adopt(near, nil)
			l.Go(context.Background(), func(k *eventloop.Task) error {
				head := make([]byte, 4)
				if _, err := io.ReadFull(c.NetConn(k), head); err != nil {
					return err
				}
				nc, err := c.Detach().Await(k)
				if err != nil {
					t.Error(err)
					return nil
				}
				defer nc.Close()
				body, err := eventloop.Work(k.Context(), l, func(context.Context) (string, error) {
					p := make([]byte, 4)
					_, err := io.ReadFull(nc, p)
					return string(p), err
				}).Await(k)
				wantEqual(t, "rest", body, "body")
				return err
			})
			l.AfterFunc(time.Minute, l.Stop)
			return err
		})
		far.Close()
	})
}

func TestStreamReadAllocatesNothing(t *testing.T) {
	skipAllocations(t)
	mustRun(t, nil, func(l *eventloop.Loop) {
		near, far := net.Pipe()
		c, err := l.Adopt(near, nil)
		if err != nil {
			t.Fatal(err)
		}
		ball := make(chan int, 1)
		go func() {
			p := []byte("x")
			for range ball {
				far.Write(p)
			}
			far.Close()
		}()
		l.Go(context.Background(), func(k *eventloop.Task) error {
			nc, p := c.NetConn(k), make([]byte, 10)
			got := allocsPerRun(func() {
				ball <- 1
				if _, err := nc.Read(p); err != nil {
					t.Error(err)
				}
			})
			close(ball)
			wantEqual(t, "allocations", got, 0)
			return nc.Close()
		})
	})
}

func TestManyConversationsOverStreams(t *testing.T) {
	conns, messages := 200, 50
	if raceEnabled {
		conns, messages = 50, 20
	}
	var sums []int
	mustRun(t, nil, func(l *eventloop.Loop) {
		serve := func(k *eventloop.Task, c *eventloop.Conn) error {
			defer c.Close()
			nc := c.NetConn(k)
			_, err := io.Copy(nc, nc)
			return err
		}
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) {
			l.Go(context.Background(), func(k *eventloop.Task) error { return serve(k, c) })
		}})
		if err != nil {
			t.Fatal(err)
		}
		l.Go(context.Background(), func(k *eventloop.Task) error {
			defer ln.Close()
			g := k.Group()
			for range conns {
				g.Go(func(k *eventloop.Task) error {
					c, err := l.Dial(k.Context(), "tcp", ln.Addr().String(), nil)
					if err != nil {
						return err
					}
					nc := c.NetConn(k)
					defer nc.Close()
					r, sum := bufio.NewReader(nc), 0
					for i := range messages {
						fmt.Fprintln(nc, i)
						line, err := r.ReadString('\n')
						if err != nil {
							return err
						}
						var n int
						fmt.Sscan(line, &n)
						sum += n
					}
					sums = append(sums, sum)
					return nil
				})
			}
			return g.Wait()
		}).Then(func(_ struct{}, err error) { wantEqual(t, "error", err, nil) })
	})
	want := slices.Repeat([]int{messages * (messages - 1) / 2}, conns)
	wantSlice(t, "sums", sums, want)
}

func TestNoTaskGoesOnAfterAnotherHasStoppedTheLoopInTheSameTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			c, err := l.Adopt(near, &eventloop.ConnConfig{HighWater: 10})
			l.Go(context.Background(), func(k *eventloop.Task) error {
				_, err := c.NetConn(k).Write(make([]byte, 100))
				wantErr(t, "Write", err, net.ErrClosed)
				l.Stop()
				return nil
			})
			l.Go(context.Background(), func(k *eventloop.Task) error {
				_, err := c.NetConn(k).Read(make([]byte, 1))
				wantErr(t, "Read", err, eventloop.ErrLoopClosed)
				return err
			})
			l.AfterFunc(time.Second, func() { c.Close() })
			return err
		})
		wantEqual(t, "Run", err, nil)
	})
}

func TestBytesThatATaskGaveBackComeBeforeTheEnd(t *testing.T) {
	for _, pause := range []bool{false, true} {
		t.Run(fmt.Sprint("paused ", pause), func(t *testing.T) {
			var got []string
			err := virtually(t, nil, func(l *eventloop.Loop) {
				near, far := net.Pipe()
				reads := make(chan struct{}) // before, OnData would get the bytes
				go func() {
					<-reads
					far.Write([]byte("hello"))
					far.Close()
				}()
				c, err := l.Adopt(near, &eventloop.ConnConfig{
					OnData:  func(_ *eventloop.Conn, p []byte) { got = append(got, string(p)) },
					OnEvent: func(_ *eventloop.Conn, err error) { got = append(got, err.Error()) },
				})
				if err != nil {
					t.Error(err)
					return
				}
				l.Go(context.Background(), func(k *eventloop.Task) error {
					p := make([]byte, 10)
					nc := c.NetConn(k)
					close(reads)
					n, err := nc.Read(p)
					if err != nil {
						return err
					}
					k.Sleep(time.Second) // the peer has ended its side
					if pause {
						c.PauseReading()
						l.AfterFunc(time.Second, func() {
							wantEqual(t, "callbacks during the pause", len(got), 0)
							c.ResumeReading()
						})
					}
					return c.Unread(p[1:n])
				})
			})
			wantEqual(t, "Run", err, nil)
			wantSlice(t, "callbacks", got, []string{"ello", "EOF"})
		})
	}
}

// Bytes that were received wait for a reader in one of these ways.
var waitingBytes = []string{"never read", "given back", "given back after the end"}

// withWaitingBytes runs a loop in virtual time with a connection without OnData, on which
// "bytes" waits for a reader. The peer has ended its side. then runs on the loop, when
// nothing else happens. It returns the callbacks of the connection.
func withWaitingBytes(t *testing.T, how string, then func(l *eventloop.Loop, c *eventloop.Conn)) (log []string) {
	t.Helper()
	err := virtually(t, nil, func(l *eventloop.Loop) {
		near, far := net.Pipe()
		go func() {
			io.WriteString(far, "bytes")
			far.Write([]byte{fin})
			io.Copy(io.Discard, far)
		}()
		c, err := l.Adopt(&finConn{Conn: near}, &eventloop.ConnConfig{
			ReadTimeout: time.Minute,
			OnEvent:     func(_ *eventloop.Conn, err error) { log = append(log, err.Error()) },
			OnClose:     func(*eventloop.Conn) { log = append(log, "close") },
		})
		if err != nil {
			t.Error(err)
			return
		}
		if how != "never read" {
			l.Go(context.Background(), func(k *eventloop.Task) error {
				nc, got := c.NetConn(k), make([]byte, 5)
				_, err := io.ReadFull(nc, got)
				if how == "given back after the end" && err == nil {
					_, err = nc.Read(make([]byte, 1))
					wantEqual(t, "Read at the end", err, io.EOF)
					err = nil
				}
				wantEqual(t, "Unread", c.Unread(got), nil)
				return err
			})
		}
		l.AfterFunc(time.Second, func() { then(l, c) })
	})
	wantEqual(t, "Run", err, nil)
	return log
}

func TestBytesThatWaitForAReaderComeBeforeTheEnd(t *testing.T) {
	readers := map[string]func(t *testing.T, l *eventloop.Loop, c *eventloop.Conn) (received func() string){
		"OnData": func(t *testing.T, l *eventloop.Loop, c *eventloop.Conn) func() string {
			var got []byte
			c.SetCallbacks(&eventloop.ConnConfig{OnData: func(_ *eventloop.Conn, p []byte) { got = append(got, p...) }})
			return func() string { return string(got) }
		},
		"NetConn": func(t *testing.T, l *eventloop.Loop, c *eventloop.Conn) func() string {
			var got []byte
			l.Go(context.Background(), func(k *eventloop.Task) (err error) {
				got, err = io.ReadAll(c.NetConn(k))
				return err
			})
			return func() string { return string(got) }
		},
		"Pipe": func(t *testing.T, l *eventloop.Loop, c *eventloop.Conn) func() string {
			near, far := net.Pipe()
			var got []byte
			go func() { got, _ = io.ReadAll(far) }()
			dst, err := l.Adopt(near, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.Pipe(dst)
			return func() string { return string(got) }
		},
		"Detach": func(t *testing.T, l *eventloop.Loop, c *eventloop.Conn) func() string {
			var got []byte
			c.Detach().Then(func(nc net.Conn, err error) {
				if err != nil {
					t.Error(err)
					return
				}
				got, _ = io.ReadAll(nc) // returns immediately
				nc.Close()
			})
			return func() string { return string(got) }
		},
	}
	for name, read := range readers {
		for _, how := range waitingBytes {
			t.Run(name+", "+how, func(t *testing.T) {
				var received func() string
				log := withWaitingBytes(t, how, func(l *eventloop.Loop, c *eventloop.Conn) {
					wantEqual(t, "Closed before there is a reader", c.Closed(), false)
					received = read(t, l, c)
				})
				want := []string{"EOF", "close"}
				if name == "NetConn" || name == "Detach" || how == "given back after the end" {
					want = want[1:] // the end was returned by a Read
				}
				wantEqual(t, "received", received(), "bytes")
				wantSlice(t, "callbacks", log, want)
			})
		}
	}
}

func TestBytesThatWereGivenBackEndTheConnectionOnceThePeerHasLeft(t *testing.T) {
	for _, how := range waitingBytes[1:] { // of a net.Conn that is read no end is noticed
		t.Run(how, func(t *testing.T) {
			log := withWaitingBytes(t, how, func(_ *eventloop.Loop, c *eventloop.Conn) {
				wantEqual(t, "Closed", c.Closed(), false)
				c.Loop().AfterFunc(58*time.Second, func() { wantEqual(t, "Closed before ReadTimeout", c.Closed(), false) })
			})
			if len(log) != 2 || !strings.Contains(log[0], eventloop.ErrNoReader.Error()) || log[1] != "close" {
				t.Errorf("callbacks = %q, want ErrNoReader and close", log)
			}
		})
	}
}

// ReadTimeout does not run while bytes wait for a reader.
func TestReadTimeoutDoesNotRunWhileBytesThatWereGivenBackWait(t *testing.T) {
	for _, during := range []string{"no reader", "a stream that is not read"} {
		t.Run(during, func(t *testing.T) {
			var log []string
			err := virtually(t, nil, func(l *eventloop.Loop) {
				near, far := net.Pipe()
				c, err := l.Adopt(near, &eventloop.ConnConfig{
					ReadTimeout: time.Minute,
					OnEvent:     func(_ *eventloop.Conn, err error) { log = append(log, err.Error()) },
				})
				if err != nil {
					t.Error(err)
					return
				}
				wantEqual(t, "Unread", c.Unread([]byte("bytes")), nil)
				if during != "no reader" {
					l.Go(context.Background(), func(k *eventloop.Task) error {
						c.NetConn(k)
						return k.Sleep(time.Hour)
					})
				}
				l.AfterFunc(time.Hour, func() {
					c.SetCallbacks(&eventloop.ConnConfig{OnData: func(_ *eventloop.Conn, p []byte) {
						log = append(log, string(p))
						far.Close()
					}})
				})
			})
			wantEqual(t, "Run", err, nil)
			wantSlice(t, "callbacks", log, []string{"bytes", "EOF"})
		})
	}
}
