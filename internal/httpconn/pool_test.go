package httpconn_test

import (
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/onloop/eventloop/internal/httpconn"
)

// recorder is a connection that tells whether it was closed.
type recorder struct {
	net.Conn
	closed bool
}

func (r *recorder) Close() error { r.closed = true; return nil }

// model is what the pool is to do, told in another way: by counting.
type model struct {
	t       *rapid.T
	pool    *httpconn.Pool
	inUse   map[*httpconn.Conn]httpconn.Key
	dialing map[httpconn.Key]int
	idle    []*httpconn.Conn // in the order in which they became idle
	conns   map[*httpconn.Conn]*recorder
	keys    map[*httpconn.Conn]httpconn.Key
	waiters map[httpconn.Key][]*httpconn.Waiter
	closed  bool
}

const (
	modelPerHost = 3
	modelIdle    = 2
	modelTotal   = 3
)

func (m *model) open(key httpconn.Key) int {
	n := m.dialing[key]
	for _, k := range m.inUse {
		if k == key {
			n++
		}
	}
	for _, c := range m.idle {
		if m.keys[c] == key {
			n++
		}
	}
	return n
}

// newest takes the idle connection of key that was used last.
func (m *model) newest(key httpconn.Key) *httpconn.Conn {
	for i := len(m.idle) - 1; i >= 0; i-- {
		if c := m.idle[i]; m.keys[c] == key {
			m.idle = append(m.idle[:i:i], m.idle[i+1:]...)
			return c
		}
	}
	return nil
}

func (m *model) get(key httpconn.Key) {
	open := m.open(key)
	want := m.newest(key)
	c, _, w := m.pool.Get(key)
	switch {
	case c != want:
		m.t.Fatalf("Get = %p, want %p", c, want)
	case (w != nil) != (c == nil && open == modelPerHost):
		m.t.Fatalf("waiter %v with %d open", w != nil, open)
	case c != nil:
		m.inUse[c] = key
	case w != nil:
		m.waiters[key] = append(m.waiters[key], w)
	default:
		m.dialing[key]++
	}
}

// granted checks that the first waiter of key got c, and takes it.
func (m *model) granted(key httpconn.Key, c *httpconn.Conn) bool {
	if len(m.waiters[key]) == 0 {
		return false
	}
	w := m.waiters[key][0]
	m.waiters[key] = m.waiters[key][1:]
	select {
	case got := <-w.Ready:
		if got != c {
			m.t.Fatalf("waiter got %p, want %p", got, c)
		}
	default:
		m.t.Fatal("the first waiter got nothing")
	}
	if c != nil {
		m.inUse[c] = key
	} else {
		m.dialing[key]++
	}
	return true
}

func (m *model) dialled(key httpconn.Key, ok bool) {
	m.dialing[key]--
	if !ok {
		m.pool.Release(key)
		m.granted(key, nil)
		return
	}
	r := &recorder{}
	c := httpconn.New(r, key)
	m.conns[c], m.keys[c], m.inUse[c] = r, key, key
}

func (m *model) put(c *httpconn.Conn) {
	key := m.inUse[c]
	delete(m.inUse, c)
	m.pool.Put(c, time.Now())
	if m.closed {
		m.granted(key, nil)
		return
	}
	if m.granted(key, c) {
		return
	}
	m.idle = append(m.idle, c)
	ofHost := 0
	for _, i := range m.idle {
		if m.keys[i] == key {
			ofHost++
		}
	}
	if ofHost > modelIdle {
		m.idle = append([]*httpconn.Conn(nil), m.idle...)
		for i, o := range m.idle {
			if m.keys[o] == key {
				m.idle = append(m.idle[:i], m.idle[i+1:]...)
				break
			}
		}
	} else if len(m.idle) > modelTotal {
		m.idle = m.idle[1:]
	}
}

// check compares what is closed with what should be.
func (m *model) check() {
	if n := m.pool.Idle(); n != len(m.idle) {
		m.t.Fatalf("idle = %d, want %d", n, len(m.idle))
	}
	kept := map[*httpconn.Conn]bool{}
	for _, c := range m.idle {
		kept[c] = true
	}
	for c, r := range m.conns {
		_, used := m.inUse[c]
		if alive := used || kept[c]; alive == r.closed {
			m.t.Fatalf("closed = %v, in use %v, kept %v", r.closed, used, kept[c])
		}
	}
}

func TestPoolFollowsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			t: t, pool: httpconn.NewPool(modelPerHost, modelIdle, modelTotal, time.Hour),
			inUse: map[*httpconn.Conn]httpconn.Key{}, dialing: map[httpconn.Key]int{},
			conns: map[*httpconn.Conn]*recorder{}, keys: map[*httpconn.Conn]httpconn.Key{},
			waiters: map[httpconn.Key][]*httpconn.Waiter{},
		}
		var all []*httpconn.Conn // of inUse, in an order that repeats
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {
				m.check()
				all = all[:0]
				for c := range m.inUse {
					all = append(all, c)
				}
			},
			"get": func(t *rapid.T) {
				m.get(httpconn.Key{Addr: fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "host"))})
			},
			"dialled": func(t *rapid.T) {
				key := httpconn.Key{Addr: fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "host"))}
				if m.dialing[key] == 0 {
					t.Skip()
				}
				m.dialled(key, rapid.Bool().Draw(t, "ok"))
			},
			"put": func(t *rapid.T) {
				if len(all) == 0 {
					t.Skip()
				}
				m.put(all[0])
			},
			"break": func(t *rapid.T) {
				if len(all) == 0 {
					t.Skip()
				}
				key := m.inUse[all[0]]
				delete(m.inUse, all[0])
				all[0].Close()
				m.pool.Release(key)
				m.granted(key, nil)
			},
			"abandon": func(t *rapid.T) {
				key := httpconn.Key{Addr: fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "host"))}
				n := len(m.waiters[key])
				if n == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, n-1).Draw(t, "which")
				m.pool.Abandon(m.waiters[key][i])
				m.waiters[key] = append(m.waiters[key][:i:i], m.waiters[key][i+1:]...)
			},
			"close idle": func(*rapid.T) {
				m.pool.CloseIdle()
				m.idle = nil
			},
			"close": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "seldom") > 0 {
					t.Skip()
				}
				m.pool.Close()
				m.idle, m.closed = nil, true
			},
		})
	})
}

// What a waiter that gave up was given meanwhile goes to the next.
func TestPoolAbandonAfterTheGrantPassesItOn(t *testing.T) {
	key := httpconn.Key{Addr: "h"}
	p := httpconn.NewPool(1, 1, 1, time.Hour)
	p.Get(key)
	_, _, first := p.Get(key)
	_, _, second := p.Get(key)
	c := httpconn.New(&recorder{}, key)
	p.Put(c, time.Now())
	p.Abandon(first)
	select {
	case got := <-second.Ready:
		if got != c {
			t.Errorf("got %p, want %p", got, c)
		}
	default:
		t.Error("the second waiter got nothing")
	}
	p.Release(key)
	if got, _, w := p.Get(key); got != nil || w != nil {
		t.Errorf("Get = %v, %v; want the right to dial", got, w)
	}
}

func TestPoolExpiresWhatIsIdleForTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := httpconn.NewPool(9, 9, 9, time.Minute)
		var rs []*recorder
		for i := range 3 {
			key := httpconn.Key{Addr: fmt.Sprint(i)}
			p.Get(key)
			rs = append(rs, &recorder{})
			c := httpconn.New(rs[i], key)
			if i == 2 {
				c.SetKeepAlive(11 * time.Second)
			}
			until := p.Put(c, time.Now())
			if want := min(time.Minute, time.Duration(60-50*(i/2))*time.Second); time.Until(until) != want {
				t.Errorf("%d: kept for %v, want %v", i, time.Until(until), want)
			}
			time.Sleep(time.Second)
		}
		next := p.Expire(time.Now()) // 3 s
		if rs[0].closed || rs[2].closed || time.Until(next) != 9*time.Second {
			t.Errorf("next in %v", time.Until(next))
		}
		time.Sleep(9 * time.Second)
		next = p.Expire(time.Now()) // 12 s
		if rs[0].closed || rs[1].closed || !rs[2].closed || time.Until(next) != 48*time.Second {
			t.Errorf("closed %v %v %v, next in %v", rs[0].closed, rs[1].closed, rs[2].closed, time.Until(next))
		}
		time.Sleep(time.Minute)
		if next = p.Expire(time.Now()); !next.IsZero() || !rs[0].closed || !rs[1].closed || p.Idle() != 0 {
			t.Errorf("next %v, closed %v %v", next, rs[0].closed, rs[1].closed)
		}
	})
}
