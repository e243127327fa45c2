package netcore

import (
	"io"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// The goroutine waits, and another one takes its place and reads, again and again,
// while a third gives orders. Each order is seen, each byte is read, and
// the goroutine never runs beside the borrower.
func TestABorrowedPlaceIsNeverSharedAndLosesNoWake(t *testing.T) {
	for _, k := range kinds {
		if !k.raw {
			continue // no other lends its place
		}
		t.Run(k.name, func(t *testing.T) {
			nc, peer := k.pair(t)
			c := newConn(t, nc, k.ours)
			c.Open()
			const rounds = 3000
			var orders, seen atomic.Int64 // seen are those that the goroutine knows of
			var inside atomic.Int32
			enter := func() {
				if inside.Add(1) != 1 {
					t.Error("two goroutines are in the place")
				}
			}
			over := make(chan struct{})
			done := beside(t, func() {
				for {
					c.Wait()
					enter()
					seen.Store(orders.Load())
					inside.Add(-1)
					select {
					case <-over:
						return
					default:
					}
				}
			})
			sent := 0
			read := 0
			for n := range rounds {
				for !c.Borrow() {
					runtime.Gosched()
				}
				enter()
				switch n % 3 {
				case 0: // input
					peer.Write([]byte("x"))
					sent++
				case 1:
					beside(t, func() { orders.Add(1); c.Wake() })
				}
				if n%3 < 2 {
					b, err := c.Read(100)
					switch {
					case b != nil:
						read += b.Len()
						b.Release()
					case err != ErrWoken:
						t.Fatal(err)
					}
				}
				for range rand.IntN(3) {
					runtime.Gosched()
				}
				inside.Add(-1)
				c.Return()
				if n%10 == 0 {
					orders.Add(1)
					c.Wake() // to the goroutine itself
				}
				if n%100 == 0 {
					until(t, "every order is seen", func() bool { return seen.Load() == orders.Load() })
				}
			}
			until(t, "every order is seen", func() bool { return seen.Load() == orders.Load() })
			close(over)
			c.Wake()
			wait(t, done, "end of the goroutine")
			peer.Close()
			for {
				b, err := c.Read(100)
				if b != nil {
					read += b.Len()
					b.Release()
				} else if err == io.EOF {
					break
				} else if err != ErrWoken {
					t.Fatal(err)
				}
			}
			if read != sent {
				t.Errorf("read %d bytes, want %d", read, sent)
			}
			c.abort()
		})
	}
}

func TestOnlyAGoroutineThatIsInWaitLendsItsPlace(t *testing.T) {
	each(t, func(t *testing.T, k kind) {
		nc, _ := k.pair(t)
		c := newConn(t, nc, k.ours)
		c.Open()
		if c.Borrow() {
			t.Fatal("Borrow succeeds while the goroutine runs")
		}
		for name, f := range map[string]func(){
			"Read":      func() { c.Read(100) },
			"Watch":     func() { c.Watch(false) },
			"WaitUntil": func() { c.WaitUntil(time.Now().Add(time.Hour)) },
		} {
			if name == "Watch" && !c.Raw() {
				continue // it is Wait
			}
			done := beside(t, f)
			for range 100 {
				if c.Borrow() {
					t.Fatalf("Borrow succeeds in %s", name)
				}
				runtime.Gosched()
			}
			c.Wake()
			wait(t, done, "end of "+name)
		}
		c.abort()
	})
}
