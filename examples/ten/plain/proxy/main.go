// Proxy passes connections on to another address, in both directions.
package main

import (
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

func pass(c *net.TCPConn) {
	nc, err := net.DialTimeout("tcp", os.Args[2], 5*time.Second)
	if err != nil {
		log.Print(err)
		abort(c)
		return
	}
	target := nc.(*net.TCPConn)
	var both sync.WaitGroup
	both.Go(func() { copyOneWay(target, c) })
	both.Go(func() { copyOneWay(c, target) })
	both.Wait()
	target.Close()
	c.Close()
}

// copyOneWay ends dst as src ended.
func copyOneWay(dst, src *net.TCPConn) {
	_, err := io.Copy(dst, src)
	if err == nil {
		dst.CloseWrite()
		return
	}
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		log.Print(err)
	}
	abort(dst)
	abort(src)
}

// abort closes c so that its peer sees a reset.
func abort(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
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
		clients.Go(func() { pass(c.(*net.TCPConn)) })
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		log.Fatal("clients were cut off")
	}
}
