//go:build !windows

package main

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/cloudwego/netpoll"
)

func init() {
	servers[netpollLib] = map[string]server{
		modeEcho:      netpollServer(netpollEcho),
		modePieces:    netpollServer(netpollPieces),
		modeBroadcast: netpollBroadcast,
		modeDelayed:   netpollServer(netpollDelayed),
	}
	servers[netpollBuffered] = map[string]server{
		modePieces: netpollServer(netpollPiecesBuffered),
	}
}

// netpollServer makes a server of netpoll from what to do on a request.
func netpollServer(handle func(c netpoll.Connection, cfg *serveConfig) error) server {
	return func(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
		return serveNetpoll(cfg, ready, stop, func(_ context.Context, c netpoll.Connection) error {
			return handle(c, cfg)
		})
	}
}

func serveNetpoll(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}, f netpoll.OnRequest, opts ...netpoll.Option) error {
	ln, err := netpoll.CreateListener("tcp4", cfg.addr)
	if err != nil {
		return err
	}
	loop, err := netpoll.NewEventLoop(f, opts...)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- loop.Serve(ln) }()
	ready(ln.Addr())
	select {
	case err := <-ended:
		return err
	case <-stop:
		return nil // the process ends
	}
}

// take returns what has arrived.
func take(c netpoll.Connection) ([]byte, error) {
	return c.Reader().Next(c.Reader().Len())
}

func netpollEcho(c netpoll.Connection, _ *serveConfig) error {
	data, err := take(c)
	if err != nil {
		return err
	}
	if _, err := c.Writer().WriteBinary(data); err != nil {
		return err
	}
	if err := c.Writer().Flush(); err != nil {
		return err
	}
	return c.Reader().Release()
}

// netpollPieces writes as to any net.Conn.
func netpollPieces(c netpoll.Connection, _ *serveConfig) error {
	if _, err := take(c); err != nil {
		return err
	}
	c.Reader().Release()
	for range pieces {
		if _, err := c.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

func netpollPiecesBuffered(c netpoll.Connection, _ *serveConfig) error {
	if _, err := take(c); err != nil {
		return err
	}
	c.Reader().Release()
	for range pieces {
		c.Writer().WriteBinary(piece)
	}
	return c.Writer().Flush()
}

func netpollDelayed(c netpoll.Connection, cfg *serveConfig) error {
	if _, err := take(c); err != nil {
		return err
	}
	c.Reader().Release()
	time.AfterFunc(cfg.delay, func() {
		c.Write([]byte(delayedAnswer))
		c.Close()
	})
	return nil
}

// netpollBroadcast writes to all connections under a lock.
func netpollBroadcast(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
	var mu sync.Mutex
	conns := make(map[netpoll.Connection]struct{})
	return serveNetpoll(cfg, ready, stop, func(_ context.Context, c netpoll.Connection) error {
		data, err := take(c)
		if err != nil {
			return err
		}
		mu.Lock()
		for to := range conns {
			to.Writer().WriteBinary(data)
			to.Writer().Flush()
		}
		mu.Unlock()
		return c.Reader().Release()
	}, netpoll.WithOnConnect(func(ctx context.Context, c netpoll.Connection) context.Context {
		mu.Lock()
		conns[c] = struct{}{}
		mu.Unlock()
		return ctx
	}), netpoll.WithOnDisconnect(func(_ context.Context, c netpoll.Connection) {
		mu.Lock()
		delete(conns, c)
		mu.Unlock()
	}))
}
