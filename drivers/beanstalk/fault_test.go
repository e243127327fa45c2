package beanstalk_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk"
	"github.com/onloop/eventloop/looptest"
)

// The faults of a server, in virtual time. The faults of real_test.go are those that need
// a real one.

// A fault is what happens instead of a reply, once.
type fault struct {
	do   func(p *peer, reply string, rng *rand.Rand)
	want []error // each error that a client sees is one of these
}

var faults = map[string]fault{
	"cut within a reply": {func(p *peer, reply string, rng *rand.Rand) {
		p.write(reply[:rng.IntN(len(reply)+1)])
		p.end(rng.IntN(2) == 0)
	}, []error{io.EOF, eventloop.ErrReset}},
	"garbage": {func(p *peer, _ string, rng *rand.Rand) {
		p.write([]string{"HTTP/1.1 400 Bad Request\r\n", "\x00\xff\r\n", "RESERVED x y\r\n", "DELETED \n", strings.Repeat("x", 1000)}[rng.IntN(5)])
	}, []error{beanstalk.ErrMalformed}},
	"a body of 512 MB": {func(p *peer, _ string, rng *rand.Rand) {
		p.write([]string{"RESERVED 1", "FOUND 1", "OK"}[rng.IntN(3)] + " 536870912\r\n" + strings.Repeat("x", 1000))
	}, []error{beanstalk.ErrTooLarge}},
	"a reply twice": {func(p *peer, reply string, _ *rand.Rand) {
		p.write(reply + reply)
	}, []error{beanstalk.ErrMalformed}},
	"no reply any more": {func(p *peer, _ string, _ *rand.Rand) {
		p.mute = true
	}, []error{eventloop.ErrTimeout}},
	"killed": {func(p *peer, _ string, _ *rand.Rand) {
		p.q.die()
		p.q.l.AfterFunc(10*time.Second, p.q.listen) // longer than the timeout of a command
	}, []error{eventloop.ErrReset, eventloop.ErrRefused, eventloop.ErrTimeout}},
	"restarted": {func(p *peer, _ string, _ *rand.Rand) {
		p.q.die()
		p.q.l.AfterFunc(time.Millisecond, p.q.listen)
	}, []error{eventloop.ErrReset, eventloop.ErrRefused}},
	"stopped": {func(p *peer, reply string, _ *rand.Rand) {
		p.q.stop(time.Minute, func() { p.write(reply) })
	}, []error{eventloop.ErrTimeout}},
}

func TestFaultsOfTheServer(t *testing.T) {
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			looptest.Seeds(t, 100, func(t *testing.T, l *eventloop.Loop) error {
				n := looptest.NewNet(t)
				n.Latency(time.Millisecond, 5*time.Millisecond)
				n.Split(20)
				rng := looptest.Rand(t)
				q := newQueue(t, l, n)
				at := 1 + rng.IntN(60)
				q.fault = func(p *peer, reply string) bool {
					if q.replies != at {
						return false
					}
					f.do(p, reply, rng)
					return true
				}
				w, err := newWorkload(t, l, n, q, f.want)
				if err != nil {
					return err
				}
				w.anyReply = name == "a reply twice" // the next command of its kind cannot tell it from its own
				w.begin(20, rng)
				l.OnExit(func() {
					if q.replies < at {
						t.Errorf("%d replies, and no fault at %d", q.replies, at)
					}
					if len(w.errs) == 0 {
						t.Error("the fault was not seen")
					}
				})
				return nil
			})
		})
	}
}

// Each byte that the server sends is the last one of its connection, once as the end of
// the stream and once with a reset.
func TestFaultConnectionsAreCutAtEveryByteOfProducersAndConsumers(t *testing.T) {
	for _, reset := range []bool{false, true} {
		for at, more := 0, true; more; at++ {
			more = false
			looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
				n := looptest.NewNet(t)
				q := newQueue(t, l, n)
				q.fault = func(p *peer, reply string) bool {
					if more || q.sent+len(reply) <= at {
						return false
					}
					more = true
					p.write(reply[:at-q.sent])
					p.end(reset)
					return true
				}
				w, err := newWorkload(t, l, n, q, []error{io.EOF, eventloop.ErrReset})
				if err != nil {
					return err
				}
				w.begin(2, looptest.Rand(t))
				return nil
			}, looptest.Seed(uint64(at)))
		}
	}
}

// A workload puts jobs and consumes them. It checks that every future gets one result with
// a right error, that no job is lost, and that all goes on after the fault.
type workload struct {
	t    *testing.T
	l    *eventloop.Loop
	q    *queue
	c    *beanstalk.Client
	want []error

	asked, results   int // puts
	settled, replies int // commands about jobs
	acked            []string
	seen             map[string]int // jobs by body
	lost             map[*beanstalk.Job]bool
	errs             []error
	anyReply         bool
}

func newWorkload(t *testing.T, l *eventloop.Loop, n *looptest.Net, q *queue, want []error) (*workload, error) {
	w := &workload{t: t, l: l, q: q, want: want, seen: make(map[string]int), lost: make(map[*beanstalk.Job]bool)}
	var err error
	w.c, err = beanstalk.New(l, &beanstalk.Options{
		Addr: queueAddr, Dial: n.Dialer("app"), MinBackoff: time.Millisecond, MaxBackoff: time.Second,
		OnState: func(up bool, err error) {
			if !up {
				w.connError(err)
			}
		},
	})
	return w, err
}

