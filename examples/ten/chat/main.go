// Chat passes lines on between clients. The first line of a client is its name. A
// client that does not read is cut off, and one whose line is too long.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/onloop/eventloop"
)

const maxLine, maxPending = 1024, 1 << 20

type room map[string]*eventloop.Conn // of the loop: no lock

// serve is the task of a client.
func (r room) serve(t *eventloop.Task, c *eventloop.Conn) error {
	in := bufio.NewReaderSize(c.NetConn(t), maxLine)
	name, err := readLine(in)
	if err != nil {
		return err
	}
	if r[name] != nil {
		_, err := c.WriteString("taken\n")
		return err
	}
	r[name] = c
	c.WriteString("welcome\n")
	r.tell(name, "* "+name+" joined")
	defer func() {
		delete(r, name)
		r.tell(name, "* "+name+" left")
	}()
	for {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		r.tell(name, name+": "+line)
	}
}

// tell sends a line to all but one.
func (r room) tell(from, line string) {
	for name, c := range r {
		if name == from {
			continue
		}
		if _, err := c.WriteString(line + "\n"); err == eventloop.ErrBufferFull {
			c.Abort()
		}
	}
}

func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	return strings.TrimSpace(string(line)), err
}

func main() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		cfg := &eventloop.ConnConfig{HighWater: -1, MaxBuffered: maxPending}
		ln, err := l.ListenTask("tcp", os.Args[1], room{}.serve, cfg)
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
