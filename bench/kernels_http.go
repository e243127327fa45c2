package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/valyala/fasthttp"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/bench/internal/proc"
)

func init() {
	for _, inFlight := range clientsInFlight {
		name := fmt.Sprintf("client-%d", inFlight)
		kernels[ours][name] = func(n int) { loopRequests(n, inFlight) }
		addKernel(fastHTTP, name, func(n int) { hostClientRequests(n, inFlight) })
		addKernel(netHTTP, name, func(n int) { netRequests(n, inFlight) })
	}
}

func addKernel(lib, name string, f kernel) {
	if kernels[lib] == nil {
		kernels[lib] = make(map[string]kernel)
	}
	kernels[lib][name] = f
}

// clientsInFlight are how many requests are in flight.
var clientsInFlight = []int{1, 100}

// answered is what the server of the clients answers.
var answered = strings.Repeat("0123456789", 10)

// serverProcessor is in the environment of a kernel whose server is to be bound to a
// processor.
const serverProcessor = "BENCH_SERVER_PROCESSOR"

// answerURL starts a fasthttp server for the HTTP clients, echoAddr a server that
// echoes for the others.
var (
	answerURL = sync.OnceValue(func() string { return "http://" + peer(fastHTTP, modeAnswer) + "/" })
	echoAddr  = sync.OnceValue(func() string { return peer(goroutines, modeEcho) })
)

// peer starts a server in a process of its own, so that only the client counts, and
// returns its address. It ends when this process does.
func peer(lib, mode string) string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	start := (*exec.Cmd).Start
	if cpu, err := strconv.Atoi(os.Getenv(serverProcessor)); err == nil {
		start = func(cmd *exec.Cmd) error { return proc.On(cpu, cmd.Start) }
	}
	c, err := startServerBy([]string{exe, "-serve", lib, "-mode", mode}, start)
	if err != nil {
		panic(err)
	}
	return "127.0.0.1:" + c.port
}

func loopRequests(n, inFlight int) {
	url := answerURL()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		left := n
		var next func()
		done := func(res *eventloop.HTTPResponse, err error) {
			if err != nil || len(res.Body) != len(answered) {
				panic(fmt.Sprint(res, err))
			}
			next()
		}
		next = func() {
			if left > 0 {
				left--
				l.HTTP().Get(context.Background(), url).Then(done)
			}
		}
		for range inFlight {
			next()
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
}

// goroutineRequests has do called n times, by as many goroutines as requests are
// in flight.
func goroutineRequests(n, inFlight int, do func() error) {
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := do(); err != nil {
					panic(err)
				}
			}
		})
	}
	wg.Wait()
}

func hostClientRequests(n, inFlight int) {
	url := answerURL()
	addr := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")
	c := &fasthttp.HostClient{Addr: addr, MaxConns: inFlight, Dial: func(addr string) (net.Conn, error) {
		return net.Dial("tcp", addr)
	}}
	defer c.CloseIdleConnections()
	goroutineRequests(n, inFlight, func() error {
		req, res := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		defer fasthttp.ReleaseRequest(req)
		defer fasthttp.ReleaseResponse(res)
		req.SetRequestURI(url)
		if err := c.Do(req, res); err != nil {
			return err
		}
		return checkAnswer(len(res.Body()))
	})
}

func netRequests(n, inFlight int) {
	url := answerURL()
	t := &http.Transport{MaxIdleConnsPerHost: inFlight}
	defer t.CloseIdleConnections()
	c := &http.Client{Transport: t}
	goroutineRequests(n, inFlight, func() error {
		res, err := c.Get(url)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		return checkAnswer(len(body))
	})
}

func checkAnswer(n int) error {
	if n != len(answered) {
		return fmt.Errorf("a response of %d bytes", n)
	}
	return nil
}
