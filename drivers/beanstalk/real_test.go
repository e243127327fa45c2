//go:build unix

package beanstalk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk"
)

func TestEveryCommandAgainstBeanstalkd(t *testing.T) {
	s := real(t)
	run(t, s.options(), func(k *eventloop.Task, c *beanstalk.Client) error {
		check := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		put := func(body string, o beanstalk.PutOptions) uint64 {
			t.Helper()
			id, err := c.Put(bg, "mails", []byte(body), o).Await(k)
			check("Put", err)
			return id
		}
		ready := put("ready", beanstalk.PutOptions{Priority: 7, TTR: 90 * time.Second})
		delayed := put("delayed", beanstalk.PutOptions{Delay: time.Hour})
		peeked := func(f *eventloop.Future[beanstalk.Peeked], id uint64, body string) {
			t.Helper()
			p, err := f.Await(k)
			check("peek", err)
			equal(t, "id", p.ID, id)
			equal(t, "body", string(p.Body), body)
		}
		peeked(c.Peek(bg, delayed), delayed, "delayed")
		peeked(c.PeekReady(bg, "mails"), ready, "ready")
		peeked(c.PeekDelayed(bg, "mails"), delayed, "delayed")
		_, err := c.PeekBuried(bg, "mails").Await(k)
		wantErr(t, "PeekBuried of none", err, beanstalk.ErrNotFound)
		_, err = c.Peek(bg, 1<<60).Await(k)
		wantErr(t, "Peek of none", err, beanstalk.ErrNotFound)

		stats, err := c.StatsJob(bg, ready).Await(k)
		check("StatsJob", err)
		equal(t, "tube", stats["tube"], "mails")
		equal(t, "state", stats["state"], "ready")
		equal(t, "pri", stats.Int("pri"), 7)
		equal(t, "ttr", stats.Seconds("ttr"), 90*time.Second)
		stats, err = c.StatsTube(bg, "mails").Await(k)
		check("StatsTube", err)
		equal(t, "current-jobs-delayed", stats.Int("current-jobs-delayed"), 1)
		stats, err = c.Stats(bg).Await(k)
		check("Stats", err)
		if stats["version"] == "" || stats.Int("max-job-size") != 65535 {
			t.Errorf("version %q, max-job-size %d", stats["version"], stats.Int("max-job-size"))
		}
		_, err = c.StatsTube(bg, "none").Await(k)
		wantErr(t, "StatsTube of none", err, beanstalk.ErrNotFound)
		tubes, err := c.ListTubes(bg).Await(k)
		check("ListTubes", err)
		slices.Sort(tubes)
		equal(t, "tubes", strings.Join(tubes, " "), "default mails")

		_, err = c.PauseTube(bg, "mails", time.Minute).Await(k)
		check("PauseTube", err)
		_, err = c.PauseTube(bg, "mails", 0).Await(k)
		check("PauseTube", err)
		_, err = c.PauseTube(bg, "none", time.Minute).Await(k)
		wantErr(t, "PauseTube of none", err, beanstalk.ErrNotFound)

		n, err := c.Kick(bg, "mails", 10).Await(k)
		check("Kick", err)
		equal(t, "kicked", n, 1)
		_, err = c.KickJob(bg, delayed).Await(k)
		wantErr(t, "KickJob of a ready job", err, beanstalk.ErrNotFound)
		_, err = c.Delete(bg, delayed).Await(k)
		check("Delete", err)
		_, err = c.Delete(bg, delayed).Await(k)
		wantErr(t, "Delete again", err, beanstalk.ErrNotFound)

		j, err := c.ReserveJob(bg, ready).Await(k)
		check("ReserveJob", err)
		equal(t, "body", string(j.Body), "ready")
		_, err = j.Touch().Await(k)
		check("Touch", err)
		_, err = j.Bury(1).Await(k)
		check("Bury", err)
		peeked(c.PeekBuried(bg, "mails"), ready, "ready")
		_, err = c.KickJob(bg, ready).Await(k)
		check("KickJob", err)
		j, err = c.ReserveJob(bg, ready).Await(k)
		check("ReserveJob", err)
		_, err = c.ReserveJob(bg, ready).Await(k)
		wantErr(t, "ReserveJob of a reserved job", err, beanstalk.ErrNotFound)
		_, err = j.Release(3, time.Hour).Await(k)
		check("Release", err)
		peeked(c.PeekDelayed(bg, "mails"), ready, "ready")

		_, err = c.Put(bg, "mails", make([]byte, 65536), beanstalk.PutOptions{}).Await(k)
		wantErr(t, "Put of 64 KB", err, beanstalk.ErrJobTooBig)
		put(strings.Repeat("\r\n", 30000), beanstalk.PutOptions{}) // the connection is in order
		return nil
	})
}

