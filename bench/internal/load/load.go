// Package load is the client of the benchmarks. It keeps a server busy, or
// arrives at a steady rate whatever the server does, and counts answers and
// their latency.
//
// On Linux it is one thread on a bare epoll, so that most of a small machine is
// left to the server. Elsewhere, and with Spec.Portable, it is a goroutine a
// connection.
package load

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/onloop/eventloop/bench/internal/measure"
	"github.com/onloop/eventloop/bench/internal/proc"
)

// The kinds of load.
const (
	Closed    = "closed"    // each connection sends as soon as it has its answer
	Broadcast = "broadcast" // one sends, all receive, then again
	Accept    = "accept"    // connect, one answer, close; then again
	Open      = "open"      // connections arrive at a rate; the server answers and closes
	Paced     = "paced"     // the connections send at a rate, one after the other, whatever the server does
)

// A Spec says what load to make.
type Spec struct {
	Kind    string
	Addrs   []string // dialed in turn: more than one avoids the range of local ports
	Conns   int      // at a time
	Idle    int      // connections that get one answer before, and stay
	Request []byte
	Expect  int // bytes of an answer; 0: that of an HTTP server, found out by asking
	Warm    time.Duration
	Measure time.Duration
	PIDs    []int // processes of the server

	Rate float64 // of Open, connections per second; of Paced, requests per second

	// Of Open.
	Total int           // connections
	Delay time.Duration // of the answer, as the server promises

	Portable bool
}

// A Result is what came of it.
type Result struct {
	Ops       uint64 // answers; of Broadcast, messages received
	Seconds   float64
	ServerCPU time.Duration
	ClientCPU time.Duration

	// Latency. Of Open, how much later than the delay an answer came; of Paced, the
	// time since the request was to be sent.
	P50, P99, P999, Max time.Duration

	RSSStart int64 // resident bytes of the server before the first connection,
	RSSIdle  int64 // with the idle connections, or at the peak of Open,
	RSSEnd   int64 // and at the end

	Errors     int
	FirstError string

	// Of Open.
	Peak     int // connections open at a time
	Finished int
	PeakRate float64 // the most answers in one second
}

// answerTimeout bounds the wait for anything that ought to come at once.
const answerTimeout = 20 * time.Second

// Run makes the load.
func Run(spec *Spec) (*Result, error) {
	if len(spec.Addrs) == 0 {
		return nil, errors.New("load: no address")
	}
	if spec.Expect == 0 {
		n, err := probe(spec.Addrs[0], spec.Request)
		if err != nil {
			return nil, fmt.Errorf("load: probe: %w", err)
		}
		spec.Expect = n
	}
	t := &tally{spec: spec, own: proc.Of(os.Getpid()), result: Result{RSSStart: proc.Sum(spec.PIDs).RSS}}
	if spec.Portable || !haveEpoll {
		return portable(t)
	}
	return epoll(t)
}

// probe sends the request once and returns the length of the answer.
func probe(addr string, request []byte) (int, error) {
	nc, err := net.DialTimeout("tcp", addr, answerTimeout)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(answerTimeout))
	if _, err := nc.Write(request); err != nil {
		return 0, err
	}
	counted := &countingReader{r: nc}
	buffered := bufio.NewReader(counted)
	resp, err := http.ReadResponse(buffered, nil)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %s", resp.Status)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, err
	}
	return counted.n - buffered.Buffered(), nil
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// A tally gathers the result.
type tally struct {
	spec   *Spec
	hist   measure.Histogram
	result Result
	open   int

	began  time.Time
	server proc.Usage
	own    proc.Usage
	second int64 // of Open: the current one, and its answers
	inIt   int
}

func (t *tally) failed(err error) {
	t.result.Errors++
	if t.result.FirstError == "" {
		t.result.FirstError = err.Error()
	}
}

// begin starts the measurement.
func (t *tally) begin() {
	t.server = proc.Sum(t.spec.PIDs)
	t.own = proc.Of(os.Getpid())
	t.hist = measure.Histogram{}
	t.result.Ops = 0
	t.began = time.Now()
}

// end finishes the measurement.
func (t *tally) end() *Result {
	r := &t.result
	r.Seconds = time.Since(t.began).Seconds()
	server := proc.Sum(t.spec.PIDs)
	r.ServerCPU = server.CPU - t.server.CPU
	r.ClientCPU = proc.Of(os.Getpid()).CPU - t.own.CPU
	r.RSSEnd = server.RSS
	r.P50, r.P99 = t.hist.Quantile(0.5), t.hist.Quantile(0.99)
	r.P999, r.Max = t.hist.Quantile(0.999), t.hist.Max()
	return r
}

// settled notes the memory with idle connections.
func (t *tally) settled() { t.result.RSSIdle = proc.Sum(t.spec.PIDs).RSS }

// finished counts an answer of Open that came at a time since the beginning.
func (t *tally) finished(at time.Duration) {
	t.result.Finished++
	if s := int64(at / time.Second); s != t.second {
		t.second, t.inIt = s, 0
	}
	t.inIt++
	t.result.PeakRate = max(t.result.PeakRate, float64(t.inIt))
}

func (t *tally) opened() {
	t.open++
	t.result.Peak = max(t.result.Peak, t.open)
}

var (
	errShort = errors.New("the connection ended before its answer was complete")
	errLong  = errors.New("the answer was longer than it should be")
	errStall = errors.New("no answer for a long time")
)
