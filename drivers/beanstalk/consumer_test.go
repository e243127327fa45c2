package beanstalk_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/beanstalk"
	"github.com/onloop/eventloop/looptest"
)

// consume starts a consumer.
func consume(t *testing.T, c *beanstalk.Client, o beanstalk.ConsumeOptions) *beanstalk.Consumer {
	t.Helper()
	consumer, err := c.Consume(o)
	if err != nil {
		t.Fatal(err)
	}
	return consumer
}

func TestAConsumerGetsOneJobAfterTheOther(t *testing.T) {
	s := &script{}
	s.give("a", "b", "c")
	virtually(t, nil, s.queue, func(k *eventloop.Task, c *beanstalk.Client) error {
		var got []string
		consumer := consume(t, c, beanstalk.ConsumeOptions{Tubes: []string{"mails", "sms"}, OnJob: func(j *beanstalk.Job) {
			got = append(got, fmt.Sprint(j.ID, string(j.Body)))
			j.Delete().Then(func(_ struct{}, err error) { equal(t, "error of Delete", err, nil) })
		}})
		k.Sleep(10 * time.Second)
		equal(t, "jobs", strings.Join(got, " "), "1a 2b 3c")
		const reserve = "reserve-with-timeout 30"
		want := "watch mails;watch sms;ignore default;" + reserve + ";delete 1;" + reserve + ";delete 2;" + reserve + ";delete 3;" + reserve
		equal(t, "commands", strings.Join(s.got(), ";"), want)
		_, err := consumer.Close().Await(k)
		return err
	})
}

// The command that settles a job and the one that asks for the next leave together. So the
// time from one job to the next is exactly that of one round trip, wherever the job is
// settled.
func TestAJobCostsOneRoundTrip(t *testing.T) {
	for _, later := range []bool{false, true} {
		looptest.Seeds(t, 10, func(t *testing.T, l *eventloop.Loop) error {
			const jobs, roundTrip = 50, 20 * time.Millisecond
			n := looptest.NewNet(t)
			n.Latency(roundTrip/2, roundTrip/2)
			q := newQueue(t, l, n)
			for i := range uint64(jobs) {
				q.jobs = append(q.jobs, &queued{id: i + 1})
			}
			c, err := beanstalk.New(l, &beanstalk.Options{Addr: queueAddr, Dial: n.Dialer("app")})
			if err != nil {
				return err
			}
			var last time.Time
			got := 0
			_, err = c.Consume(beanstalk.ConsumeOptions{OnJob: func(j *beanstalk.Job) {
				if got++; got > 1 {
					equal(t, "time between two jobs", time.Since(last), roundTrip)
				}
				last = time.Now()
				if later {
					l.Post(func() { j.Delete().Ignore() })
				} else {
					j.Delete().Ignore()
				}
			}})
			l.AfterFunc(time.Minute, func() {
				equal(t, "jobs", got, jobs)
				c.Close().Then(func(struct{}, error) { q.ln.Close() })
			})
			return err
		})
	}
}

func TestAConsumerHasAsManyJobsAsItsParallel(t *testing.T) {
	s := &script{}
	for i := range 20 {
		s.give(fmt.Sprint(i))
	}
	virtually(t, nil, s.queue, func(k *eventloop.Task, c *beanstalk.Client) error {
		running, most, done := 0, 0, 0
		consume(t, c, beanstalk.ConsumeOptions{Parallel: 3, OnJob: func(j *beanstalk.Job) {
			running++
			most = max(most, running)
			k.Loop().AfterFunc(100*time.Millisecond, func() {
				running--
				done++
				j.Delete().Ignore()
			})
		}})
		k.Sleep(10 * time.Second)
		equal(t, "most at a time", most, 3)
		equal(t, "jobs done", done, 20)
		return nil
	})
}

func TestPauseStopsJobsUntilResume(t *testing.T) {
	s := &script{}
	s.give("a", "b")
	virtually(t, nil, s.queue, func(k *eventloop.Task, c *beanstalk.Client) error {
		jobs, paused := 0, false
		var held *beanstalk.Job
		var consumer *beanstalk.Consumer
		consumer = consume(t, c, beanstalk.ConsumeOptions{OnJob: func(j *beanstalk.Job) {
			if paused {
				t.Error("OnJob was called in a pause")
			}
			jobs++
			held = j
			if jobs == 1 {
				paused = true
				consumer.Pause()
			}
		}})
		k.Sleep(time.Second)
		held.Delete().Ignore() // while there is a pause
		k.Sleep(time.Minute)
		equal(t, "jobs in the pause", jobs, 1)
		paused = false
		consumer.Resume()
		k.Sleep(time.Second)
		equal(t, "jobs after Resume", jobs, 2)
		held.Delete().Ignore()
		k.Sleep(time.Second)
		paused = true
		consumer.Pause() // while it waits for a job
		k.Sleep(time.Minute)
		s.give("c")
		k.Sleep(time.Second)
		paused = false
		consumer.Resume()
		k.Sleep(time.Second)
		equal(t, "jobs at the end", jobs, 3)
		held.Delete().Ignore()
		return nil
	})
}

