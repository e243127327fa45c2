package main

import (
	"bufio"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	goroutines         = "goroutines"
	goroutinesBuffered = "goroutines+bufio"
	netHTTP            = "net/http"
	fastHTTP           = "fasthttp"
)

// netServer makes a server with a goroutine per connection.
func netServer(handle func(nc net.Conn, cfg *serveConfig)) server {
	return func(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
		ln, err := listen(cfg, ready, stop)
		if err != nil {
			return err
		}
		for {
			nc, err := ln.Accept()
			if err != nil {
				return stopped(err, stop)
			}
			go func() {
				defer nc.Close()
				handle(nc, cfg)
			}()
		}
	}
}

// listen listens until stop is closed.
func listen(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) (net.Listener, error) {
	ln, err := net.Listen("tcp4", cfg.addr)
	if err != nil {
		return nil, err
	}
	go func() {
		<-stop
		ln.Close()
	}()
	ready(ln.Addr())
	return ln, nil
}

// stopped is the error of a server that failed with err: none if it was stopped.
func stopped(err error, stop <-chan struct{}) error {
	select {
	case <-stop:
		return nil
	default:
		return err
	}
}

func netEcho(nc net.Conn, _ *serveConfig) {
	buf := make([]byte, 64<<10)
	for {
		n, err := nc.Read(buf)
		if err != nil {
			return
		}
		if _, err := nc.Write(buf[:n]); err != nil {
			return
		}
	}
}

func netPieces(nc net.Conn, _ *serveConfig) {
	buf := make([]byte, 4<<10)
	for {
		if _, err := nc.Read(buf); err != nil {
			return
		}
		for range pieces {
			if _, err := nc.Write(piece); err != nil {
				return
			}
		}
	}
}

func netPiecesBuffered(nc net.Conn, _ *serveConfig) {
	buf := make([]byte, 4<<10)
	w := bufio.NewWriter(nc)
	for {
		if _, err := nc.Read(buf); err != nil {
			return
		}
		for range pieces {
			w.Write(piece)
		}
		if w.Flush() != nil {
			return
		}
	}
}

func netDelayed(nc net.Conn, cfg *serveConfig) {
	buf := make([]byte, 512)
	if _, err := nc.Read(buf); err != nil {
		return
	}
	time.Sleep(cfg.delay)
	nc.Write([]byte(delayedAnswer))
}

// netBroadcast writes to all connections under a lock.
func netBroadcast(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
	var mu sync.Mutex
	conns := make(map[net.Conn]struct{})
	return netServer(func(nc net.Conn, _ *serveConfig) {
		mu.Lock()
		conns[nc] = struct{}{}
		mu.Unlock()
		defer func() {
			mu.Lock()
			delete(conns, nc)
			mu.Unlock()
		}()
		buf := make([]byte, 4<<10)
		for {
			n, err := nc.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			for to := range conns {
				to.Write(buf[:n])
			}
			mu.Unlock()
		}
	})(cfg, ready, stop)
}

func netHTTPServer(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
	ln, err := listen(cfg, ready, stop)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		if cfg.mode == modeHTTPDelay {
			time.Sleep(cfg.delay)
			w.Header().Set("Connection", "close")
		}
		w.Write([]byte(hello))
	})}
	return stopped(s.Serve(ln), stop)
}

func fastHTTPServer(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
	ln, err := listen(cfg, ready, stop)
	if err != nil {
		return err
	}
	s := &fasthttp.Server{Concurrency: 1 << 20, Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/plain")
		if cfg.mode == modeHTTPDelay {
			time.Sleep(cfg.delay)
			ctx.SetConnectionClose()
		}
		if cfg.mode == modeAnswer {
			ctx.WriteString(answered)
			return
		}
		ctx.WriteString(hello)
	}}
	return stopped(s.Serve(ln), stop)
}
