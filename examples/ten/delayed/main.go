// Delayed replies to each line after a delay. When the client has ended its side, it gets
// the pending replies, and the connection is closed.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"syscall"
	"time"

	"github.com/onloop/eventloop"
)

const delay = 300 * time.Millisecond

func serve(t *eventloop.Task, c *eventloop.Conn) error {
	lines := bufio.NewScanner(c.NetConn(t))
	for lines.Scan() {
		answer := "late: " + lines.Text() + "\n"
		t.Loop().AfterFunc(delay, func() { c.WriteString(answer) })
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return t.Sleep(delay)
}

func main() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ln, err := l.ListenTask("tcp", os.Args[1], serve, nil)
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