func TestCloseOfAConsumerWaitsForItsJobsAndTakesNoMore(t *testing.T) {
	s := &script{}
	s.give("a", "b", "c", "d")
	virtually(t, nil, s.queue, func(k *eventloop.Task, c *beanstalk.Client) error {
		var held []*beanstalk.Job
		consumer := consume(t, c, beanstalk.ConsumeOptions{Parallel: 2, OnJob: func(j *beanstalk.Job) { held = append(held, j) }})
		k.Sleep(time.Second)
		closed := consumer.Close()
		k.Sleep(time.Minute)
		_, err := closed.Result()
		equal(t, "result of Close", err, eventloop.ErrPending)
		first := held[0].Release(5, 1500*time.Millisecond)
		k.Sleep(time.Second)
		_, err = first.Result()
		equal(t, "result of Release", err, nil)
		_, err = closed.Result()
		equal(t, "result of Close", err, eventloop.ErrPending)
		second := held[1].Bury(6)
		_, err = closed.Await(k)
		equal(t, "error of Close", err, nil)
		_, err = second.Result()
		equal(t, "result of Bury", err, nil)
		equal(t, "jobs", len(held), 2)
		all := strings.Join(s.got(), ";")
		if !strings.Contains(all, fmt.Sprintf("release %d 5 2", held[0].ID)) || !strings.Contains(all, fmt.Sprintf("bury %d 6", held[1].ID)) {
			t.Errorf("commands %s", all)
		}
		return nil
	})
}

func TestAbortOfAConsumerGivesItsJobsBack(t *testing.T) {
	s := &script{}
	s.give("a", "b")
	virtually(t, nil, s.queue, func(k *eventloop.Task, c *beanstalk.Client) error {
		var held []*beanstalk.Job
		consumer := consume(t, c, beanstalk.ConsumeOptions{
			Parallel: 2,
			OnJob:    func(j *beanstalk.Job) { held = append(held, j) },
			OnLost:   func(*beanstalk.Job, error) { t.Error("OnLost was called") },
		})
		k.Sleep(time.Second)
		consumer.Abort()
		_, err := consumer.Close().Await(k)
		equal(t, "error of Close", err, nil)
		for _, j := range held {
			_, err := j.Delete().Await(k)
			wantErr(t, "error of Delete", err, beanstalk.ErrJobLost)
		}
		return nil
	})
}

func TestAJobWhoseConnectionIsLostIsLostAndTheConsumerGoesOn(t *testing.T) {
	s := &script{}
	s.give("a", "b")
	conns := 0
	serve := func(nc net.Conn) {
		if conns++; conns == 1 {
			time.AfterFunc(200*time.Millisecond, func() { nc.Close() })
		}
		s.queue(nc)
	}
	virtually(t, nil, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		var lost, errs []error
		jobs := 0
		consume(t, c, beanstalk.ConsumeOptions{
			OnJob: func(j *beanstalk.Job) {
				if jobs++; jobs == 2 {
					j.Delete().Ignore()
				}
			},
			OnLost: func(j *beanstalk.Job, err error) {
				lost = append(lost, err)
				equal(t, "number of the lost job", j.ID, 1)
				j.Delete().Then(func(_ struct{}, err error) { wantErr(t, "error of Delete", err, beanstalk.ErrJobLost) })
			},
			OnError: func(err error) { errs = append(errs, err) },
		})
		k.Sleep(5 * time.Second)
		equal(t, "jobs", jobs, 2)
		equal(t, "lost jobs", len(lost), 1)
		wantErr(t, "reason", lost[0], io.EOF)
		equal(t, "errors", len(errs), 1)
		wantErr(t, "error", errs[0], io.EOF)
		return nil
	})
}

