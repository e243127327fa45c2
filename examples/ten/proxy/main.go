// Proxy passes connections on to another address, in both directions.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"syscall"
	"time"

	"github.com/onloop/eventloop"
)

func main() {
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		trouble := func(_ *eventloop.Conn, err error) {
			if !eventloop.IsInfo(err) {
				log.Print(err)
			}
		}
		up := &eventloop.ConnConfig{AllowHalfOpen: true, ConnectTimeout: 5 * time.Second, OnEvent: trouble}
		down := &eventloop.ConnConfig{AllowHalfOpen: true, OnEvent: trouble}
		down.OnConnect = func(c *eventloop.Conn) {
			target, err := l.Dial(ctx, "tcp", os.Args[2], up)
			if err != nil {
				log.Print(err)
				c.Abort()
				return
			}
			c.Pipe(target).Ignore() // what goes wrong is told to OnEvent
			target.Pipe(c).Ignore()
		}
		ln, err := l.Listen("tcp", os.Args[1], down)
		if err != nil {
			return err
		}
		fmt.Println("listening on", ln.Addr())
		return l.ShutdownOn(2*time.Second, syscall.SIGTERM)
	})
	if err != nil {
		log.Fatal(err)
	}
}
