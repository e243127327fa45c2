package eventloop_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/onloop/eventloop"
)

// A connection without OnData holds what arrives. Discard drops it.
func ExampleDiscard() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ours, theirs := net.Pipe()
		_, err := l.Adopt(ours, &eventloop.ConnConfig{
			OnData:  eventloop.Discard,
			OnClose: func(c *eventloop.Conn) { fmt.Println("the peer has ended it:", c.Err()) },
		})
		go func() {
			io.WriteString(theirs, "this stays unread")
			theirs.Close()
		}()
		return err
	})
	// Output: the peer has ended it: EOF
}

func ExampleIsInfo() {
	fmt.Println(eventloop.IsInfo(io.EOF), eventloop.IsInfo(eventloop.ErrReset), eventloop.IsInfo(eventloop.ErrTimeout))
	// Output: true true false
}

// The numbers are those of package syscall, on every platform.
func ExampleErrno() {
	err := &eventloop.OpError{Op: eventloop.OpDial, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	fmt.Println(eventloop.Errno(err) == int(syscall.ECONNREFUSED), eventloop.Errno(io.EOF))
	// Output: true -1
}

// The peer waits while reading is paused.
func ExampleConn_PauseReading() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ours, theirs := net.Pipe()
		_, err := l.Adopt(ours, &eventloop.ConnConfig{
			ReadBufferSize: 4,
			OnData: func(c *eventloop.Conn, data []byte) {
				fmt.Printf("%s", data)
				c.PauseReading()
				l.AfterFunc(time.Millisecond, c.ResumeReading) // when this piece is done with
			},
		})
		go func() {
			io.WriteString(theirs, "one\ntwo\n")
			theirs.Close()
		}()
		return err
	})
	// Output:
	// one
	// two
}

// What is written while writing is paused leaves together. Flushed tells when.
func ExampleConn_PauseWriting() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ours, theirs := net.Pipe()
		c, err := l.Adopt(ours, nil)
		if err != nil {
			return err
		}
		c.PauseWriting()
		c.WriteString("head, ")
		c.Writev([]byte("bo"), []byte("dy"))
		fmt.Println("bytes that wait:", c.Buffered())
		c.ResumeWriting()
		c.Flushed().Then(func(_ struct{}, err error) {
			fmt.Println("bytes that wait:", c.Buffered())
			c.Close()
		})
		go io.Copy(io.Discard, theirs)
		return nil
	})
	// Output:
	// bytes that wait: 10
	// bytes that wait: 0
}

// A producer that writes as fast as the peer reads.
func ExampleConn_NeedDrain() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ours, theirs := net.Pipe()
		block, left := make([]byte, 100), 1000 // blocks
		produce := func(c *eventloop.Conn) {
			for ; left > 0 && !c.NeedDrain(); left-- {
				c.Write(block)
			}
			if left == 0 && !c.Closed() {
				c.Close()
			}
		}
		_, err := l.Adopt(ours, &eventloop.ConnConfig{HighWater: 1000, OnConnect: produce, OnDrain: produce})
		release := l.Hold() // for the goroutine
		go func() {
			defer release()
			n, _ := io.Copy(io.Discard, theirs)
			fmt.Println(n, "bytes")
		}()
		return err
	})
	// Output: 100000 bytes
}

// Connected is for what follows the dial, in a task or with Then.
func ExampleConn_Connected() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{OnData: eventloop.Discard})
		if err != nil {
			return err
		}
		c, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), nil)
		if err != nil {
			return err
		}
		c.Connected().Then(func(c *eventloop.Conn, err error) {
			fmt.Println(c.RemoteAddr().String() == ln.Addr().String(), c.LocalAddr().Network(), err)
			ln.Close()
			c.Close()
		})
		return nil
	})
	// Output: true tcp <nil>
}

// What belongs to a connection can be kept with it. DataOf does the same for a typed
// value.
func ExampleConn_SetData() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ours, theirs := net.Pipe()
		c, err := l.Adopt(ours, &eventloop.ConnConfig{
			OnClose: func(c *eventloop.Conn) { fmt.Println("bye,", c.Data(), c.Loop() == l) },
		})
		if err != nil {
			return err
		}
		c.SetData("ann")
		return theirs.Close()
	})
	// Output: bye, ann true
}

