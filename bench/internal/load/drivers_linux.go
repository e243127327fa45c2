package load

import "time"

func newDriver(e *engine) driver {
	switch e.spec.Kind {
	case Open:
		return &openDriver{engine: e}
	case Accept:
		return &acceptDriver{phased: phased{engine: e}}
	case Broadcast:
		return &broadcastDriver{rampDriver: rampDriver{phased: phased{engine: e}}}
	case Paced:
		return &pacedDriver{rampDriver: rampDriver{phased: phased{engine: e}}}
	}
	return &closedDriver{rampDriver: rampDriver{phased: phased{engine: e}}}
}

// phased runs the phases of a load that lasts for a time: warming up and
// measuring.
type phased struct {
	*engine
	phase int
	until time.Duration
}

const (
	phaseRamp = iota
	phaseWarm
	phaseMeasure
)

// startWarm begins to warm up.
func (p *phased) startWarm() {
	p.phase = phaseWarm
	p.until = p.now() + p.spec.Warm
}

func (p *phased) step(now time.Duration) (time.Duration, bool) {
	if p.phase == phaseRamp || now < p.until {
		return 10 * time.Millisecond, false
	}
	if p.phase == phaseMeasure {
		return 0, true
	}
	p.phase = phaseMeasure
	p.begin()
	p.until = p.now() + p.spec.Measure
	return 0, false
}

// rampDriver opens the connections, idle ones first, a bounded number at a time,
// so that no backlog runs over.
type rampDriver struct {
	phased
	started int // of Idle and then of Conns
	pending int // not up yet, or idle ones without their answer
	settle  time.Duration
}

const rampWidth = 128

// settleTime lets the server finish what it does after a burst of connections
// before its memory is read.
const settleTime = 500 * time.Millisecond

// ramp dials what is missing and reports whether all is up.
func (d *rampDriver) ramp(now time.Duration) bool {
	s := d.spec
	if d.settle > 0 && now < d.settle {
		return false
	}
	for d.pending < rampWidth && d.started < s.Idle+s.Conns {
		if d.started == s.Idle && s.Idle > 0 && !d.ready(now) {
			return false
		}
		d.started++
		d.pending++
		d.dial(d.started <= s.Idle, 0)
	}
	return d.pending == 0 && d.started == s.Idle+s.Conns
}

// ready waits, before the first connection that is not idle, until the memory of
// those that are can be read.
func (d *rampDriver) ready(now time.Duration) bool {
	switch {
	case d.pending > 0:
		return false
	case d.settle == 0:
		d.settle = now + settleTime
		return false
	}
	d.settled()
	return true
}

func (d *rampDriver) ended(c *conn, err error) {
	if c.connecting {
		d.pending--
	}
	if err == nil {
		err = errShort
	}
	d.failed(err)
}

// closedDriver keeps one request on its way on each connection.
type closedDriver struct {
	rampDriver
	active []*conn
}

func (d *closedDriver) step(now time.Duration) (time.Duration, bool) {
	if d.phase == phaseRamp {
		if d.ramp(now) {
			d.startWarm()
			for _, c := range d.active {
				d.request(c)
			}
		}
	}
	return d.phased.step(now)
}

func (d *closedDriver) opened(c *conn) {
	if c.idle {
		d.request(c)
		return
	}
	d.pending--
	d.active = append(d.active, c)
}

func (d *closedDriver) request(c *conn) {
	c.got = 0
	c.began = d.now()
	d.send(c, d.spec.Request)
}

func (d *closedDriver) received(c *conn, n int) {
	c.got += n
	switch {
	case c.got < d.spec.Expect:
		return
	case c.got > d.spec.Expect:
		d.close(c)
		d.failed(errLong)
		return
	}
	if c.idle {
		d.pending--
		return
	}
	d.hist.Record(d.now() - c.began)
	d.result.Ops++
	d.request(c)
}

// pacedDriver sends at a rate, on one connection after the other. A connection whose
// answer is late gets its next request all the same, so a server that falls behind
// is seen to.
type pacedDriver struct {
	rampDriver
	active  []*pacedConn
	byConn  map[*conn]*pacedConn
	began   time.Duration // when the first request was due
	sent    int
	waiting int // requests without an answer
	from    time.Duration
}

// A pacedConn is a connection and when its requests were due, oldest first.
type pacedConn struct {
	c   *conn
	due []time.Duration
}

func (d *pacedDriver) step(now time.Duration) (time.Duration, bool) {
	if d.phase == phaseRamp {
		if !d.ramp(now) {
			return 10 * time.Millisecond, false
		}
		d.startWarm()
		d.began = d.now()
	}
	if d.phase == phaseWarm && now >= d.until {
		d.phase = phaseMeasure
		d.begin()
		d.from = d.until
		d.until += d.spec.Measure
	}
	for burst := 0; burst < events; burst++ {
		due := d.began + time.Duration(float64(d.sent)/d.spec.Rate*float64(time.Second))
		if d.phase == phaseMeasure && due >= d.until {
			return time.Millisecond, d.waiting == 0
		}
		if due > now {
			return min(due-now, d.until-now), false
		}
		d.request(due)
	}
	return 0, false
}