func TestNoCallbackOfAConsumerFollowsAbort(t *testing.T) {
	for name, abort := range map[string]func(c *beanstalk.Client, k *beanstalk.Consumer){
		"Consumer.Abort": func(_ *beanstalk.Client, k *beanstalk.Consumer) { k.Abort() },
		"Client.Abort":   func(c *beanstalk.Client, _ *beanstalk.Consumer) { c.Abort() },
	} {
		for _, first := range []string{"OnLost", "OnError"} {
			t.Run(first+", "+name, func(t *testing.T) {
				s := &script{}
				s.give("a", "b", "c")
				serve := func(nc net.Conn) {
					time.AfterFunc(time.Second, func() { nc.Close() })
					s.queue(nc)
				}
				virtually(t, nil, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
					var consumer *beanstalk.Consumer
					over := false
					note := func(what string) {
						if over {
							t.Errorf("%s follows Abort", what)
						}
						if what == first {
							over = true
							abort(c, consumer)
						}
					}
					consumer = consume(t, c, beanstalk.ConsumeOptions{
						Parallel: 3,
						OnJob:    func(*beanstalk.Job) { note("OnJob") },
						OnLost:   func(*beanstalk.Job, error) { note("OnLost") },
						OnError:  func(error) { note("OnError") },
					})
					k.Sleep(time.Minute)
					equal(t, "aborted", over, true)
					return nil
				})
			})
		}
	}
}

// OnError would have reported it.
func TestAPanicInOnJobIsReportedAlthoughAbortFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []error
		cfg := silent()
		cfg.CatchPanics = true
		cfg.EventHandler = func(err error) { events = append(events, err) }
		s := &script{}
		s.give("a")
		err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
			defer l.AfterFunc(time.Minute, func() {}) // the loop must run until a failure counts as unhandled, after a second
			c, err := beanstalk.New(l, served(nil, s.queue))
			if err != nil {
				return err
			}
			consume(t, c, beanstalk.ConsumeOptions{
				OnJob:   func(*beanstalk.Job) { l.Post(c.Abort); panic("not this one") },
				OnError: func(err error) { t.Errorf("OnError(%v)", err) },
			})
			return nil
		})
		if len(events) != 1 || !errors.As(events[0], new(*eventloop.PanicError)) || err != nil {
			t.Errorf("events %v, Run returns %v", events, err)
		}
		time.Sleep(time.Minute)
	})
}

func TestTheTimeToRunOfAJobIsExtendedWhileItIsHeld(t *testing.T) {
	for _, manual := range []bool{false, true} {
		s := &script{}
		s.give("a")
		virtually(t, nil, s.queue, func(k *eventloop.Task, c *beanstalk.Client) error {
			var held *beanstalk.Job
			consume(t, c, beanstalk.ConsumeOptions{ManualTouch: manual, OnJob: func(j *beanstalk.Job) { held = j }})
			k.Sleep(60 * time.Second)
			if _, err := held.Touch().Await(k); err != nil {
				return err
			}
			held.Delete().Ignore()
			k.Sleep(60 * time.Second)
			all := strings.Join(s.got(), ";")
			touches := strings.Count(all, "touch 1")
			// The time to run is 10 s: a touch each 5 s, and the first after 400 ms.
			if want := map[bool]int{false: 1 + 11 + 1, true: 1}[manual]; touches != want {
				t.Errorf("manual %v: %d touches, want %d", manual, touches, want)
			}
			return nil
		})
	}
}

func TestAJobThatTheServerHasTakenBackIsLost(t *testing.T) {
	s := &script{more: func(command string) (string, bool) { return "NOT_FOUND", strings.HasPrefix(command, "touch") }}
	s.give("a")
	virtually(t, nil, s.queue, func(k *eventloop.Task, c *beanstalk.Client) error {
		lost := 0
		consume(t, c, beanstalk.ConsumeOptions{OnJob: func(j *beanstalk.Job) {}, OnLost: func(_ *beanstalk.Job, err error) {
			lost++
			wantErr(t, "reason", err, beanstalk.ErrNotFound)
		}})
		k.Sleep(time.Minute)
		equal(t, "lost jobs", lost, 1)
		return nil
	})
}

func TestAJobIsSettledOnce(t *testing.T) {
	s := &script{}
	s.give("a")
	virtually(t, nil, s.queue, func(k *eventloop.Task, c *beanstalk.Client) error {
		consume(t, c, beanstalk.ConsumeOptions{OnJob: func(j *beanstalk.Job) {
			j.Delete().Then(func(_ struct{}, err error) { equal(t, "error of Delete", err, nil) })
			for _, f := range []*eventloop.Future[struct{}]{j.Delete(), j.Release(0, 0), j.Bury(0), j.Touch()} {
				f.Then(func(_ struct{}, err error) { wantErr(t, "error of the second command", err, beanstalk.ErrSettled) })
			}
			j.Release(0, -1).Then(func(_ struct{}, err error) {
				if err == nil {
					t.Error("a negative delay was accepted")
				}
			})
		}})
		k.Sleep(time.Second)
		return nil
	})
}

