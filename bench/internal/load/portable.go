package load

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A crowd is the client with a goroutine per connection.
type crowd struct {
	mu sync.Mutex // guards tally
	*tally
	base      time.Time
	measuring bool
	dialer    net.Dialer
	dialed    int
	conns     []net.Conn // to be closed at the end
	wg        sync.WaitGroup
	over      chan struct{} // closed at the end
}

func portable(t *tally) (*Result, error) {
	p := &crowd{tally: t, base: time.Now(), over: make(chan struct{})}
	defer p.wg.Wait()
	defer p.closeAll()
	var err error
	switch t.spec.Kind {
	case Open:
		p.arrive()
		return p.end(), nil
	case Accept:
		return p.measure(p.reconnect)
	case Broadcast:
		err = p.broadcast()
	case Paced:
		return p.paced()
	default:
		err = p.closed()
	}
	if err != nil {
		return nil, err
	}
	return p.measure(nil)
}

func (p *crowd) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.over)
	for _, nc := range p.conns {
		nc.Close()
	}
}

func (p *crowd) dial() (net.Conn, error) {
	p.mu.Lock()
	addr := p.spec.Addrs[p.dialed%len(p.spec.Addrs)]
	p.dialed++
	p.mu.Unlock()
	nc, err := p.dialer.Dial("tcp", addr)
	if err == nil && p.spec.Kind != Accept && p.spec.Kind != Open {
		p.mu.Lock()
		p.conns = append(p.conns, nc)
		p.mu.Unlock()
	}
	return nc, err
}

// measure waits for the time of the spec. work runs meanwhile, on as many
// goroutines as there are to be connections, until its context ends.
func (p *crowd) measure(work func(ctx context.Context)) (*Result, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var workers sync.WaitGroup
	if work != nil {
		for range p.spec.Conns {
			workers.Go(func() { work(ctx) })
		}
	}
	time.Sleep(p.spec.Warm)
	p.mu.Lock()
	p.begin()
	p.measuring = true
	p.mu.Unlock()
	time.Sleep(p.spec.Measure)
	p.mu.Lock()
	p.measuring = false
	r := *p.end()
	p.mu.Unlock()
	cancel()
	workers.Wait()
	return &r, nil
}

// answered counts n answers.
func (p *crowd) answered(n uint64, latency time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.measuring || p.spec.Kind == Open {
		p.result.Ops += n
		p.hist.Record(latency)
	}
}

func (p *crowd) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed(err)
}

// exchange sends the request and reads the answer.
func (p *crowd) exchange(nc net.Conn, answer []byte) error {
	if _, err := nc.Write(p.spec.Request); err != nil {
		return err
	}
	_, err := io.ReadFull(nc, answer)
	return err
}

func (p *crowd) closed() error {
	answer := make([]byte, p.spec.Expect)
	for range p.spec.Idle {
		nc, err := p.dial()
		if err != nil {
			return err
		}
		if err := p.exchange(nc, answer); err != nil {
			return err
		}
	}
	time.Sleep(settleTimePortable)
	p.settled()
	for range p.spec.Conns {
		nc, err := p.dial()
		if err != nil {
			return err
		}
		p.opened()
		p.wg.Go(func() { p.repeat(nc) })
	}
	return nil
}

const settleTimePortable = 500 * time.Millisecond

func (p *crowd) repeat(nc net.Conn) {
	answer := make([]byte, p.spec.Expect)
	for {
		began := time.Now()
		if err := p.exchange(nc, answer); err != nil {
			if !errors.Is(err, net.ErrClosed) {
				p.fail(err)
			}
			return
		}
		p.answered(1, time.Since(began))
	}
}

