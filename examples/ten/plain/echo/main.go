// Echo sends back what it gets.
package main

import (
	"context"
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
			defer c.Close()
			io.Copy(c, c)
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