// A protocol that changes after its first line: what follows the line is given back,
// and goes to the new callback.
func ExampleConn_Unread() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ours, theirs := net.Pipe()
		_, err := l.Adopt(ours, &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, data []byte) {
			fmt.Printf("version: %s\n", data[:2])
			c.Unread(data[3:])
			c.SetCallbacks(&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, data []byte) {
				fmt.Printf("binary: %x\n", data)
			}})
		}})
		go func() {
			io.WriteString(theirs, "v2\n\x01\x02")
			theirs.Close()
		}()
		return err
	})
	// Output:
	// version: v2
	// binary: 0102
}

// A client that is logged in may be idle for longer.
func ExampleConn_SetTimeouts() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ours, _ := net.Pipe()
		c, err := l.Adopt(ours, &eventloop.ConnConfig{
			ReadTimeout: time.Hour,
			OnEvent:     func(c *eventloop.Conn, err error) { fmt.Println("timeout:", errors.Is(err, eventloop.ErrTimeout)) },
		})
		if err != nil {
			return err
		}
		return c.SetTimeouts(time.Millisecond, 0) // or less long, as here
	})
	// Output: timeout: true
}

// The descriptor, for an option that the library does not know.
func ExampleConn_SyscallConn() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) {
				raw, err := c.SyscallConn()
				if err != nil {
					fmt.Println(err)
					return
				}
				err = raw.Control(func(fd uintptr) { fmt.Println("a descriptor") })
				if err != nil {
					fmt.Println(err)
				}
				c.Close()
			},
		})
		if err != nil {
			return err
		}
		_, err = l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
			OnData:  eventloop.Discard,
			OnClose: func(*eventloop.Conn) { ln.Close() },
		})
		return err
	})
	// Output: a descriptor
}

// A listener that accepts nothing for a while; clients wait in the kernel.
func ExampleListener_Pause() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		paused := true
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) {
				fmt.Println("accepted while paused:", paused)
				c.Close()
			},
		})
		if err != nil {
			return err
		}
		ln.Pause()
		l.AfterFunc(10*time.Millisecond, func() {
			paused = false
			ln.Resume()
		})
		_, err = l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
			OnData:  eventloop.Discard,
			OnClose: func(*eventloop.Conn) { ln.Close() },
		})
		return err
	})
	// Output: accepted while paused: false
}

// A timer for what is to be done if nothing happens for a while.
func ExampleTimer_Reset() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		events := 0
		idle := l.AfterFunc(20*time.Millisecond, func() { fmt.Println("idle after", events, "events") })
		var tick *eventloop.Timer
		tick = l.Every(time.Millisecond, func() {
			idle.Reset(20 * time.Millisecond)
			if events++; events == 3 {
				tick.Stop()
			}
		})
		return nil
	})
	// Output: idle after 3 events
}

// A housekeeping timer need not keep the loop alive.
func ExampleTimer_Unref() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		hourly := l.AfterFunc(time.Hour, func() { fmt.Println("housekeeping") })
		hourly.Unref()
		l.AfterFunc(time.Millisecond, func() { fmt.Println("done") })
		return nil
	})
	// Output: done
}

// With CatchPanics an interval goes on after a panic, and the panic goes to its OnEvent.
func ExampleTimer_OnEvent() {
	eventloop.Run(context.Background(), &eventloop.Config{CatchPanics: true}, func(l *eventloop.Loop) error {
		var tick *eventloop.Timer
		n := 0
		tick = l.Every(time.Millisecond, func() {
			if n++; n == 2 {
				tick.Stop()
				return
			}
			panic("first tick")
		})
		tick.OnEvent(func(err error) {
			if p, ok := errors.AsType[*eventloop.PanicError](err); ok {
				fmt.Println("caught:", p.Value)
			}
		})
		return nil
	})
	// Output: caught: first tick
}

// Result does not wait.
func ExampleFuture_Result() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		answer, resolve := eventloop.NewFuture[int](l)
		_, err := answer.Result()
		fmt.Println(err == eventloop.ErrPending)
		resolve(42, nil)
		fmt.Println(answer.Result())
		return nil
	})
	// Output:
	// true
	// 42 <nil>
}

