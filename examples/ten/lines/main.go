// Lines is a store of strings with a line protocol: SET KEY VALUE, GET KEY, DEL KEY and
// QUIT. A line that is too long, or takes too long, ends the connection with a message.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/onloop/eventloop"
)

const maxLine, timeout = 512, time.Second

type store map[string]string // of the loop: no lock

func (s store) serve(t *eventloop.Task, c *eventloop.Conn) error {
	nc := c.NetConn(t)
	in := bufio.NewReaderSize(nc, maxLine)
	for {
		nc.SetReadDeadline(time.Now().Add(timeout))
		line, err := in.ReadSlice('\n')
		switch {
		case err == bufio.ErrBufferFull:
			c.WriteString("error: line too long\n")
			return nil
		case errors.Is(err, eventloop.ErrTimeout):
			c.WriteString("error: timeout\n")
			return nil
		case err != nil:
			return err
		}
		answer, more := s.do(strings.Fields(string(line)))
		if _, err := c.WriteString(answer + "\n"); err != nil || !more {
			return err
		}
	}
}

func (s store) do(words []string) (answer string, more bool) {
	switch command := strings.ToUpper(strings.Join(words[:min(len(words), 1)], "")); {
	case command == "SET" && len(words) == 3:
		s[words[1]] = words[2]
		return "ok", true
	case command == "GET" && len(words) == 2:
		if v, ok := s[words[1]]; ok {
			return "value " + v, true
		}
		return "none", true
	case command == "DEL" && len(words) == 2:
		delete(s, words[1])
		return "ok", true
	case command == "QUIT":
		return "bye", false
	}
	return "error: what?", true
}

func main() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ln, err := l.ListenTask("tcp", os.Args[1], store{}.serve, nil)
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
