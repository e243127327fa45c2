// Idle measures what connections cost that do nothing: the resident memory of each,
// after a collection, and what it takes to wake them. The process that is measured
// and its peer are processes of their own.
//
//	go run ./idle [-conns 10000] [-mode plain|timeout|tls|http|client|goroutines] [-storms 2]
//
// Each connection has sent and received one message before memory is read. In the mode
// client the process that is measured is an HTTP client, whose connections are kept.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/onloop/eventloop"
)

var (
	conns   = flag.Int("conns", 10_000, "how many connections there are")
	mode    = flag.String("mode", "plain", "what is measured: the server plain, timeout, tls, http or goroutines, or an HTTP client")
	storms  = flag.Int("storms", 2, "how often all connections get a message at once")
	pings   = flag.Int("pings", 2000, "how many messages are sent one at a time")
	busy    = flag.Int("busy", 0, "how many connections send all the time meanwhile")
	settle  = flag.Duration("settle", 5*time.Second, "how long the connections are quiet before memory is read")
	serving = flag.Bool("serve", false, "be the process that is measured")
	target  = flag.String("target", "", "with -serve, the port of the server of the client")
)

func main() {
	flag.Parse()
	if *serving {
		serve()
		return
	}
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
}

// serve is the process that is measured. It answers each empty line of standard input
// with its resident memory in bytes and the number of its goroutines. In the mode client
// it answers any other line when it has sent a request on each connection.
func serve() {
	addr := make(chan string, 1)
	storm := func() {}
	switch *mode {
	case "goroutines":
		go serveGoroutines(addr)
	case "client":
		requests := make(chan func())
		go runLoop(func(l *eventloop.Loop) error {
			newClient(l, requests)
			addr <- "client"
			return nil
		})
		storm = <-requests
	default:
		go runLoop(func(l *eventloop.Loop) error { return listen(l, addr) })
	}
	fmt.Println(<-addr)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() != "" {
			storm()
			fmt.Println("done")
			continue
		}
		runtime.GC()
		runtime.GC() // of what finalizers and pools let go
		debug.FreeOSMemory()
		fmt.Println(resident(), runtime.NumGoroutine())
	}
}

func runLoop(start func(l *eventloop.Loop) error) {
	panic(eventloop.Run(context.Background(), nil, start))
}

// serveGoroutines echoes with a goroutine for each connection.
func serveGoroutines(addr chan<- string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	addr <- ln.Addr().String()
	for {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			buf := make([]byte, 4096)
			for {
				n, err := nc.Read(buf)
				if err != nil {
					return
				}
				nc.Write(buf[:n])
			}
		}()
	}
}

// listen starts the server on the loop.
func listen(l *eventloop.Loop, addr chan<- string) error {
	if *mode == "http" {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			r.Respond(200, nil, []byte("ok"))
		}, nil)
		if err == nil {
			addr <- s.Addr().String()
		}
		return err
	}
	cfg := &eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) { c.Write(p) }}
	switch *mode {
	case "timeout":
		cfg.ReadTimeout = 10 * time.Minute
	case "tls":
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{certificate()}, SessionTicketsDisabled: true}
	}
	ln, err := l.Listen("tcp", "127.0.0.1:0", cfg)
	if err == nil {
		addr <- ln.Addr().String()
	}
	return err
}

// perHost is how many connections the client has to a host. All of 127.0.0.0/8 is this
// machine, so there are as many hosts as it takes.
const perHost = 100

// newClient sends a function to requests that makes one request on each connection and
// waits for the responses. The first time it does so for one host after the other: a
// request that is under way needs a goroutine, and the runtime keeps their descriptors.
// Later it asks all at once.
func newClient(l *eventloop.Loop, requests chan<- func()) {
	l.Hold()
	client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{
		IdleTimeout: time.Hour, MaxConnsPerHost: -1, MaxIdlePerHost: perHost, MaxIdle: *conns,
	})
	var wg sync.WaitGroup
	ask := func(host int) {
		wg.Add(perHost)
		l.Post(func() {
			for range perHost {
				url := fmt.Sprintf("http://127.0.%d.%d:%s/", host/250, 1+host%250, *target)
				client.Get(context.Background(), url).Then(func(_ *eventloop.HTTPResponse, err error) {
					if err != nil {
						panic(err)
					}
					wg.Done()
				})
			}
		})
	}
	first := true
	go func() {
		requests <- func() {
			for host := range *conns / perHost {
				if ask(host); first {
					wg.Wait()
				}
			}
			wg.Wait()
			first = false
		}
	}()
}

func resident() int {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		panic(err)
	}
	return pages * os.Getpagesize()
}