func TestShutdownClosesAConsumerWhenItsJobsAreSettled(t *testing.T) {
	s := &script{}
	s.give("a", "b")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		jobs := 0
		err := eventloop.Run(t.Context(), silent(), func(l *eventloop.Loop) error {
			c, err := beanstalk.New(l, served(nil, s.queue))
			if err != nil {
				return err
			}
			_, err = c.Consume(beanstalk.ConsumeOptions{OnJob: func(j *beanstalk.Job) {
				jobs++
				l.Shutdown(time.Minute)
				l.AfterFunc(10*time.Second, func() { j.Delete().Ignore() })
			}})
			return err
		})
		equal(t, "Run", err, nil)
		equal(t, "jobs", jobs, 1)
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("Run took %v, want the 10 s of the job", took)
		}
		time.Sleep(time.Minute)
	})
}

func TestAnUnrefdConsumerDoesNotKeepTheLoopAlive(t *testing.T) {
	s := &script{}
	s.give("a")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		jobs := 0
		err := eventloop.Run(t.Context(), silent(), func(l *eventloop.Loop) error {
			c, err := beanstalk.New(l, served(nil, s.queue))
			if err != nil {
				return err
			}
			k, err := c.Consume(beanstalk.ConsumeOptions{OnJob: func(j *beanstalk.Job) { jobs++ }})
			if err != nil {
				return err
			}
			k.Unref()
			k.Ref()
			k.Unref()
			l.AfterFunc(time.Second, func() {})
			return nil
		})
		equal(t, "Run", err, nil)
		equal(t, "jobs", jobs, 1)
		equal(t, "time", time.Since(began), time.Second)
		time.Sleep(time.Minute)
	})
}

func TestAServerThatSaysNothingToAReserveLosesItsConnection(t *testing.T) {
	serve := func(nc net.Conn) {
		commands(nc, func(command, body string) string {
			if strings.HasPrefix(command, "reserve") {
				return ""
			}
			return "WATCHING 1"
		})
	}
	virtually(t, nil, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		began := time.Now()
		var errs []time.Duration
		consume(t, c, beanstalk.ConsumeOptions{OnJob: func(*beanstalk.Job) {}, OnError: func(err error) {
			wantErr(t, "error", err, eventloop.ErrTimeout)
			errs = append(errs, time.Since(began))
		}})
		k.Sleep(time.Minute)
		equal(t, "errors", len(errs), 1)
		equal(t, "time", errs[0], 35*time.Second)
		return nil
	})
}

func TestHandlesShowAJobThatIsNotSettled(t *testing.T) {
	s := &script{}
	s.give("a")
	virtually(t, nil, s.queue, func(k *eventloop.Task, c *beanstalk.Client) error {
		consume(t, c, beanstalk.ConsumeOptions{OnJob: func(*beanstalk.Job) {}})
		k.Sleep(time.Second)
		jobs := 0
		for h := range k.Loop().Handles() {
			if h.Kind == "beanstalk job" {
				jobs++
				equal(t, "Name", h.Name, "1, 1 pending")
				equal(t, "Ref", h.Ref, true)
			}
		}
		equal(t, "jobs", jobs, 1)
		return nil
	})
}

func TestAReserveJobThatIsCanceledIsReleasedWithItsPriority(t *testing.T) {
	s := &script{}
	s.more = func(command string) (string, bool) {
		if command == "reserve-job 7" {
			time.Sleep(time.Second)
			return "RESERVED 7 1\r\nx", true
		}
		return "", false
	}
	virtually(t, nil, s.serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		j, err := c.ReserveJob(bg, 7).Await(k)
		if err != nil {
			return err
		}
		equal(t, "body", string(j.Body), "x")
		if _, err := j.Delete().Await(k); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(bg)
		f := c.ReserveJob(ctx, 7)
		k.Loop().AfterFunc(500*time.Millisecond, cancel)
		_, err = f.Await(k)
		wantErr(t, "error", err, beanstalk.ErrUncertain)
		k.Sleep(time.Minute)
		equal(t, "commands", strings.Join(s.got(), ";"), "reserve-job 7;delete 7;reserve-job 7;stats-job 7;release 7 9 0")
		return nil
	})
}

