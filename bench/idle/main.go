// Idle measures what connections cost that do nothing: the resident memory of each,
// after a collection, and what it takes to wake them. Server and client are
// processes of their own.
//
//	go run ./idle [-conns 10000] [-mode plain|tls|http|goroutines] [-storms 2]
//
// Each connection has sent and received one message before memory is read.
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
	mode    = flag.String("mode", "plain", "what the server is: plain, timeout, tls, http, goroutines")
	storms  = flag.Int("storms", 2, "how often all connections get a message at once")
	pings   = flag.Int("pings", 2000, "how many messages are sent one at a time")
	busy    = flag.Int("busy", 0, "how many connections send all the time meanwhile")
	settle  = flag.Duration("settle", 5*time.Second, "how long the connections are quiet before memory is read")
	serving = flag.Bool("serve", false, "be the server")
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

// serve is the server. It answers each line of standard input with its resident
// memory in bytes and the number of its goroutines.
func serve() {
	addr := make(chan net.Addr, 1)
	switch *mode {
	case "goroutines":
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		addr <- ln.Addr()
		go func() {
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
		}()
	default:
		go func() {
			err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
				if *mode == "http" {
					s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
						r.Respond(200, nil, []byte("ok"))
					}, nil)
					if err == nil {
						addr <- s.Addr()
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
					addr <- ln.Addr()
				}
				return err
			})
			panic(err)
		}()
	}
	fmt.Println(<-addr)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		runtime.GC()
		runtime.GC() // of what finalizers and pools let go
		debug.FreeOSMemory()
		fmt.Println(resident(), runtime.NumGoroutine())
	}
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
	cmd := exec.Command(os.Args[0], append([]string{"-serve"}, os.Args[1:]...)...)
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
	defer in.Close()
	p := &peer{in, bufio.NewReader(out)}
	var addr string
	if _, err := fmt.Fscanln(p.out, &addr); err != nil {
		return err
	}
	message := strings.Repeat("x", 64)
	if *mode == "http" {
		message = request
	}
	before, _ := p.memory()
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
	report := func(what string) {
		time.Sleep(*settle)
		now, goroutines := p.memory()
		fmt.Printf("%-28s %6.0f B each, %d goroutines\n", what, float64(now-before)/float64(*conns), goroutines)
	}
	report("after one message each")
	for range *storms {
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
		report("afterwards")
	}
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
	close(stop)
	wg.Wait()
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
