package eventloop_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/onloop/eventloop"
)

// BenchmarkRequest is what a request costs a driver, apart from its protocol, while n
// requests are outstanding: it makes a record and puts it into a queue; then all n
// replies arrive in one callback; the callback of each request makes the next request.
//
//   - direct calls the callback from the one that gets the replies, which a driver for
//     this loop must not do: it is the lower bound;
//   - post posts the callback;
//   - promise is a record with a [eventloop.Promise], and Then;
//   - future is a record beside a future of [eventloop.NewFuture], and Then.
func BenchmarkRequest(b *testing.B) {
	for _, n := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("direct/%d", n), func(b *testing.B) {
			benchRequests(b, n, func(l *eventloop.Loop) (request func(cb func(string, error)) *bareRequest, reply func(r *bareRequest, v string)) {
				return newBareRequest, func(r *bareRequest, v string) { r.cb(v, nil) }
			})
		})
		b.Run(fmt.Sprintf("post/%d", n), func(b *testing.B) {
			benchRequests(b, n, func(l *eventloop.Loop) (request func(cb func(string, error)) *bareRequest, reply func(r *bareRequest, v string)) {
				return newBareRequest, func(r *bareRequest, v string) { l.Post(func() { r.cb(v, nil) }) }
			})
		})
		b.Run(fmt.Sprintf("promise/%d", n), func(b *testing.B) {
			benchRequests(b, n, func(l *eventloop.Loop) (request func(cb func(string, error)) *promisedRequest, reply func(r *promisedRequest, v string)) {
				o, err := eventloop.NewOwner(l, "bench", "", nil)
				if err != nil {
					b.Fatal(err)
				}
				request = func(cb func(string, error)) *promisedRequest {
					r := &promisedRequest{}
					r.Init(o)
					r.Then(cb)
					return r
				}
				return request, func(r *promisedRequest, v string) { r.Resolve(v, nil) }
			})
		})
		b.Run(fmt.Sprintf("future/%d", n), func(b *testing.B) {
			benchRequests(b, n, func(l *eventloop.Loop) (request func(cb func(string, error)) *futureRequest, reply func(r *futureRequest, v string)) {
				request = func(cb func(string, error)) *futureRequest {
					f, resolve := eventloop.NewFuture[string](l)
					f.Then(cb)
					return &futureRequest{resolve: resolve}
				}
				return request, func(r *futureRequest, v string) { r.resolve(v, nil) }
			})
		})
	}
}

// bareRequest, promisedRequest and futureRequest have room for what a driver notes about
// a request.
type bareRequest struct {
	cb func(string, error)
	_  [3]uint64
}

func newBareRequest(cb func(string, error)) *bareRequest { return &bareRequest{cb: cb} }

type promisedRequest struct {
	eventloop.Promise[string]
	_ [3]uint64
}

type futureRequest struct {
	resolve func(string, error)
	_       [3]uint64
}

// benchRequests makes b.N requests, n at a time.
func benchRequests[R any](b *testing.B, n int, driver func(l *eventloop.Loop) (request func(cb func(string, error)) *R, reply func(r *R, v string))) {
	b.ReportAllocs()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		request, reply := driver(l)
		pending, arrived := make([]*R, 0, n), make([]*R, 0, n)
		left := b.N
		var replies, ask func()
		done := func(string, error) { ask() }
		ask = func() {
			if left == 0 {
				return
			}
			left--
			pending = append(pending, request(done))
			if len(pending) == n || left == 0 {
				l.Post(replies)
			}
		}
		replies = func() {
			arrived, pending = pending, arrived[:0]
			for i, r := range arrived {
				arrived[i] = nil
				reply(r, "value")
			}
		}
		for range n {
			ask()
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
