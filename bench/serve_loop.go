package main

import (
	"context"
	"net"

	"github.com/onloop/eventloop"
)

const ours = "eventloop"

// loopServer makes a server of the library under test from the callbacks of a
// connection. Each loop has callbacks of its own.
func loopServer(callbacks func(l *eventloop.Loop, cfg *serveConfig) *eventloop.ConnConfig) server {
	return func(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
		return eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
			ln, err := l.Listen("tcp", cfg.addr, callbacks(l, cfg))
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
