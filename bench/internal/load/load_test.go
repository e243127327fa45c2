package load

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/childserver"
)

// startServer runs handle on each connection and returns the address.
func startServer(t *testing.T, handle func(nc net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				handle(nc)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

func echo(nc net.Conn) { io.Copy(nc, nc) }

// bothClients runs the test with the client of this system and with the portable
// one.
func bothClients(t *testing.T, f func(t *testing.T, portable bool)) {
	for _, portable := range []bool{false, true} {
		t.Run(fmt.Sprintf("portable=%t", portable), func(t *testing.T) { f(t, portable) })
	}
}

func run(t *testing.T, spec *Spec) *Result {
	t.Helper()
	spec.PIDs = []int{os.Getpid()}
	r, err := Run(spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// runUntil is run with a measurement that is as long as it takes for the result to be
// enough: on a busy machine, a short one may end before anything has happened.
func runUntil(t *testing.T, spec *Spec, enough func(r *Result) bool) *Result {
	t.Helper()
	for {
		r := run(t, spec)
		if enough(r) || spec.Measure > time.Minute {
			return r
		}
		spec.Measure *= 2
	}
}

func some(r *Result) bool { return r.Ops > 0 }

func TestClosedLoadCountsResponsesAndTheirLatency(t *testing.T) {
	bothClients(t, func(t *testing.T, portable bool) {
		r := runUntil(t, &Spec{
			Kind: Closed, Addrs: []string{startServer(t, echo)}, Conns: 5, Idle: 20,
			Request: bytes.Repeat([]byte("x"), 100_000), Expect: 100_000, // more than one read or write takes
			Warm: 10 * time.Millisecond, Measure: 100 * time.Millisecond, Portable: portable,
		}, some)
		if r.Ops == 0 || r.Errors != 0 {
			t.Errorf("%d answers, %d errors (%s), want some and none", r.Ops, r.Errors, r.FirstError)
		}
		if r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 {
			t.Errorf("p50, p99, max = %v, %v, %v", r.P50, r.P99, r.Max)
		}
		if r.Seconds < 0.1 {
			t.Errorf("measured for %v s, want at least 0.1", r.Seconds)
		}
	})
}

func TestClosedLoadReportsServersThatCloseEarly(t *testing.T) {
	bothClients(t, func(t *testing.T, portable bool) {
		addr := startServer(t, func(nc net.Conn) { nc.Read(make([]byte, 10)) })
		r := runUntil(t, &Spec{
			Kind: Closed, Addrs: []string{addr}, Conns: 3, Request: []byte("0123456789"), Expect: 10,
			Warm: 50 * time.Millisecond, Measure: 50 * time.Millisecond, Portable: portable,
		}, func(r *Result) bool { return r.Errors >= 3 })
		if r.Ops != 0 || r.Errors != 3 || r.FirstError == "" {
			t.Errorf("%d answers, %d errors (%q), want 0 and 3", r.Ops, r.Errors, r.FirstError)
		}
	})
}

func TestBroadcastLoadCountsEachMessageReceived(t *testing.T) {
	bothClients(t, func(t *testing.T, portable bool) {
		var mu sync.Mutex
		conns := make(map[net.Conn]bool)
		addr := startServer(t, func(nc net.Conn) {
			mu.Lock()
			conns[nc] = true
			mu.Unlock()
			buf := make([]byte, 64)
			for {
				n, err := nc.Read(buf)
				mu.Lock()
				if err != nil {
					delete(conns, nc)
					mu.Unlock()
					return
				}
				for to := range conns {
					to.Write(buf[:n])
				}
				mu.Unlock()
			}
		})
		r := runUntil(t, &Spec{
			Kind: Broadcast, Addrs: []string{addr}, Conns: 10, Request: []byte("0123456789"), Expect: 10,
			Warm: 10 * time.Millisecond, Measure: 50 * time.Millisecond, Portable: portable,
		}, some)
		if r.Ops == 0 || r.Ops%10 != 0 || r.Errors != 0 {
			t.Errorf("%d messages, %d errors (%s), want a multiple of 10 and none", r.Ops, r.Errors, r.FirstError)
		}
	})
}

func TestAcceptLoadConnectsAnew(t *testing.T) {
	bothClients(t, func(t *testing.T, portable bool) {
		var mu sync.Mutex
		accepted := 0
		addr := startServer(t, func(nc net.Conn) {
			mu.Lock()
			accepted++
			mu.Unlock()
			echo(nc)
		})
		r := runUntil(t, &Spec{
			Kind: Accept, Addrs: []string{addr}, Conns: 4, Request: []byte("ping"), Expect: 4,
			Warm: 10 * time.Millisecond, Measure: 50 * time.Millisecond, Portable: portable,
		}, some)
		mu.Lock()
		defer mu.Unlock()
		if r.Ops == 0 || uint64(accepted) < r.Ops || r.Errors != 0 {
			t.Errorf("%d connections counted, %d accepted, %d errors (%s)", r.Ops, accepted, r.Errors, r.FirstError)
		}
	})
}

// delayed responds after a delay, and closes.
func delayed(delay time.Duration, answer string) func(net.Conn) {
	return func(nc net.Conn) {
		nc.Read(make([]byte, 100))
		time.Sleep(delay)
		io.WriteString(nc, answer)
	}
}

func TestOpenLoadMeasuresLatenessAndThePeak(t *testing.T) {
	bothClients(t, func(t *testing.T, portable bool) {
		const delay = 200 * time.Millisecond
		addr := startServer(t, delayed(delay, "answer"))
		r := run(t, &Spec{
			Kind: Open, Addrs: []string{addr}, Request: []byte("ask"), Expect: 6,
			Total: 100, Rate: 1000, Delay: delay, Portable: portable,
		})
		if r.Finished != 100 || r.Errors != 0 {
			t.Errorf("%d finished, %d errors (%s), want 100 and none", r.Finished, r.Errors, r.FirstError)
		}
		if r.Peak < 2 || r.Peak > 100 {
			t.Errorf("at most %d open, want many", r.Peak)
		}
		if r.Max < 0 || r.Max < r.P50 {
			t.Errorf("late by %v, at most %v", r.P50, r.Max)
		}
		if r.Seconds < 0.29 {
			t.Errorf("took %v s, want the 0.1 of the arrivals and the delay at least", r.Seconds)
		}
	})
}

func TestOpenLoadReportsResponsesOfTheWrongLength(t *testing.T) {
	bothClients(t, func(t *testing.T, portable bool) {
		for _, answer := range []string{"short", "too long"} {
			addr := startServer(t, delayed(0, answer))
			r := run(t, &Spec{
				Kind: Open, Addrs: []string{addr}, Request: []byte("ask"), Expect: 6,
				Total: 10, Rate: 1000, Portable: portable,
			})
			if r.Finished != 0 || r.Errors != 10 {
				t.Errorf("%q: %d finished, %d errors, want 0 and 10", answer, r.Finished, r.Errors)
			}
		}
	})
}

func TestOpenLoadReportsRefusedConnections(t *testing.T) {
	bothClients(t, func(t *testing.T, portable bool) {
		addr, release, err := childserver.Reserve() // and no server listens there
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		r := run(t, &Spec{
			Kind: Open, Addrs: []string{addr}, Request: []byte("ask"), Expect: 6,
			Total: 10, Rate: 1000, Portable: portable,
		})
		if r.Errors != 10 || !strings.Contains(r.FirstError, "refused") {
			t.Errorf("%d errors (%q), want 10: refused", r.Errors, r.FirstError)
		}
	})
}

func TestLengthOfAnHTTPResponseIsMeasuredByARequest(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
	addr := startServer(t, func(nc net.Conn) {
		buf := make([]byte, 100)
		for {
			if _, err := nc.Read(buf); err != nil {
				return
			}
			io.WriteString(nc, answer)
		}
	})
	spec := &Spec{Kind: Closed, Addrs: []string{addr}, Conns: 1, Request: []byte("GET / HTTP/1.1\r\n\r\n"), Measure: 20 * time.Millisecond}
	r := runUntil(t, spec, some)
	if spec.Expect != len(answer) || r.Ops == 0 || r.Errors != 0 {
		t.Errorf("expected %d bytes, %d answers, %d errors; want %d, some and none", spec.Expect, r.Ops, r.Errors, len(answer))
	}
}

func TestRunWithoutAnAddressFails(t *testing.T) {
	if _, err := Run(&Spec{Expect: 1}); err == nil {
		t.Error("Run = nil, want an error")
	}
}

// The server is late with one answer, and the requests that were due meanwhile are
// late as well, although they were sent before.
func TestPacedLoadCountsLatencyFromWhenARequestWasDue(t *testing.T) {
	const stall = 100 * time.Millisecond
	bothClients(t, func(t *testing.T, portable bool) {
		var once sync.Once
		addr := startServer(t, func(nc net.Conn) {
			buf := make([]byte, 4)
			for n := 0; ; n++ {
				if _, err := io.ReadFull(nc, buf); err != nil {
					return
				}
				if n == 20 {
					once.Do(func() { time.Sleep(stall) })
				}
				nc.Write(buf)
			}
		})
		r := run(t, &Spec{
			Kind: Paced, Addrs: []string{addr}, Conns: 2, Request: []byte("ping"), Expect: 4, Rate: 1000,
			Warm: 10 * time.Millisecond, Measure: 200 * time.Millisecond, Portable: portable,
		})
		if r.Ops != 200 || r.Errors != 0 {
			t.Errorf("%d answers, %d errors (%s), want 200 and none", r.Ops, r.Errors, r.FirstError)
		}
		// Half of the requests that were due within the stall were for that connection.
		if r.P99 < stall/2 || r.P999 < r.P99 || r.Max < stall-5*time.Millisecond {
			t.Errorf("p99 = %v, p99.9 = %v, max = %v, want at least %v", r.P99, r.P999, r.Max, stall/2)
		}
	})
}
