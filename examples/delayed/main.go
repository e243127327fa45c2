// Delayed is the benchmark server of cl-async. It answers each request with the
// same 110 bytes, five seconds later, so that connections pile up: with R new
// ones a second, 5R of them are open. Statistics are printed each second, until
// SIGINT ends it gracefully: those who wait still get their answer.
//
//	go run ./examples/delayed
//	curl http://127.0.0.1:9009/
//
// Each connection needs a descriptor (see ulimit -n).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/onloop/eventloop"
)

const response = "HTTP/1.1 200 OK\r\n" +
	"Date: Wed, 03 Oct 2012 23:43:10 GMT\r\n" +
	"Content-Type: text/plain\r\n" +
	"Content-Length: 9\r\n" +
	"\r\n" +
	"omglolwtf"

// A server is the state of the program. Only callbacks touch it: no locks.
type server struct {
	loop  *eventloop.Loop
	delay time.Duration

	finished     int
	lastFinished int
	lastTime     time.Time
}

func main() {
	addr := flag.String("addr", ":9009", "address to listen on")
	delay := flag.Duration("delay", 5*time.Second, "time between request and answer")
	flag.Parse()

	cfg := &eventloop.Config{Name: "delayed", CatchPanics: true}
	err := eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
		return (&server{loop: l, delay: *delay}).start(*addr)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "delayed:", err)
		os.Exit(1)
	}
	fmt.Println("TCP server exited.")
}

func (s *server) start(addr string) error {
	ln, err := s.loop.Listen("tcp", addr, &eventloop.ConnConfig{
		OnData:  s.request,
		OnDrain: s.answered,
		OnClose: func(c *eventloop.Conn) {
			if answer, ok := c.Data().(*eventloop.Timer); ok {
				answer.Stop() // the client left before its time
			}
		},
		OnEvent: func(_ *eventloop.Conn, err error) {
			if !eventloop.IsInfo(err) {
				fmt.Println("tcp server event:", err)
			}
		},
	})
	if err != nil {
		return err
	}
	s.lastTime = time.Now()
	s.loop.Every(time.Second, s.showStats)
	fmt.Printf("TCP server on %v, answers after %v, SIGINT ends it.\n", ln.Addr(), s.delay)

	// Shutdown ends what has no end of its own: the listener and the statistics.
	// Connections and timers still run to their end, however long that takes; a
	// second SIGINT cuts them off.
	return s.loop.ShutdownOn(-1, os.Interrupt)
}

// request answers later, whatever was asked. What else arrives on the connection
// is part of the same request.
func (s *server) request(c *eventloop.Conn, _ []byte) {
	if c.Data() != nil {
		return
	}
	c.SetData(s.loop.AfterFunc(s.delay, func() { c.WriteString(response) }))
}

// answered is called when the answer is on its way.
func (s *server) answered(c *eventloop.Conn) {
	c.Close()
	s.finished++
}

func (s *server) showStats() {
	stats, now := s.loop.Stats(), time.Now()
	rate := float64(s.finished-s.lastFinished) / now.Sub(s.lastTime).Seconds()
	s.lastFinished, s.lastTime = s.finished, now
	fmt.Printf("incoming: %d\noutgoing: %d\nfinished: %d\nrate: %.1f req/s\n\n",
		stats.Conns.Incoming, stats.Conns.Outgoing, s.finished, rate)
}
