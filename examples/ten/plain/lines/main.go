// Lines is a store of strings with a line protocol: SET KEY VALUE, GET KEY, DEL KEY and
// QUIT. A line that is too long, or takes too long, ends the connection with a message.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

const maxLine, timeout = 512, time.Second

type store struct {
	mu     sync.Mutex
	values map[string]string
}

func (s *store) serve(c net.Conn) error {
	defer c.Close()
	in := bufio.NewReaderSize(c, maxLine)
	for {
		c.SetReadDeadline(time.Now().Add(timeout))
		line, err := in.ReadSlice('\n')
		switch {
		case err == bufio.ErrBufferFull:
			_, err = io.WriteString(c, "error: line too long\n")
			return err
		case errors.Is(err, os.ErrDeadlineExceeded):
			_, err = io.WriteString(c, "error: timeout\n")
			return err
		case err != nil:
			return err
		}
		answer, more := s.do(strings.Fields(string(line)))
		if _, err := io.WriteString(c, answer+"\n"); err != nil || !more {
			return err
		}
	}
}

func (s *store) do(words []string) (answer string, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch command := strings.ToUpper(strings.Join(words[:min(len(words), 1)], "")); {
	case command == "SET" && len(words) == 3:
		s.values[words[1]] = words[2]
		return "ok", true
	case command == "GET" && len(words) == 2:
		if v, ok := s.values[words[1]]; ok {
			return "value " + v, true
		}
		return "none", true
	case command == "DEL" && len(words) == 2:
		delete(s.values, words[1])
		return "ok", true
	case command == "QUIT":
		return "bye", false
	}
	return "error: what?", true
}

func main() {
	ln, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", ln.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { ln.Close() })
	s := &store{values: make(map[string]string)}
	var clients sync.WaitGroup
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		clients.Go(func() {
			if err := s.serve(c); err != nil && err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
				log.Printf("%v: %v", c.RemoteAddr(), err)
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		log.Fatal("clients were cut off")
	}
}