func (d *pacedDriver) request(due time.Duration) {
	p := d.active[d.sent%len(d.active)]
	d.sent++
	if p.c.fd < 0 {
		return // counted as an error
	}
	d.waiting++
	p.due = append(p.due, due)
	if len(p.c.unsent) > 0 {
		p.c.unsent = append(p.c.unsent[:len(p.c.unsent):len(p.c.unsent)], d.spec.Request...)
		return
	}
	d.send(p.c, d.spec.Request)
}

func (d *pacedDriver) opened(c *conn) {
	d.pending--
	p := &pacedConn{c: c}
	if d.byConn == nil {
		d.byConn = make(map[*conn]*pacedConn)
	}
	d.byConn[c] = p
	d.active = append(d.active, p)
}

func (d *pacedDriver) received(c *conn, n int) {
	p := d.byConn[c]
	now := d.now()
	for c.got += n; c.got >= d.spec.Expect; c.got -= d.spec.Expect {
		if len(p.due) == 0 {
			d.close(c)
			d.failed(errLong)
			return
		}
		if due := p.due[0]; d.phase == phaseMeasure && due >= d.from {
			d.hist.Record(now - due)
			d.result.Ops++
		}
		p.due = p.due[1:]
		d.waiting--
	}
}

func (d *pacedDriver) ended(c *conn, err error) {
	if p := d.byConn[c]; p != nil {
		d.waiting -= len(p.due)
	}
	d.rampDriver.ended(c, err)
}

// broadcastDriver has one connection send what all receive.
type broadcastDriver struct {
	rampDriver
	first      *conn
	up         int
	roundBytes int // bytes of the current round, on all connections
	began      time.Duration
}

func (d *broadcastDriver) step(now time.Duration) (time.Duration, bool) {
	if d.phase == phaseRamp && d.ramp(now) {
		if d.until == 0 { // the server may not have accepted the last of them yet
			d.until = now + settleTime
		} else if now >= d.until {
			d.startWarm()
			d.round()
		}
	}
	return d.phased.step(now)
}

func (d *broadcastDriver) opened(c *conn) {
	d.pending--
	d.up++
	d.first = c
}

func (d *broadcastDriver) round() {
	d.roundBytes = 0
	d.began = d.now()
	d.send(d.first, d.spec.Request)
}

func (d *broadcastDriver) received(c *conn, n int) {
	d.roundBytes += n
	if d.roundBytes < d.up*d.spec.Expect {
		return
	}
	d.hist.Record(d.now() - d.began)
	d.result.Ops += uint64(d.up)
	d.round()
}

// acceptDriver connects, takes one answer, and closes.
type acceptDriver struct{ phased }

func (d *acceptDriver) step(now time.Duration) (time.Duration, bool) {
	if d.phase == phaseRamp {
		d.startWarm()
		for range d.spec.Conns {
			d.dial(false, now)
		}
	}
	return d.phased.step(now)
}

func (d *acceptDriver) opened(c *conn) { d.send(c, d.spec.Request) }

func (d *acceptDriver) received(c *conn, n int) {
	if c.got += n; c.got < d.spec.Expect {
		return
	}
	d.hist.Record(d.now() - c.began)
	d.result.Ops++
	d.close(c)
	d.dial(false, d.now())
}

// maxRetries bounds how often a slot dials anew after errors, so that a server
// that is gone ends the run.
const maxRetries = 1000

func (d *acceptDriver) ended(c *conn, err error) {
	if err == nil {
		err = errShort
	}
	if d.failed(err); d.result.Errors < maxRetries {
		d.dial(false, d.now())
	}
}

// openDriver has connections arrive at a rate. Time counts from when one was to
// arrive: if the client or the server falls behind, that is lateness too.
type openDriver struct {
	*engine
	started int
	over    int
	nextRSS time.Duration
}

func (d *openDriver) step(now time.Duration) (time.Duration, bool) {
	s := d.spec
	if d.started == 0 {
		d.begin()
	}
	if now >= d.nextRSS && d.open >= d.result.Peak-d.result.Peak/50 {
		d.settled() // at the peak
		d.nextRSS = now + 100*time.Millisecond
	}
	for burst := 0; d.started < s.Total && burst < events; burst++ {
		due := time.Duration(float64(d.started) / s.Rate * float64(time.Second))
		if due > now {
			return min(due-now, 10*time.Millisecond), false
		}
		d.started++
		d.dial(false, due)
	}
	if d.started < s.Total {
		return 0, false
	}
	return 10 * time.Millisecond, d.over == s.Total
}

func (d *openDriver) opened(c *conn) { d.send(c, d.spec.Request) }

func (d *openDriver) received(c *conn, n int) {
	c.got += n
	if c.got == d.spec.Expect {
		d.hist.Record(d.now() - c.began - d.spec.Delay)
	}
}

func (d *openDriver) ended(c *conn, err error) {
	d.over++
	switch {
	case err != nil:
		d.failed(err)
	case c.got < d.spec.Expect:
		d.failed(errShort)
	case c.got > d.spec.Expect:
		d.failed(errLong)
	default:
		d.result.Ops++
		d.finished(d.now())
	}
}
