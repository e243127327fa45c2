package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime/pprof"
	"time"
)

// The modes of a server.
const (
	modeEcho      = "echo"      // sends back what it reads
	modePieces    = "pieces"    // answers what it reads with four writes of pieceSize
	modeBroadcast = "broadcast" // sends what it reads to all connections
	modeDelayed   = "delayed"   // answers 110 bytes after a delay, and closes: the seed's benchmark
	modeHTTP      = "http"      // says hello
	modeHTTPDelay = "httpdelay" // the seed's benchmark through the HTTP server
	modeAnswer    = "answer"    // answers requests of HTTP clients with 100 bytes
)

// Netpoll does not exist on Windows, and gnet is not meant for production there.
const (
	netpollLib      = "netpoll"
	netpollBuffered = "netpoll+flush"
	gnetLib         = "gnet"
	gnetMulticore   = "gnet multicore"
)

const (
	pieceSize = 16
	pieces    = 4
	hello     = "Hello, World!\n"
)

var piece = []byte("sixteen bytes. \n")

// delayedAnswer is the answer of the seed's benchmark, byte by byte.
const delayedAnswer = "HTTP/1.1 200 OK\r\nDate: Wed, 03 Oct 2012 23:43:10 GMT\r\n" +
	"Content-Type: text/plain\r\nContent-Length: 9\r\n\r\nomglolwtf"

// A serveConfig is what a server of ours in this program is started with.
type serveConfig struct {
	lib, mode string
	addr      string
	delay     time.Duration
	loops     int  // of the library under test; 0: one loop without a group
	reusePort bool // several loops: a listener each instead of a shared one
	profile   string
}

// A server runs until stop is closed. It calls ready with the address once it
// listens.
type server func(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error

// servers are those that this program has in itself, by library and mode.
var servers = map[string]map[string]server{
	ours: {
		modeEcho:      loopServer(loopEcho),
		modePieces:    loopServer(loopPieces),
		modeBroadcast: loopServer(loopBroadcast),
		modeDelayed:   loopServer(loopDelayed),
	},
	goroutines: {
		modeEcho:      netServer(netEcho),
		modePieces:    netServer(netPieces),
		modeBroadcast: netBroadcast,
		modeDelayed:   netServer(netDelayed),
	},
	goroutinesBuffered: {
		modePieces: netServer(netPiecesBuffered),
	},
	netHTTP: {
		modeHTTP:      netHTTPServer,
		modeHTTPDelay: netHTTPServer,
	},
	fastHTTP: {
		modeHTTP:      fastHTTPServer,
		modeHTTPDelay: fastHTTPServer,
		modeAnswer:    fastHTTPServer,
	},
}

// serve is the main function of a server process. It ends when standard input
// does, so that no server outlives the program that started it.
func serve(cfg *serveConfig) error {
	s, ok := servers[cfg.lib][cfg.mode]
	if !ok {
		return fmt.Errorf("no server of %s for %s", cfg.lib, cfg.mode)
	}
	if cfg.profile != "" {
		f, err := os.Create(cfg.profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	return s(cfg, announce, stop)
}

// announce tells the parent where the server listens. C and Node servers write
// the same line.
func announce(addr net.Addr) { fmt.Printf("listening %s\n", addr) }

// hasServer reports whether this program has the server in itself.
func hasServer(lib, mode string) bool { return servers[lib][mode] != nil }
