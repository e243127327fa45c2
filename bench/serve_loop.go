package main

import (
	"context"
	"net"
	"sync"

	"github.com/onloop/eventloop"
)

const ours = "eventloop"

// callbacks makes those of a connection, for one loop.
type callbacks func(l *eventloop.Loop, cfg *serveConfig) *eventloop.ConnConfig

// loopServer makes a server of the library under test.
func loopServer(of callbacks) server {
	return func(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
		if cfg.loops > 0 {
			return serveGroup(cfg, ready, stop, of)
		}
		return eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			ln, err := l.Listen("tcp", cfg.addr, of(l, cfg))
			if err != nil {
				return err
			}
			go func() {
				<-stop
				l.Stop()
			}()
			ready(ln.Addr())
			return nil
		})
	}
}

// serveGroup serves one port by several loops. It listens before they do, so that
// they have one address, and closes its own listener once they have it: the kernel
// would give that listener connections too, and nothing accepts them.
func serveGroup(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}, of callbacks) error {
	lc := eventloop.ListenConfig{ReusePort: cfg.reusePort, Shared: !cfg.reusePort}
	first, err := listenFirst(cfg)
	if err != nil {
		return err
	}
	var up sync.WaitGroup
	up.Add(cfg.loops)
	g := eventloop.NewGroup(cfg.loops, nil)
	go func() {
		up.Wait()
		first.Close()
		ready(first.Addr())
		<-stop
		g.Stop()
	}()
	return g.Run(context.Background(), func(l *eventloop.Loop) (err error) {
		defer up.Done()
		if cfg.reusePort {
			_, err = lc.Listen(l, "tcp4", first.Addr().String(), of(l, cfg))
		} else {
			_, err = lc.Serve(l, first, of(l, cfg))
		}
		return err
	})
}

func listenFirst(cfg *serveConfig) (net.Listener, error) {
	lc := net.ListenConfig{}
	if cfg.reusePort {
		lc.Control = reusePort
	}
	return lc.Listen(context.Background(), "tcp4", cfg.addr)
}

func loopEcho(*eventloop.Loop, *serveConfig) *eventloop.ConnConfig {
	return &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, data []byte) { c.Write(data) },
	}
}

func loopPieces(*eventloop.Loop, *serveConfig) *eventloop.ConnConfig {
	return &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, data []byte) {
			for range pieces {
				c.Write(piece)
			}
		},
	}
}

func loopBroadcast(*eventloop.Loop, *serveConfig) *eventloop.ConnConfig {
	conns := make(map[*eventloop.Conn]struct{})
	return &eventloop.ConnConfig{
		OnConnect: func(c *eventloop.Conn) { conns[c] = struct{}{} },
		OnClose:   func(c *eventloop.Conn) { delete(conns, c) },
		OnData: func(_ *eventloop.Conn, data []byte) {
			for c := range conns {
				c.Write(data)
			}
		},
	}
}

// loopDelayed is the server of the seed's benchmark: whatever the request is, the
// answer follows after the delay, and then the connection is closed.
func loopDelayed(l *eventloop.Loop, cfg *serveConfig) *eventloop.ConnConfig {
	return &eventloop.ConnConfig{
		OnData: func(c *eventloop.Conn, _ []byte) {
			l.AfterFunc(cfg.delay, func() {
				if !c.Closed() {
					c.WriteString(delayedAnswer)
					c.Close()
				}
			})
		},
	}
}
