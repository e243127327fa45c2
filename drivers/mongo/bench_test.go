package mongoloop_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/onloop/eventloop"
	mongoloop "github.com/onloop/eventloop/drivers/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// BenchmarkFindOne compares calls over the bridge with calls of the official client on
// goroutines. The server, which takes most of the time, is in this process. "dialer" is the
// official client on goroutines with the connections of the loop.
func BenchmarkFindOne(b *testing.B) {
	for _, calls := range []int{1, 32} {
		for _, way := range []struct {
			name string
			run  func(b *testing.B, s *fake, calls int) error
		}{{"bridge", benchBridge}, {"official", benchOfficial}, {"dialer", benchDialer}} {
			b.Run(fmt.Sprintf("%s-%d", way.name, calls), func(b *testing.B) {
				s := newFake(users(1)...)
				defer s.close()
				b.ReportAllocs()
				if err := way.run(b, s, calls); err != nil {
					b.Error(err)
				}
			})
		}
	}
}

// warmUp is how many calls come before the measurement, to open all connections.
const warmUp = 1000

func benchBridge(b *testing.B, s *fake, calls int) error {
	return eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := mongoloop.Connect(l, s.clientOptions())
		if err != nil {
			return err
		}
		coll := mongoloop.In[user](c, "app", "users")
		rounds := []int{warmUp, b.N}
		started, pending := 0, 0
		var next func(u user, err error)
		start := func() {
			started++
			pending++
			coll.FindOne(context.Background(), id(0)).Then(next)
		}
		begin := func() {
			for started < min(calls, rounds[0]) {
				start()
			}
		}
		next = func(u user, err error) {
			if pending--; err != nil {
				b.Error(err)
				return
			}
			if started < rounds[0] {
				start()
			} else if pending == 0 {
				if rounds = rounds[1:]; len(rounds) == 0 {
					b.StopTimer()
					return
				}
				started = 0
				b.ResetTimer()
				begin()
			}
		}
		begin()
		return nil
	})
}

func benchOfficial(b *testing.B, s *fake, calls int) error {
	mc, err := mongo.Connect(s.clientOptions())
	if err != nil {
		return err
	}
	defer mc.Disconnect(context.Background())
	return benchGoroutines(b, mc, calls)
}

func benchDialer(b *testing.B, s *fake, calls int) error {
	return eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		mc, err := mongo.Connect(s.clientOptions().SetDialer(l))
		if err != nil {
			return err
		}
		done := l.Hold()
		go func() {
			defer done()
			defer mc.Disconnect(context.Background())
			if err := benchGoroutines(b, mc, calls); err != nil {
				b.Error(err)
			}
		}()
		return nil
	})
}

// benchGoroutines does the calls on as many goroutines as there are calls at a time.
func benchGoroutines(b *testing.B, mc *mongo.Client, calls int) error {
	coll := mc.Database("app").Collection("users")
	for i, n := range []int{warmUp, b.N} {
		if i == 1 {
			b.ResetTimer()
		}
		var left atomic.Int64
		left.Store(int64(n))
		var wg sync.WaitGroup
		errs := make(chan error, calls)
		for range calls {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					var u user
					if err := coll.FindOne(context.Background(), id(0)).Decode(&u); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		wg.Wait()
		select {
		case err := <-errs:
			return err
		default:
		}
	}
	b.StopTimer()
	return nil
}
