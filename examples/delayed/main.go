// Delayed is the benchmark server of cl-async. It responds to each request with the
// same 110 bytes, five seconds later, so that connections accumulate: at R new
// connections per second, 5R are open. It prints statistics every second. SIGINT ends
// it gracefully: waiting clients still get their responses.
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

// A server is the state of the program. It needs no locks, because only callbacks use it.
type server struct {
	loop  *eventloop.Loop
	delay time.Duration

	finished     int
	lastFinished int
	lastTime     time.Time
}

func main() {
	addr := flag.String("addr", ":9009", "address to listen on")
	delay := flag.Duration("delay", 5*time.Second, "time between request and response")
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
		OnDrain: s.responded,
		OnClose: func(c *eventloop.Conn) {
			if response, ok := c.Data().(*eventloop.Timer); ok {
				response.Stop() // the client disconnected before the response
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
	fmt.Printf("TCP server on %v, responds after %v, SIGINT ends it.\n", ln.Addr(), s.delay)

	// Shutdown closes the handles that would not end by themselves: the listener and the
	// interval of the statistics. Connections and timers continue until they end, however
	// long that takes. A second SIGINT cuts them off.
	return s.loop.ShutdownOn(-1, os.Interrupt)
}

// request schedules the response, whatever the request is. All further input on the
// connection counts as part of the same request.
func (s *server) request(c *eventloop.Conn, _ []byte) {
	if c.Data() != nil {
		return
	}
	c.SetData(s.loop.AfterFunc(s.delay, func() { c.WriteString(response) }))
}

// responded is called when the response has been written.
func (s *server) responded(c *eventloop.Conn) {
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