// After Close a job of ReserveJob is not settled any more: its connection is about to be
// closed. Before Close it is.
func TestAReservedJobIsNotSettledAfterClose(t *testing.T) {
	for _, first := range []string{"close", "delete"} {
		s := &script{}
		s.more = func(command string) (string, bool) {
			return "RESERVED 7 1\r\nx", command == "reserve-job 7"
		}
		virtually(t, nil, s.serve, func(k *eventloop.Task, c *beanstalk.Client) error {
			j, err := c.ReserveJob(bg, 7).Await(k)
			if err != nil {
				return err
			}
			if first == "delete" {
				deleted := j.Delete()
				c.Close()
				_, err := deleted.Await(k)
				return err
			}
			c.Close()
			_, err = j.Delete().Await(k)
			wantErr(t, "Delete", err, net.ErrClosed)
			if errors.Is(err, beanstalk.ErrUncertain) {
				t.Errorf("Delete: %v, but it was not sent", err)
			}
			_, err = j.Touch().Await(k)
			wantErr(t, "Touch", err, net.ErrClosed)
			k.Sleep(time.Minute)
			equal(t, "commands", strings.Join(s.got(), ";"), "reserve-job 7")
			return nil
		})
	}
}

// The reserve before it has more time than the command that settles the job.
func TestACommandAboutAJobIsOverdueAfterItsOwnTime(t *testing.T) {
	s := &script{}
	s.more = func(command string) (string, bool) { return "", strings.HasPrefix(command, "delete") }
	serve := func(nc net.Conn) {
		commands(nc, func(command, body string) string {
			switch {
			case strings.HasPrefix(command, "delete"):
				return ""
			case strings.HasPrefix(command, "reserve"):
				time.Sleep(10 * time.Second)
				return "RESERVED 7 1\r\nx"
			}
			return s.reply(command, body)
		})
	}
	virtually(t, &beanstalk.Options{Timeout: 2 * time.Second}, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		var deleted *eventloop.Future[struct{}]
		var began time.Time
		consume(t, c, beanstalk.ConsumeOptions{ManualTouch: true, OnJob: func(j *beanstalk.Job) {
			if deleted == nil {
				began = time.Now()
				deleted = j.Delete()
			}
		}})
		k.Sleep(11 * time.Second)
		_, err := deleted.Await(k)
		wantErr(t, "error", err, eventloop.ErrTimeout, beanstalk.ErrUncertain)
		equal(t, "time", time.Since(began), 2*time.Second)
		return nil
	})
}

// A server that ends each connection at the first reserve is not asked again and again
// without a pause, although it has answered the commands before.
func TestAConsumerBacksOffUntilItGetsAReplyToAReserve(t *testing.T) {
	conns := 0
	serve := func(nc net.Conn) {
		conns++
		commands(nc, func(command, body string) string {
			if strings.HasPrefix(command, "reserve") {
				return "quit"
			}
			return "WATCHING 1"
		})
	}
	virtually(t, nil, serve, func(k *eventloop.Task, c *beanstalk.Client) error {
		consume(t, c, beanstalk.ConsumeOptions{OnJob: func(*beanstalk.Job) {}})
		k.Sleep(time.Minute)
		if conns < 10 || conns > 40 {
			t.Errorf("%d connections in a minute, want about 20", conns)
		}
		return nil
	})
}

// With CatchPanics, a panic in OnJob is reported once. The job goes back to the server,
// which gives it out again: the consumer takes its time.
func TestAPanicOfOnJobIsReported(t *testing.T) {
	for _, asked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var panics, told, jobs, lost int
			cfg := silent()
			cfg.CatchPanics = true
			cfg.EventHandler = func(err error) {
				if panics++; !errors.As(err, new(*eventloop.PanicError)) {
					t.Errorf("event %v", err)
				}
			}
			serve := func(nc net.Conn) {
				s := &script{jobs: []string{"x"}}
				s.queue(nc)
			}
			err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
				c, err := beanstalk.New(l, served(nil, serve))
				if err != nil {
					return err
				}
				o := beanstalk.ConsumeOptions{
					OnJob: func(j *beanstalk.Job) {
						jobs++
						panic("not this one")
					},
					OnLost: func(*beanstalk.Job, error) { lost++ },
				}
				if asked {
					o.OnError = func(err error) {
						if told++; !errors.As(err, new(*eventloop.PanicError)) {
							t.Errorf("OnError %v", err)
						}
					}
				}
				consume(t, c, o)
				l.AfterFunc(time.Minute, c.Abort)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			reports := panics
			if asked {
				reports = told
			}
			if jobs < 10 || jobs > 40 || reports != jobs || panics+told != jobs || lost != jobs {
				t.Errorf("asked=%v: %d jobs, %d lost, %d events, %d calls of OnError in a minute, want about 20 of each", asked, jobs, lost, panics, told)
			}
			time.Sleep(time.Minute)
		})
	}
}
