// Echo sends back what it gets.
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
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ln, err := l.Listen("tcp", os.Args[1], &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) { c.Write(data) },
		})
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