// connError checks the error of a connection.
func (w *workload) connError(err error) {
	w.t.Helper()
	w.errs = append(w.errs, err)
	if !errors.Is(err, eventloop.ErrConn) {
		w.t.Errorf("not an error of a connection: %v", err)
	}
	for _, want := range w.want {
		if errors.Is(err, want) {
			return
		}
	}
	w.t.Errorf("error %v, want one of %v", err, w.want)
}

func (w *workload) begin(n int, rng *rand.Rand) {
	_, err := w.c.Consume(beanstalk.ConsumeOptions{
		Parallel: 2,
		OnJob:    func(j *beanstalk.Job) { w.onJob(j, rng) },
		OnLost: func(j *beanstalk.Job, err error) {
			if w.lost[j] {
				w.t.Errorf("job %d is lost twice", j.ID)
			}
			w.lost[j] = true
			w.connError(err)
		},
		OnError: w.connError,
	})
	if err != nil {
		w.t.Error(err)
	}
	for range n {
		w.l.AfterFunc(time.Duration(rng.IntN(30))*time.Millisecond, w.put)
	}
	w.l.AfterFunc(200*time.Second, func() { // the fault is over, and so are all timeouts
		w.check()
		w.put()
		w.l.AfterFunc(10*time.Second, func() {
			w.check()
			if w.seen[fmt.Sprint("job ", w.asked)] == 0 {
				w.t.Error("the last job did not run")
			}
			w.c.Close().Then(func(_ struct{}, err error) {
				equal(w.t, "error of Close", err, nil)
				w.q.ln.Close()
			})
		})
	})
}

func (w *workload) put() {
	w.asked++
	body := fmt.Sprint("job ", w.asked)
	w.c.Put(bg, "mails", []byte(body), beanstalk.PutOptions{}).Then(func(id uint64, err error) {
		w.results++
		switch {
		case err == nil:
			w.acked = append(w.acked, body)
			if id != w.q.puts[body] && !w.anyReply {
				w.t.Errorf("the number of %q = %d, want %d", body, id, w.q.puts[body])
			}
		case errors.Is(err, beanstalk.ErrUncertain):
			w.connError(err)
		case !errors.Is(err, eventloop.ErrTimeout):
			w.t.Errorf("error of Put = %v", err)
		case w.q.puts[body] != 0:
			w.t.Errorf("%q was not sent, and is in the queue: %v", body, err)
		}
	})
}

func (w *workload) onJob(j *beanstalk.Job, rng *rand.Rand) {
	body := string(j.Body)
	w.seen[body]++
	if j.ID != w.q.puts[body] {
		w.t.Errorf("job %d with the body %q, want %d", j.ID, body, w.q.puts[body])
	}
	settle := func() {
		w.settled++
		j.Delete().Then(func(_ struct{}, err error) {
			w.replies++
			switch {
			case err == nil, errors.Is(err, beanstalk.ErrJobLost):
			case errors.Is(err, beanstalk.ErrUncertain):
				w.connError(err)
			default:
				w.t.Errorf("error of Delete = %v", err)
			}
		})
	}
	switch rng.IntN(4) {
	case 0:
		settle()
	case 1:
		w.l.AfterFunc(time.Second, settle) // the driver touches it
	default:
		w.l.AfterFunc(time.Duration(rng.IntN(5))*time.Millisecond, settle)
	}
}

// check checks that there is nothing left to do.
func (w *workload) check() {
	w.t.Helper()
	equal(w.t, "results of puts", w.results, w.asked)
	equal(w.t, "results of deletes", w.replies, w.settled)
	equal(w.t, "jobs that are left", len(w.q.jobs), 0)
	for _, body := range w.acked {
		if w.seen[body] == 0 {
			w.t.Errorf("%q is lost", body)
		}
	}
}

// The connection is lost at about the time when the client ends.
func TestOnStateIsNotCalledAfterTheEndOfTheClient(t *testing.T) {
	for name, end := range map[string]func(l *eventloop.Loop, c *beanstalk.Client, ended func()){
		"Close": func(_ *eventloop.Loop, c *beanstalk.Client, ended func()) {
			c.Close().Then(func(struct{}, error) { ended() })
		},
		"Abort":           func(_ *eventloop.Loop, c *beanstalk.Client, ended func()) { c.Abort(); ended() },
		"end of the loop": func(l *eventloop.Loop, _ *beanstalk.Client, _ func()) { l.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			looptest.Seeds(t, 200, func(t *testing.T, l *eventloop.Loop) error {
				n := looptest.NewNet(t)
				n.Latency(0, time.Duration(looptest.Rand(t).IntN(2))*time.Millisecond)
				q := newQueue(t, l, n)
				l.AfterFunc(time.Minute, q.die)
				ended, states := false, ""
				c, err := beanstalk.New(l, &beanstalk.Options{Addr: queueAddr, Dial: n.Dialer("app"), OnState: func(up bool, err error) {
					if states += fmt.Sprint(up, " "); ended {
						t.Errorf("OnState(%v, %v) after the end of the client", up, err)
					}
				}})
				if err != nil {
					return err
				}
				q.fault = func(p *peer, _ string) bool {
					if q.replies == 2 {
						p.end(false)
						end(l, c, func() { ended = true })
					}
					return q.replies == 2
				}
				for id := range uint64(2) {
					c.Delete(t.Context(), id).Ignore()
				}
				l.OnExit(func() {
					if q.replies != 2 || !strings.HasPrefix("true false ", states) { // Stop drops posts
						t.Errorf("%d replies, states %s", q.replies, states)
					}
				})
				return nil
			})
		})
	}
}
