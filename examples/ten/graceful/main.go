// Graceful replies to lines after a delay. On SIGTERM it closes idle clients at once, and
// the others when they have their replies.
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

const work = 300 * time.Millisecond

func main() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		idle, ending := make(map[*eventloop.Conn]bool), false
		serve := func(t *eventloop.Task, c *eventloop.Conn) error {
			defer delete(idle, c)
			lines := bufio.NewScanner(c.NetConn(t))
			for idle[c] = true; !ending && lines.Scan(); idle[c] = true {
				idle[c] = false
				t.Sleep(work)
				c.WriteString("done " + lines.Text() + "\n")
			}
			return lines.Err()
		}
		ln, err := l.ListenTask("tcp", os.Args[1], serve, nil)
		if err != nil {
			return err
		}
		l.OnShutdown(func() {
			ending = true
			for c, is := range idle {
				if is {
					c.Close()
				}
			}
		})
		fmt.Println("listening on", ln.Addr())
		return l.ShutdownOn(2*time.Second, syscall.SIGTERM)
	})
	if err != nil {
		log.Fatal(err)
	}
}