func TestJobsArriveOnceAndInOneOfTheConsumersWhateverTheirBodies(t *testing.T) {
	s := real(t)
	run(t, s.options(), func(k *eventloop.Task, c *beanstalk.Client) error {
		const n = 2000
		r := rand.New(rand.NewPCG(1, 2))
		bodies := make(map[uint64][]byte)
		left := n
		got := make(map[uint64][]byte)
		for range 3 {
			consume(t, c, beanstalk.ConsumeOptions{Tubes: []string{"a", "b"}, Parallel: 4, OnJob: func(j *beanstalk.Job) {
				if got[j.ID] != nil {
					t.Errorf("job %d arrived twice", j.ID)
				}
				got[j.ID] = append([]byte{}, j.Body...)
				j.Delete().Then(func(_ struct{}, err error) {
					equal(t, "error of Delete", err, nil)
					left--
				})
			}})
		}
		for i := range n {
			body := make([]byte, r.IntN(300))
			for i := range body {
				body[i] = "\r\nDELETED 7"[r.IntN(11)]
			}
			c.Put(bg, []string{"a", "b"}[i%2], body, beanstalk.PutOptions{}).Then(func(id uint64, err error) {
				equal(t, "error of Put", err, nil)
				bodies[id] = body
			})
		}
		for left > 0 {
			if err := k.Sleep(time.Millisecond); err != nil {
				return err
			}
		}
		for id, body := range bodies {
			if !bytes.Equal(got[id], body) {
				t.Fatalf("job %d arrived as %q, want %q", id, got[id], body)
			}
		}
		equal(t, "jobs", len(got), n)
		return nil
	})
}

// The server takes back a job when its time to run is over, even if the cause is that this
// process or the server got no CPU time. An attempt with such a pause is repeated if it fails.
func TestATimeToRunOfOneSecondIsExtended(t *testing.T) {
	const attempts, late = 10, 200 * time.Millisecond // a touch is due 600 ms before the end
	for range attempts {
		slowest, err := holdAJob(t)
		if err == nil {
			return
		}
		if slowest < late {
			t.Fatalf("the job was lost although the server always replied within %v: %v", slowest, err)
		}
		t.Logf("repeated: the server did not reply for %v: %v", slowest, err)
	}
	t.Fatalf("the job was lost in each of %d attempts", attempts)
}

// holdAJob holds a job with a time to run of one second for more than three. It returns an
// error if the job is lost, and the longest time without a reply of the server.
func holdAJob(t *testing.T) (slowest time.Duration, lost error) {
	s := real(t)
	run(t, s.options(), func(k *eventloop.Task, c *beanstalk.Client) error {
		var held *beanstalk.Job
		jobs := 0
		consume(t, c, beanstalk.ConsumeOptions{
			Parallel: 2,
			OnJob:    func(j *beanstalk.Job) { held = j; jobs++ },
			OnLost:   func(_ *beanstalk.Job, err error) { lost = err },
		})
		if _, err := c.Put(bg, "default", nil, beanstalk.PutOptions{TTR: time.Second}).Await(k); err != nil {
			return err
		}
		began := time.Now()
		last := began
		for jobs == 0 || time.Since(began) < 3500*time.Millisecond {
			if _, err := c.Peek(bg, 1).Await(k); err != nil && !errors.Is(err, beanstalk.ErrNotFound) {
				return err
			}
			if err := k.Sleep(10 * time.Millisecond); err != nil {
				return err
			}
			slowest = max(slowest, time.Since(last))
			last = time.Now()
		}
		if jobs != 1 {
			lost = fmt.Errorf("it arrived %d times", jobs)
		}
		if lost == nil {
			_, lost = held.Delete().Await(k)
			slowest = max(slowest, time.Since(last))
		}
		return nil
	})
	return slowest, lost
}

