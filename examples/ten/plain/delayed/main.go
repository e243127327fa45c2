// Delayed replies to each line after a delay. When the client has ended its side, it gets
// the pending replies, and the connection is closed.
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
	"sync"
	"syscall"
	"time"
)

const delay = 300 * time.Millisecond

type answer struct {
	text string
	due  time.Time
}

func serve(c net.Conn) error {
	defer c.Close()
	answers := make(chan answer, 1000)
	var writer sync.WaitGroup
	writer.Go(func() {
		for a := range answers {
			time.Sleep(time.Until(a.due))
			io.WriteString(c, a.text)
		}
	})
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		answers <- answer{"late: " + lines.Text() + "\n", time.Now().Add(delay)}
	}
	close(answers)
	writer.Wait()
	return lines.Err()
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
			if err := serve(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
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