// A peer is the server as the client sees it.
type peer struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func (p *peer) memory() (bytes, goroutines int) {
	fmt.Fprintln(p.in)
	if _, err := fmt.Fscanln(p.out, &bytes, &goroutines); err != nil {
		panic(err)
	}
	return bytes, goroutines
}

const request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

func measure() error {
	args := append([]string{"-serve"}, os.Args[1:]...)
	if *mode == "client" {
		port, err := answerTogether()
		if err != nil {
			return err
		}
		*conns -= *conns % perHost
		args = append(args, "-target", port)
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer cmd.Wait()
	defer in.Close() // before Wait: it ends the process
	p := &peer{in, bufio.NewReader(out)}
	var addr string
	if _, err := fmt.Fscanln(p.out, &addr); err != nil {
		return err
	}
	before, _ := p.memory()
	report := func(what string) {
		time.Sleep(*settle)
		now, goroutines := p.memory()
		fmt.Printf("%-28s %6.0f B each, %d goroutines\n", what, float64(now-before)/float64(*conns), goroutines)
	}
	if *mode == "client" {
		return measureClient(p, report)
	}
	return measureServer(addr, report)
}

// answerTogether is a server that answers the requests to a host when there are perHost
// of them, so that a client has as many connections.
func answerTogether() (port string, err error) {
	ln, err := net.Listen("tcp4", ":0")
	if err != nil {
		return "", err
	}
	var mu sync.Mutex
	waiting := make(map[string][]net.Conn)
	asked := func(nc net.Conn) {
		host := nc.LocalAddr().String()
		mu.Lock()
		defer mu.Unlock()
		all := append(waiting[host], nc)
		if waiting[host] = all; len(all) < perHost {
			return
		}
		waiting[host] = nil
		for _, nc := range all {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				for receive(nc) == nil {
					asked(nc)
				}
			}()
		}
	}()
	_, port, err = net.SplitHostPort(ln.Addr().String())
	return port, err
}

// measureClient measures a client, the connections of which it makes itself.
func measureClient(p *peer, report func(what string)) error {
	for i := range 1 + *storms {
		began := time.Now()
		fmt.Fprintln(p.in, "request")
		var done string
		if _, err := fmt.Fscanln(p.out, &done); err != nil {
			return err
		}
		if i > 0 {
			fmt.Printf("a request on each at once    %v until all have been answered\n", time.Since(began).Round(time.Millisecond))
		}
		if i == 0 {
			report("after one request each")
		} else {
			report("afterwards")
		}
	}
	return nil
}

func measureServer(addr string, report func(what string)) error {
	message := strings.Repeat("x", 64)
	if *mode == "http" {
		message = request
	}
	all := make([]net.Conn, *conns)
	for i := range all {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		if *mode == "tls" {
			nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
		}
		all[i] = nc
		if err := roundTrip(nc, message); err != nil {
			return err
		}
	}
	report("after one message each")
	for range *storms {
		if err := storm(all, message); err != nil {
			return err
		}
		report("afterwards")
	}
	return firstMessages(all, message)
}

// storm sends a message on each connection at once.
func storm(all []net.Conn, message string) error {
	began := time.Now()
	for _, nc := range all {
		if _, err := io.WriteString(nc, message); err != nil {
			return err
		}
	}
	sent := time.Since(began)
	for _, nc := range all {
		if err := receive(nc); err != nil {
			return err
		}
	}
	fmt.Printf("all woken at once            %v until all have answered, %v to send\n", time.Since(began).Round(time.Millisecond), sent.Round(time.Millisecond))
	return nil
}

// firstMessages sends a message on one quiet connection after the other, beside others
// that are busy.
func firstMessages(all []net.Conn, message string) error {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, nc := range all[:min(*busy, len(all))] {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					roundTrip(nc, message)
				}
			}
		})
	}
	defer wg.Wait()
	defer close(stop)
	quiet := all[min(*busy, len(all)):]
	times := make([]time.Duration, 0, *pings)
	for i := range min(*pings, len(quiet)) {
		began := time.Now()
		if err := roundTrip(quiet[i], message); err != nil {
			return err
		}
		times = append(times, time.Since(began))
		time.Sleep(time.Millisecond)
	}
	if slices.Sort(times); len(times) > 0 {
		fmt.Printf("first message of each        p50 %v, p90 %v, p99 %v\n", times[len(times)/2], times[len(times)*9/10], times[len(times)*99/100])
	}
	return nil
}

func roundTrip(nc net.Conn, message string) error {
	if _, err := io.WriteString(nc, message); err != nil {
		return err
	}
	return receive(nc)
}

// receive reads an answer, which comes in one piece.
func receive(nc net.Conn) error {
	var buf [4096]byte
	_, err := nc.Read(buf[:])
	return err
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