func TestAJobComesBackWhenItsConsumerEndsByForce(t *testing.T) {
	s := real(t)
	run(t, s.options(), func(k *eventloop.Task, c *beanstalk.Client) error {
		got := 0
		hold := beanstalk.ConsumeOptions{OnJob: func(*beanstalk.Job) { got++ }}
		first := consume(t, c, hold)
		if _, err := c.Put(bg, "default", []byte("x"), beanstalk.PutOptions{}).Await(k); err != nil {
			return err
		}
		for got == 0 {
			if err := k.Sleep(time.Millisecond); err != nil {
				return err
			}
		}
		first.Abort()
		consume(t, c, beanstalk.ConsumeOptions{OnJob: func(j *beanstalk.Job) { got++; j.Delete().Ignore() }})
		for got == 1 {
			if err := k.Sleep(time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
}

// faults are what happens to the server while there is load. When it is back, the client
// goes on by itself.
func TestTheDriverGoesOnWhenTheServerIsBack(t *testing.T) {
	for name, fault := range map[string]func(t *testing.T, s *server, seen func()){
		"killed": func(t *testing.T, s *server, seen func()) {
			s.kill()
			seen()
			if err := s.restart(); err != nil {
				t.Error(err)
			}
		},
		"stopped": func(t *testing.T, s *server, seen func()) {
			s.signal(t, syscall.SIGSTOP)
			seen() // a reply is overdue
			s.signal(t, syscall.SIGCONT)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := real(t)
			lost := make(chan struct{}, 1) // receives a value when the connection is lost
			o := &beanstalk.Options{Addr: s.addr, Timeout: 500 * time.Millisecond, MinBackoff: time.Millisecond, OnState: func(up bool, _ error) {
				if !up {
					select {
					case lost <- struct{}{}:
					default:
					}
				}
			}}
			run(t, o, func(k *eventloop.Task, c *beanstalk.Client) error {
				jobs, asked, results := 0, 0, 0
				consume(t, c, beanstalk.ConsumeOptions{Parallel: 2, OnJob: func(j *beanstalk.Job) {
					jobs++
					j.Delete().Then(func(_ struct{}, err error) {
						if err != nil && !errors.Is(err, beanstalk.ErrUncertain) && !errors.Is(err, beanstalk.ErrJobLost) && !errors.Is(err, beanstalk.ErrNotFound) {
							t.Errorf("error of Delete = %v", err)
						}
					})
				}})
				stop := false
				var put func()
				put = func() {
					if stop {
						return
					}
					asked++
					c.Put(bg, "default", []byte("x"), beanstalk.PutOptions{}).Then(func(_ uint64, err error) {
						results++
						if err != nil && !errors.Is(err, beanstalk.ErrUncertain) && !errors.Is(err, eventloop.ErrTimeout) {
							t.Errorf("error of Put = %v", err)
						}
						put()
					})
				}
				for range 20 {
					put()
				}
				for jobs < 100 {
					if err := k.Sleep(time.Millisecond); err != nil {
						return fmt.Errorf("no jobs: %w", err)
					}
				}
				select {
				case <-lost: // a busy machine was slower than the timeout
				default:
				}
				if _, err := eventloop.Block(k, func(ctx context.Context) (int, error) {
					fault(t, s, func() {
						select {
						case <-lost:
						case <-ctx.Done():
						}
					})
					return 0, nil
				}); err != nil {
					return err
				}
				for seen := jobs; jobs < seen+100; {
					if err := k.Sleep(time.Millisecond); err != nil {
						return fmt.Errorf("no jobs after the fault: %w", err)
					}
				}
				stop = true
				_, err := c.Close().Await(k)
				equal(t, "results", results, asked)
				return err
			})
		})
	}
}

func TestADrainingServerRefusesJobs(t *testing.T) {
	s := real(t)
	run(t, s.options(), func(k *eventloop.Task, c *beanstalk.Client) error {
		if _, err := c.Put(bg, "default", []byte("x"), beanstalk.PutOptions{}).Await(k); err != nil {
			return err
		}
		s.signal(t, syscall.SIGUSR1)
		for {
			_, err := c.Put(bg, "default", []byte("x"), beanstalk.PutOptions{}).Await(k)
			if errors.Is(err, beanstalk.ErrDraining) {
				break
			}
			if err != nil {
				return err
			}
		}
		_, err := c.ListTubes(bg).Await(k) // the connection is in order
		return err
	})
}