// One step after the other: Then does not chain, so the next step begins in it.
func ExampleFuture_Then() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		double := func(n int) *eventloop.Future[int] {
			return eventloop.Work(context.Background(), l, func(context.Context) (int, error) { return 2 * n, nil })
		}
		double(1).Then(func(n int, err error) {
			if err != nil {
				fmt.Println(err)
				return
			}
			double(n).Then(func(n int, err error) { fmt.Println(n, err) })
		})
		return nil
	})
	// Output: 4 <nil>
}

// A slow consumer of a channel: the sender waits while the receiver is paused.
func ExampleReceiver_Pause() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		jobs := make(chan int)
		go func() {
			defer close(jobs)
			for n := range 3 {
				jobs <- n
			}
		}()
		var r *eventloop.Receiver[int]
		r = eventloop.Receive(l, jobs, func(n int, ok bool) {
			if !ok {
				fmt.Println("closed")
				return
			}
			fmt.Println(n)
			r.Pause()
			l.AfterFunc(time.Millisecond, r.Resume)
		})
		return nil
	})
	// Output:
	// 0
	// 1
	// 2
	// closed
}

// What a decompressor gives, or a file, or a child process.
func ExampleReadFrom() {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	io.WriteString(z, "hello, loop")
	z.Close()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		unpacked, err := gzip.NewReader(&packed)
		if err != nil {
			return err
		}
		var text []byte
		eventloop.ReadFrom(l, unpacked, func(p []byte) { text = append(text, p...) }, func(err error) {
			fmt.Printf("%s %v\n", text, err)
		})
		return nil
	})
	// Output: hello, loop <nil>
}

// Callbacks write, and a goroutine reads: here one that compresses.
func ExampleNewPipe() {
	var packed bytes.Buffer
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		out, in := eventloop.NewPipe(l, 0)
		eventloop.Work(context.Background(), l, func(context.Context) (int64, error) {
			defer in.Close()
			z := gzip.NewWriter(&packed)
			n, err := io.Copy(z, in)
			return n, errors.Join(err, z.Close())
		}).Then(func(n int64, err error) { fmt.Println(n, "bytes,", err) })
		lines := 0
		var tick *eventloop.Timer
		tick = l.Every(time.Millisecond, func() {
			fmt.Fprintln(out, "line", lines)
			if lines++; lines == 3 {
				tick.Stop()
				out.CloseWithError(io.EOF) // as Close
			}
		})
		return nil
	})
	// Output: 21 bytes, <nil>
}

// What waits in a channel, in one call: a busy producer costs few of them.
func ExampleReceiveBatch() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		readings := make(chan float64, 100)
		for n := range 3 {
			readings <- float64(n)
		}
		close(readings)
		sum := 0.0
		eventloop.ReceiveBatch(l, readings, func(vs []float64, ok bool) {
			for _, v := range vs {
				sum += v
			}
			fmt.Println(len(vs), sum, ok)
		})
		return nil
	})
	// Output:
	// 3 3 true
	// 0 3 false
}

// A sender whose consumer is slow: Pending bounds what waits.
func ExampleSender_Pending() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		lines := make(chan string)
		out := eventloop.SendTo(l, lines)
		for n := range 5 {
			if out.Pending() == 3 {
				fmt.Println("dropped:", n)
				continue
			}
			out.Send(fmt.Sprint("line ", n)).Ignore()
		}
		fmt.Println("not taken:", len(out.Stop()))
		return nil
	})
	// Output:
	// dropped: 3
	// dropped: 4
	// not taken: 3
}

// A transport of package net/http that resolves and connects as the loop does.
func ExampleLoop_DialContext() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) { r.RespondText(200, "hello") }, nil)
		if err != nil {
			return err
		}
		transport := &http.Transport{DialContext: l.DialContext}
		eventloop.Work(context.Background(), l, func(ctx context.Context) (string, error) {
			defer transport.CloseIdleConnections()
			res, err := (&http.Client{Transport: transport}).Get("http://" + s.Addr().String())
			if err != nil {
				return "", err
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			return string(body), err
		}).Then(func(body string, err error) {
			fmt.Println(body, err)
			s.Close()
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// hello <nil>
}
