package eventloop_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"pgregory.net/rapid"
)

// filled returns a channel with n values, 0 to n-1, that is closed after them.
func filled(n int) chan int {
	ch := make(chan int, n)
	for i := range n {
		ch <- i
	}
	close(ch)
	return ch
}

func TestReceiveTakesWhatWaitsInOneGoAndNothingMoreMeanwhile(t *testing.T) {
	const n, most = 600, 256
	err := virtually(t, nil, func(l *eventloop.Loop) {
		ch := filled(n)
		calls := 0
		eventloop.Receive(l, ch, func(v int, ok bool) {
			if !ok {
				wantEqual(t, "calls before the end", calls, n)
				return
			}
			wantEqual(t, "value", v, calls)
			taken := min((calls/most+1)*most, n)
			if calls++; calls%100 == 0 {
				time.Sleep(time.Second) // a slow callback, and plenty of time to take more
			}
			wantEqual(t, "values left in the channel", len(ch), n-taken)
		})
	})
	wantEqual(t, "Run", err, nil)
}

func TestReceiveBatchGetsAllValuesOfOneGo(t *testing.T) {
	for n, want := range map[int][]int{
		0: {0}, 1: {1, 0}, 255: {255, 0}, 256: {256, 0}, 257: {256, 1, 0}, 600: {256, 256, 88, 0},
	} {
		err := virtually(t, nil, func(l *eventloop.Loop) {
			var sizes []int
			next := 0
			eventloop.ReceiveBatch(l, filled(n), func(vs []int, ok bool) {
				sizes = append(sizes, len(vs))
				wantEqual(t, "ok", ok, len(vs) > 0)
				for _, v := range vs {
					wantEqual(t, "value", v, next)
					next++
				}
			})
			l.OnExit(func() { wantSlice(t, fmt.Sprintf("sizes of the batches of %d values", n), sizes, want) })
		})
		wantEqual(t, "Run", err, nil)
	}
}

func TestReceiveBatchOfNilPanics(t *testing.T) {
	l := eventloop.New(nil)
	for _, f := range []func(){
		func() { eventloop.ReceiveBatch(l, nil, func([]int, bool) {}) },
		func() { eventloop.ReceiveBatch[int](l, make(chan int), nil) },
	} {
		if v, _ := outcome(f); v == nil {
			t.Error("no panic")
		}
	}
}

func TestReceiveBatchGoesOnAfterAPanicThatIsCaught(t *testing.T) {
	var events []error
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events = append(events, err) }}
	values := 0
	mustRun(t, cfg, func(l *eventloop.Loop) {
		eventloop.ReceiveBatch(l, filled(300), func(vs []int, ok bool) { values += len(vs); panic("boom") })
	})
	wantEqual(t, "values", values, 300)
	wantEqual(t, "events", len(events), 3) // of 256 values, of 44, of the end
}

// Values that are not delivered keep nothing alive once they are.
func TestTheEndOfTheLoopLeavesTheRestOfABatchToStop(t *testing.T) {
	ch := filled(10)
	var r *eventloop.Receiver[int]
	mustRun(t, nil, func(l *eventloop.Loop) {
		r = eventloop.Receive(l, ch, func(v int, ok bool) {
			if v == 3 {
				l.Stop()
			}
		})
	})
	rest := r.Stop()
	for v := range ch {
		rest = append(rest, v)
	}
	wantSlice(t, "values that were not delivered", rest, []int{4, 5, 6, 7, 8, 9})
	wantEqual(t, "values of a second Stop", len(r.Stop()), 0)
}

// Whatever the buffer, the pauses, and the moment of Stop: what is delivered, then what
// Stop returns, then what is left in the channel, is what was sent, in order.
func TestAReceiverNeitherLosesNorReordersValues(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		buffer := rapid.SampledFrom([]int{0, 1, 2, 255, 256, 257, 600}).Draw(rt, "buffer")
		n := rapid.SampledFrom([]int{0, 1, 3, 256, 257, 700}).Draw(rt, "values")
		batch := rapid.Bool().Draw(rt, "batch")
		pauses := rapid.SliceOfN(rapid.IntRange(0, 700), 0, 4).Draw(rt, "pauses")
		stop := rapid.IntRange(-1, 700).Draw(rt, "stop")
		outside := rapid.Bool().Draw(rt, "stop from outside")
		synctest.Test(t, func(t *testing.T) {
			ch, quit, sent := make(chan int, buffer), make(chan bool), make(chan int, 1)
			go func() {
				for i := range n {
					select {
					case ch <- i:
					case <-quit:
						sent <- i
						return
					}
				}
				close(ch)
				sent <- n
			}()
			var got []int
			ends, stopped := 0, false
			err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
				var r *eventloop.Receiver[int]
				end := func() {
					if !stopped {
						rest := r.Stop()
						stopped = true
						got = append(got, rest...)
					}
				}
				take := func(vs ...int) {
					if stopped {
						rt.Fatal("called after Stop")
					}
					for _, v := range vs {
						got = append(got, v)
						for _, p := range pauses {
							if p == v {
								r.Pause()
								l.AfterFunc(time.Second, r.Resume)
							}
						}
					}
					if stop >= 0 && len(got) > stop {
						if outside {
							l.AfterFunc(time.Millisecond, end)
						} else {
							end()
						}
					}
				}
				if batch {
					r = eventloop.ReceiveBatch(l, ch, func(vs []int, ok bool) {
						if take(vs...); !ok {
							ends++
						}
					})
				} else {
					r = eventloop.Receive(l, ch, func(v int, ok bool) {
						if !ok {
							ends++
						} else {
							take(v)
						}
					})
				}
				return nil
			})
			close(quit)
			count := <-sent
			for len(ch) > 0 {
				got = append(got, <-ch)
			}
			if err != nil || len(got) != count || stop < 0 && ends != 1 || ends > 1 {
				rt.Fatalf("Run: %v; %d of %d values, %d ends", err, len(got), count, ends)
			}
			for i, v := range got {
				if v != i {
					rt.Fatalf("value %d is %d", i, v)
				}
			}
		})
	})
}
