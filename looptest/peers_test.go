package looptest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// onGoroutine runs f beside a loop that ends after it.
func onGoroutine(t *testing.T, f func(t *testing.T, n *looptest.Net)) {
	t.Helper()
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		eventloop.Work(t.Context(), l, func(context.Context) (any, error) {
			f(t, n)
			return nil, nil
		})
		return nil
	})
}

func dial(t *testing.T, n *looptest.Net, address string) net.Conn {
	t.Helper()
	c, err := n.Dialer("client")(t.Context(), "tcp", address)
	if err != nil {
		t.Error(err)
		return nil
	}
	return c
}

func TestAScriptFollowsItsSteps(t *testing.T) {
	onGoroutine(t, func(t *testing.T, n *looptest.Net) {
		if err := n.Script("mail:25",
			looptest.Reply("220 hello\r\n"),
			looptest.Expect("EHLO *"),
			looptest.Delay(time.Second),
			looptest.Reply("250 ok\r\n"),
			looptest.ExpectBytes("DATA"),
			looptest.ExpectEnd(),
			looptest.Reply("221 bye\r\n"),
		); err != nil {
			t.Error(err)
			return
		}
		for range 2 { // each connection begins at the first step
			c := dial(t, n, "mail:25")
			before := time.Now()
			io.WriteString(c, "EHLO a/b\r\nDATA")
			c.(interface{ CloseWrite() error }).CloseWrite()
			got, err := io.ReadAll(c)
			if want := "220 hello\r\n250 ok\r\n221 bye\r\n"; string(got) != want || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			if took := time.Since(before); took != time.Second {
				t.Errorf("took %s", took)
			}
			c.Close()
		}
	})
}

func TestAScriptSpeaksHTTP(t *testing.T) {
	onGoroutine(t, func(t *testing.T, n *looptest.Net) {
		if err := n.Script("web:80",
			looptest.Handle("POST", "/a?b=c", 201, "made"),
			looptest.Broken("GET", "/", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
			looptest.Reset(),
		); err != nil {
			t.Error(err)
			return
		}
		tr := &http.Transport{DialContext: n.Dialer("client")}
		defer tr.CloseIdleConnections()
		client := &http.Client{Transport: tr}
		res, err := client.Post("http://web:80/a?b=c", "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Error(err)
			return
		}
		if body, err := io.ReadAll(res.Body); res.StatusCode != 201 || string(body) != "made" || err != nil {
			t.Errorf("got %s, %q, %v", res.Status, body, err)
		}
		res, err = client.Get("http://web:80/")
		if err != nil {
			t.Error(err)
			return
		}
		if body, err := io.ReadAll(res.Body); string(body) != "half" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %q, %v", body, err)
		}
	})
}

func TestAScriptThatRepeatsEndsWithItsPeer(t *testing.T) {
	onGoroutine(t, func(t *testing.T, n *looptest.Net) {
		n.Split(1)
		if err := n.Script("echo:7", looptest.Repeat(looptest.Expect("ping"), looptest.Reply("pong\n"))); err != nil {
			t.Error(err)
			return
		}
		c := dial(t, n, "echo:7")
		defer c.Close()
		r := bufio.NewReader(c)
		for range 3 {
			io.WriteString(c, "ping\n")
			if line, err := r.ReadString('\n'); line != "pong\n" || err != nil {
				t.Errorf("got %q, %v", line, err)
			}
		}
		c.(interface{ CloseWrite() error }).CloseWrite()
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("got %v", err)
		}
	})
}

// echo returns a connection with faults to a server that sends back what it gets.
func echo(t *testing.T, n *looptest.Net, f looptest.Faults) net.Conn {
	ln, err := n.Listen("echo:7")
	if err != nil {
		t.Error(err)
		return nil
	}
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()
	return looptest.Faulty(dial(t, n, "echo:7"), f)
}

func TestFaultsHappenAtTheirPlaces(t *testing.T) {
	failure := errors.New("failure")
	tests := map[string]struct {
		faults looptest.Faults
		wrote  int
		werr   error
		got    string
		rerr   error
		took   time.Duration
	}{
		"none":          {faults: looptest.Faults{}, wrote: 10, got: "0123456789"},
		"a read error":  {faults: looptest.Faults{ReadErrAt: looptest.At(4), ReadErr: failure}, wrote: 10, got: "0123", rerr: failure},
		"a first read":  {faults: looptest.Faults{ReadErrAt: looptest.At(0)}, wrote: 10, rerr: syscall.ECONNRESET},
		"a write error": {faults: looptest.Faults{WriteErrAt: looptest.At(3), WriteErr: failure}, wrote: 3, werr: failure, got: "012"},
		"short reads":   {faults: looptest.Faults{MaxRead: 1}, wrote: 10, got: "0123456789"},
		"garbage":       {faults: looptest.Faults{GarbageAt: looptest.At(5), Garbage: []byte("abc")}, wrote: 10, got: "01234abc56789"},
		"a slow read":   {faults: looptest.Faults{StallReadAt: looptest.At(2), StallRead: time.Minute}, wrote: 10, got: "0123456789", took: time.Minute},
		"a slow write":  {faults: looptest.Faults{StallWriteAt: looptest.At(2), StallWrite: time.Minute}, wrote: 10, got: "0123456789", took: time.Minute},
		"a reset":       {faults: looptest.Faults{ResetAt: looptest.At(6)}, wrote: 6, werr: syscall.ECONNRESET, rerr: net.ErrClosed},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			onGoroutine(t, func(t *testing.T, n *looptest.Net) {
				before := time.Now()
				c := echo(t, n, test.faults)
				defer c.Close()
				wrote, err := io.WriteString(c, "0123456789")
				if wrote != test.wrote || !errors.Is(err, test.werr) {
					t.Errorf("wrote %d, %v", wrote, err)
				}
				c.(interface{ CloseWrite() error }).CloseWrite()
				got, err := io.ReadAll(c)
				if string(got) != test.got || !errors.Is(err, test.rerr) {
					t.Errorf("read %q, %v", got, err)
				}
				if took := time.Since(before); took != test.took {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

func TestADeadlineEndsAStall(t *testing.T) {
	onGoroutine(t, func(t *testing.T, n *looptest.Net) {
		c := echo(t, n, looptest.Faults{StallReadAt: looptest.At(0), StallRead: time.Hour})
		defer c.Close()
		c.SetReadDeadline(time.Now().Add(time.Second))
		time.AfterFunc(500*time.Millisecond, func() { c.SetReadDeadline(time.Now().Add(time.Minute)) })
		before := time.Now()
		_, err := c.Read(make([]byte, 1))
		if took := time.Since(before); !errors.Is(err, os.ErrDeadlineExceeded) || took != time.Minute+500*time.Millisecond {
			t.Errorf("got %v after %s", err, took)
		}
	})
}

func TestPipeConnectsALoopWithItself(t *testing.T) {
	var got strings.Builder
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		a, _, err := looptest.Pipe(t, l,
			&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) { got.Write(p); c.Close() }},
			&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) { c.Write(p) }})
		if err != nil {
			return err
		}
		_, err = a.Write([]byte("hello"))
		return err
	})
	if got.String() != "hello" {
		t.Errorf("got %q", got.String())
	}
}
