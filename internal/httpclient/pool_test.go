package httpclient_test

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/onloop/eventloop/internal/httpclient"
)

// request is a request that notes what the pool tells it.
type request struct {
	key    httpclient.Key
	conn   *httpclient.Conn
	queued bool
	place  httpclient.Place
}

func (r *request) Attach(c *httpclient.Conn) { r.conn = c }
func (r *request) Queued()                   { r.queued = true }
func (r *request) Unqueued()                 { r.queued = false }
func (r *request) Place() *httpclient.Place  { return &r.place }

// model is what the pool is to do, told in another way: by counting.
type model struct {
	t       *rapid.T
	pool    *httpclient.Pool
	busy    []*httpclient.Conn // in the order in which they became so
	dialing []*request
	idle    []*httpclient.Conn // in the order in which they became idle
	keys    map[*httpclient.Conn]httpclient.Key
	waiting []*request
	closed  bool
}

const (
	modelPerHost = 3
	modelIdle    = 2
	modelTotal   = 3
)

func (m *model) open(key httpclient.Key) (n int) {
	for _, r := range m.dialing {
		if r.key == key {
			n++
		}
	}
	for _, c := range slices.Concat(m.busy, m.idle) {
		if m.keys[c] == key {
			n++
		}
	}
	return n
}

// newest takes the idle connection of key that was used last.
func (m *model) newest(key httpclient.Key) *httpclient.Conn {
	for i, c := range slices.Backward(m.idle) {
		if m.keys[c] == key {
			m.idle = slices.Delete(m.idle, i, i+1)
			return c
		}
	}
	return nil
}

func (m *model) get(key httpclient.Key) {
	open, want := m.open(key), m.newest(key)
	r := &request{key: key}
	dial := m.pool.Get(key, r, nil, time.Time{}, 0)
	if wait := want == nil && open == modelPerHost; r.conn != want || r.queued != wait || dial != (want == nil && !wait) {
		m.t.Fatalf("Get: conn %p, queued %v, dial %v with %d open, want %p", r.conn, r.queued, dial, open, want)
	}
	switch {
	case want != nil:
		m.busy = append(m.busy, want)
	case dial:
		m.dialing = append(m.dialing, r)
	default:
		m.waiting = append(m.waiting, r)
	}
}

// first takes the request that has waited longest for key, nil if there is none.
func (m *model) first(key httpclient.Key) *request {
	i := slices.IndexFunc(m.waiting, func(r *request) bool { return r.key == key })
	if i < 0 {
		return nil
	}
	r := m.waiting[i]
	m.waiting = slices.Delete(m.waiting, i, i+1)
	return r
}

// wantNext checks that the pool has returned want, which is nil for none.
func (m *model) wantNext(got httpclient.Request, want *request) {
	if r, _ := got.(*request); r != want || want != nil && want.queued {
		m.t.Fatalf("got %p, want %p", r, want)
	}
}

func (m *model) release(key httpclient.Key) {
	want := m.first(key)
	m.wantNext(m.pool.Release(key), want)
	if want != nil {
		m.dialing = append(m.dialing, want)
	}
}

func (m *model) dialed(ok bool) {
	r := m.dialing[0]
	m.dialing = m.dialing[1:]
	if !ok {
		m.release(r.key)
		return
	}
	c := httpclient.NewConn(host{}, &r.key)
	m.keys[c] = r.key
	m.busy = append(m.busy, c)
}

// putConn puts the connection back that has been busy longest.
func (m *model) putConn() {
	c := m.busy[0]
	key := m.keys[c]
	m.busy = m.busy[1:]
	next, kept := m.pool.Put(c, time.Now())
	if m.closed {
		m.wantNext(next, nil)
		if kept {
			m.t.Fatal("kept by a closed pool")
		}
		m.release(key)
		return
	}
	want := m.first(key)
	m.wantNext(next, want)
	if kept != (want == nil) {
		m.t.Fatalf("kept = %v", kept)
	}
	if want != nil {
		if want.conn != c {
			m.t.Fatal("the request got another connection")
		}
		m.busy = append(m.busy, c)
		return
	}
	m.idle = append(m.idle, c)
	m.dropSurplus(key)
}