// paced sends at a rate, on one connection after the other, from one goroutine, and
// reads from a goroutine per connection.
func (p *crowd) paced() (*Result, error) {
	type stream struct {
		nc  net.Conn
		due chan time.Time // of the requests that were sent
	}
	var all []*stream
	for range p.spec.Conns {
		nc, err := p.dial()
		if err != nil {
			return nil, err
		}
		p.opened()
		all = append(all, &stream{nc, make(chan time.Time, 1<<16)})
	}
	began := time.Now()
	from := began.Add(p.spec.Warm)
	until := from.Add(p.spec.Measure)
	var readers sync.WaitGroup
	for _, s := range all {
		readers.Go(func() {
			answer := make([]byte, p.spec.Expect)
			for due := range s.due {
				if _, err := io.ReadFull(s.nc, answer); err != nil {
					p.fail(err)
					return
				}
				if !due.Before(from) {
					p.answered(1, time.Since(due))
				}
			}
		})
	}
	for n := 0; ; n++ {
		due := began.Add(time.Duration(float64(n) / p.spec.Rate * float64(time.Second)))
		if !due.Before(until) {
			break
		}
		time.Sleep(time.Until(due))
		if p.mu.Lock(); !p.measuring && !due.Before(from) {
			p.begin()
			p.measuring = true
		}
		p.mu.Unlock()
		s := all[n%len(all)]
		select {
		case s.due <- due:
		default:
			p.fail(errStall)
		}
		if _, err := s.nc.Write(p.spec.Request); err != nil {
			p.fail(err)
			break
		}
	}
	for _, s := range all {
		close(s.due)
	}
	readers.Wait()
	return p.end(), nil
}

// reconnect is the work of Accept.
func (p *crowd) reconnect(ctx context.Context) {
	answer := make([]byte, p.spec.Expect)
	for ctx.Err() == nil {
		began := time.Now()
		nc, err := p.dial()
		if err == nil {
			err = p.exchange(nc, answer)
			nc.Close()
		}
		if err != nil {
			p.fail(err)
			return
		}
		p.answered(1, time.Since(began))
	}
}

func (p *crowd) broadcast() error {
	received := make(chan struct{}, p.spec.Conns)
	var first net.Conn
	for range p.spec.Conns {
		nc, err := p.dial()
		if err != nil {
			return err
		}
		first = nc
		p.wg.Go(func() {
			answer := make([]byte, p.spec.Expect)
			for {
				if _, err := io.ReadFull(nc, answer); err != nil {
					if !errors.Is(err, net.ErrClosed) {
						p.fail(err)
					}
					return
				}
				received <- struct{}{} // has room for a whole round
			}
		})
	}
	time.Sleep(settleTimePortable)
	p.wg.Go(func() {
		for {
			began := time.Now()
			if _, err := first.Write(p.spec.Request); err != nil {
				return
			}
			for range p.spec.Conns {
				select {
				case <-received:
				case <-p.over:
					return
				}
			}
			p.answered(uint64(p.spec.Conns), time.Since(began))
		}
	})
	return nil
}

// arrive is Open.
func (p *crowd) arrive() {
	p.begin()
	var wg sync.WaitGroup
	for i := range p.spec.Total {
		due := p.base.Add(time.Duration(float64(i) / p.spec.Rate * float64(time.Second)))
		time.Sleep(time.Until(due))
		wg.Go(func() { p.arrived(due) })
	}
	wg.Wait()
}

func (p *crowd) arrived(due time.Time) {
	nc, err := p.dial()
	if err != nil {
		p.fail(err)
		return
	}
	defer nc.Close()
	p.mu.Lock()
	if p.opened(); p.open == p.result.Peak {
		if p.open%1000 == 0 {
			p.settled()
		}
	}
	p.mu.Unlock()
	answer := make([]byte, p.spec.Expect)
	err = p.exchange(nc, answer)
	late := time.Since(due) - p.spec.Delay
	if n, _ := io.Copy(io.Discard, nc); err == nil && n > 0 {
		err = errLong
	}
	p.mu.Lock()
	p.open--
	p.mu.Unlock()
	if err != nil {
		p.fail(err)
		return
	}
	p.answered(1, late)
	p.mu.Lock()
	p.finished(time.Since(p.base))
	p.mu.Unlock()
}
