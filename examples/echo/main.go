// Echo is the echo server of cl-async: it sends back all bytes that it receives.
//
//	go run ./examples/echo
//	nc 127.0.0.1 9003
//
// SIGINT (Ctrl-C) ends it gracefully: it accepts no more connections, and open
// connections may continue for -grace. A second SIGINT ends it at once.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/onloop/eventloop"
)

func main() {
	addr := flag.String("addr", ":9003", "address to listen on")
	grace := flag.Duration("grace", 10*time.Second, "how long clients may go on after SIGINT")
	flag.Parse()
	log.SetFlags(log.Ltime)

	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ln, err := l.Listen("tcp", *addr, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) { log.Print("connected: ", c.RemoteAddr()) },
			OnData:    func(c *eventloop.Conn, data []byte) { c.Write(data) },
			OnEvent: func(c *eventloop.Conn, err error) {
				if !eventloop.IsInfo(err) {
					log.Print(err)
				}
			},
			OnClose: func(c *eventloop.Conn) { log.Print("closed: ", c.RemoteAddr()) },
		})
		if err != nil {
			return err
		}
		log.Print("echo server on ", ln.Addr(), ", SIGINT ends it")
		l.OnShutdown(func() { log.Print("ending: ", l.Stats().Conns.Incoming, " clients have ", *grace) })
		return l.ShutdownOn(*grace, os.Interrupt)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
	log.Print("ended")
}