func (m *model) dropSurplus(key httpclient.Key) {
	ofHost := func(c *httpclient.Conn) bool { return m.keys[c] == key }
	n := 0
	for _, c := range m.idle {
		if ofHost(c) {
			n++
		}
	}
	if n > modelIdle {
		i := slices.IndexFunc(m.idle, ofHost)
		m.idle = slices.Delete(m.idle, i, i+1)
	} else if len(m.idle) > modelTotal {
		m.idle = m.idle[1:]
	}
}

func TestPoolFollowsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			t: t, pool: httpclient.NewPool(modelPerHost, modelIdle, modelTotal, time.Hour),
			keys: map[*httpclient.Conn]httpclient.Key{},
		}
		need := func(n int) {
			if n == 0 {
				t.Skip("this step needs a connection")
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if n := m.pool.Idle(); n != len(m.idle) {
					t.Fatalf("idle = %d, want %d", n, len(m.idle))
				}
			},
			"get": func(t *rapid.T) {
				m.get(httpclient.Key{Addr: fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "host"))})
			},
			"dialed": func(t *rapid.T) {
				need(len(m.dialing))
				m.dialed(rapid.Bool().Draw(t, "ok"))
			},
			"put": func(*rapid.T) {
				need(len(m.busy))
				m.putConn()
			},
			"break": func(*rapid.T) {
				need(len(m.busy))
				key := m.keys[m.busy[0]]
				m.busy = m.busy[1:]
				m.release(key)
			},
			"remove": func(t *rapid.T) {
				need(len(m.waiting))
				i := rapid.IntRange(0, len(m.waiting)-1).Draw(t, "which")
				r := m.waiting[i]
				m.waiting = slices.Delete(m.waiting, i, i+1)
				if !m.pool.Remove(r) || m.pool.Remove(r) || r.queued {
					t.Fatal("not removed, or twice")
				}
			},
			"close idle": func(*rapid.T) {
				m.pool.CloseIdle()
				m.idle = nil
			},
			"close": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "seldom") > 0 {
					t.Skip("rarely")
				}
				m.pool.Close()
				m.idle, m.closed = nil, true
			},
		})
	})
}

// keptConn returns a connection that is idle in p, and its peer.
func keptConn(p *httpclient.Pool, life time.Duration) (c *httpclient.Conn, peer net.Conn) {
	near, far := net.Pipe()
	c = httpclient.NewConn(host{}, &httpclient.Key{})
	c.Attach(near, false)
	p.Get(httpclient.Key{}, &request{}, nil, time.Time{}, 0)
	c.Begin(time.Time{}, 0)
	c.End(true)
	c.SetKeepAlive(life)
	p.Put(c, time.Now())
	return c, far
}

func TestIdleConnectionLeavesThePoolWhenItsTimeIsOver(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{0: time.Minute, 11 * time.Second: 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			p := httpclient.NewPool(9, 9, 9, time.Minute)
			c, peer := keptConn(p, life)
			defer peer.Close()
			began := time.Now()
			if r, _ := c.Next(p); r != nil || p.Idle() != 0 || time.Since(began) != want {
				t.Errorf("Next = %v after %v with %d idle, want nil after %v", r, time.Since(began), p.Idle(), want)
			}
			c.Close()
		})
	}
}

func TestIdleConnectionLeavesThePoolAtOnceWhenItsPeerEndsItOrSpeaks(t *testing.T) {
	for name, act := range map[string]func(peer net.Conn){
		"end":   func(peer net.Conn) { peer.Close() },
		"bytes": func(peer net.Conn) { peer.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := httpclient.NewPool(9, 9, 9, time.Minute)
				c, peer := keptConn(p, 0)
				defer peer.Close()
				began := time.Now()
				go act(peer)
				if r, _ := c.Next(p); r != nil || p.Idle() != 0 || time.Since(began) != 0 {
					t.Errorf("Next = %v after %v with %d idle, want nil at once", r, time.Since(began), p.Idle())
				}
				c.Close()
			})
		})
	}
}

// Removing n requests takes a time that grows with n.
func BenchmarkRemove(b *testing.B) {
	p := httpclient.NewPool(0, 0, 0, time.Hour)
	waiting := make([]request, b.N)
	for i := range waiting {
		p.Get(httpclient.Key{}, &waiting[i], nil, time.Time{}, 0)
	}
	b.ResetTimer()
	for i := range waiting {
		p.Remove(&waiting[b.N-1-i])
	}
}
