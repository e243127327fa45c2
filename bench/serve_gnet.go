//go:build unix

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/panjf2000/gnet/v2"
	"github.com/panjf2000/gnet/v2/pkg/logging"
)

func init() {
	for lib, loops := range map[string]int{gnetLib: 1, gnetMulticore: 0} {
		servers[lib] = map[string]server{
			modeEcho:    gnetServer(loops, func() gnet.EventHandler { return &gnetHandler{traffic: gnetEcho} }),
			modePieces:  gnetServer(loops, func() gnet.EventHandler { return &gnetHandler{traffic: gnetPieces} }),
			modeDelayed: gnetServer(loops, func() gnet.EventHandler { return &gnetHandler{traffic: gnetDelayed} }),
		}
	}
	// With several loops a broadcast needs a hop for each connection.
	servers[gnetLib][modeBroadcast] = gnetServer(1, func() gnet.EventHandler {
		h := &gnetHandler{conns: make(map[gnet.Conn]struct{})}
		h.traffic = h.broadcast
		return h
	})
}

// gnetHandler is a server of gnet.
type gnetHandler struct {
	gnet.BuiltinEventEngine
	cfg     *serveConfig
	traffic func(c gnet.Conn, cfg *serveConfig) gnet.Action
	conns   map[gnet.Conn]struct{} // nil but for a broadcast
	booted  chan gnet.Engine
}

func (h *gnetHandler) OnBoot(e gnet.Engine) gnet.Action {
	h.booted <- e
	return gnet.None
}

func (h *gnetHandler) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	if h.conns != nil {
		h.conns[c] = struct{}{}
	}
	return nil, gnet.None
}

func (h *gnetHandler) OnClose(c gnet.Conn, _ error) gnet.Action {
	delete(h.conns, c)
	return gnet.None
}

func (h *gnetHandler) OnTraffic(c gnet.Conn) gnet.Action { return h.traffic(c, h.cfg) }

// gnetServer makes a server of gnet with so many loops, 0: one per processor.
func gnetServer(loops int, handler func() gnet.EventHandler) server {
	return func(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
		h := handler().(*gnetHandler)
		h.cfg, h.booted = cfg, make(chan gnet.Engine, 1)
		ended := make(chan error, 1)
		go func() {
			ended <- gnet.Run(h, "tcp4://"+cfg.addr,
				gnet.WithMulticore(loops == 0), gnet.WithNumEventLoop(loops), gnet.WithLogger(silentLogger{}))
		}()
		select {
		case err := <-ended:
			return err
		case e := <-h.booted:
			addr, err := gnetAddr(e)
			if err != nil {
				return err
			}
			ready(addr)
			<-stop
			ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
			defer cancel()
			if err := e.Stop(ctx); err != nil {
				return err
			}
			return <-ended
		}
	}
}

// gnetAddr returns where e listens.
func gnetAddr(e gnet.Engine) (net.Addr, error) {
	fd, err := e.Dup()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	return ln.Addr(), nil
}

func gnetEcho(c gnet.Conn, _ *serveConfig) gnet.Action {
	data, err := c.Next(-1)
	if err == nil {
		_, err = c.Write(data)
	}
	return closeOn(err)
}

func gnetPieces(c gnet.Conn, _ *serveConfig) gnet.Action {
	_, err := c.Discard(-1)
	for range pieces {
		if err == nil {
			_, err = c.Write(piece)
		}
	}
	return closeOn(err)
}

func gnetDelayed(c gnet.Conn, cfg *serveConfig) gnet.Action {
	if _, err := c.Discard(-1); err != nil {
		return gnet.Close
	}
	time.AfterFunc(cfg.delay, func() {
		c.AsyncWrite([]byte(delayedAnswer), func(c gnet.Conn, _ error) error { return c.Close() })
	})
	return gnet.None
}

func (h *gnetHandler) broadcast(c gnet.Conn, _ *serveConfig) gnet.Action {
	data, err := c.Next(-1)
	for to := range h.conns {
		to.Write(data)
	}
	return closeOn(err)
}

func closeOn(err error) gnet.Action {
	if err != nil {
		return gnet.Close
	}
	return gnet.None
}

// silentLogger drops what gnet logs, such as a connection that the client reset,
// but not what is fatal.
type silentLogger struct{}

var _ logging.Logger = silentLogger{}

func (silentLogger) Debugf(string, ...any) {}
func (silentLogger) Infof(string, ...any)  {}
func (silentLogger) Warnf(string, ...any)  {}
func (silentLogger) Errorf(string, ...any) {}
func (silentLogger) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}
