package looptest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// repeats runs f often with a few seeds, and fails if two runs of a seed differ, or if
// two things could not be told apart.
func repeats(t *testing.T, f func(t *testing.T, l *eventloop.Loop) error, opts ...looptest.Option) {
	t.Helper()
	for seed := uint64(1); seed <= 3; seed++ {
		var first string
		for range 30 {
			var trace strings.Builder
			looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
				l.OnExit(func() {
					for _, e := range looptest.Trace(t) {
						fmt.Fprintln(&trace, e)
					}
					if alike := looptest.Alike(t); len(alike) > 0 {
						t.Errorf("alike are %q", alike)
					}
				})
				return f(t, l)
			}, append(opts, looptest.Seed(seed))...)
			if first == "" {
				first = trace.String()
			}
			if trace.String() != first {
				t.Fatalf("seed %d has two orders:\n%s\n%s", seed, first, trace.String())
			}
			if t.Failed() {
				return
			}
		}
	}
}

func TestFunctionsOfWorkThatReturnTogetherAreOrderedByTheSeed(t *testing.T) {
	repeats(t, func(t *testing.T, l *eventloop.Loop) error {
		for i := range 6 {
			eventloop.Work(t.Context(), l, func(context.Context) (int, error) {
				time.Sleep(time.Second)
				l.Post(func() {})
				return i, nil
			}).Then(func(int, error) {})
		}
		return nil
	})
}

func TestDialsThatFailTogetherAreOrderedByTheSeed(t *testing.T) {
	repeats(t, func(t *testing.T, l *eventloop.Loop) error {
		failure := errors.New("no route")
		for range 6 {
			if _, err := l.Dial(t.Context(), "tcp", "server:1", &eventloop.ConnConfig{
				OnEvent: func(*eventloop.Conn, error) {},
				Dial: func(context.Context, string, string) (net.Conn, error) {
					time.Sleep(time.Second)
					return nil, failure
				},
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestListenersThatEndTogetherAreOrderedByTheSeed(t *testing.T) {
	repeats(t, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		for i := range 4 {
			ln, err := n.Listen(fmt.Sprintf("server:%d", 1+i))
			if err != nil {
				return err
			}
			if _, err := l.Serve(ln, nil); err != nil {
				return err
			}
			web, err := n.Listen(fmt.Sprintf("server:%d", 80+i))
			if err != nil {
				return err
			}
			if _, err := l.ServeHTTP(web, func(*eventloop.HTTPRequest) {}, nil); err != nil {
				return err
			}
		}
		l.AfterFunc(time.Second, func() { n.Crash("server") })
		l.AfterFunc(2*time.Second, func() { l.Shutdown(-1) })
		return nil
	}, looptest.Config(&eventloop.Config{EventHandler: func(error) {}}))
}

func TestSendersThatAreReadTogetherAreOrderedByTheSeed(t *testing.T) {
	repeats(t, func(t *testing.T, l *eventloop.Loop) error {
		ch := make(chan int)
		for range 4 {
			s := eventloop.SendTo(l, ch)
			s.Send(1).Then(func(struct{}, error) {})
			s.Send(2).Then(func(struct{}, error) {})
		}
		go func() {
			time.Sleep(time.Second)
			for range 8 {
				<-ch
			}
		}()
		return nil
	})
}

// dnsServer answers each query after a second that there is no such name.
func dnsServer(n *looptest.Net) error {
	ln, err := n.Listen("dns:53")
	if err != nil {
		return err
	}
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				c := dns.Conn{Conn: nc}
				for {
					q, err := c.ReadMsg()
					if err != nil {
						return
					}
					time.Sleep(time.Second)
					m := new(dns.Msg)
					c.WriteMsg(m.SetRcode(q, dns.RcodeNameError))
				}
			}()
		}
	}()
	return nil
}

func init() {
	var n *looptest.Net
	resolver := &eventloop.ResolverConfig{
		Servers: []string{"192.0.2.1:53"},
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return n.Dialer("client")(ctx, "tcp", "dns:53")
		},
	}
	failing["lookups"] = func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			n = looptest.NewNet(t)
			if err := dnsServer(n); err != nil {
				return err
			}
			for i := range 4 {
				l.Query(t.Context(), fmt.Sprintf("host%d.example.", i), dns.TypeA).Then(func(_ *dns.Msg, err error) { t.Error(err) })
			}
			return nil
		}, looptest.Config(&eventloop.Config{Resolver: resolver}))
	}
	failing["goroutines"] = func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			release := l.Hold()
			l.AfterFunc(time.Second, release)
			for range 2 {
				go func() { l.Post(func() { t.Error("ran") }) }()
			}
			return nil
		})
	}
}
