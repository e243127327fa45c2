package eventloop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
)

// dialPipe is a Dial that returns one end of a pipe, and gives the other to serve.
func dialPipe(serve func(nc net.Conn)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		ours, peer := net.Pipe()
		go serve(peer)
		return ours, nil
	}
}

func TestDialOfTheConfigurationConnects(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		var asked string
		dial := dialPipe(func(nc net.Conn) { io.Copy(nc, nc); nc.Close() })
		r, cfg := newTape(&eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, p []byte) { c.Close() },
			Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				asked = network + " " + address
				return dial(ctx, network, address)
			},
		})
		c, err := l.Dial(t.Context(), "tcp", "server:7", cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.WriteString("written before it is up")
		synctest.Wait()
		wantEqual(t, "arguments of Dial", asked, "tcp server:7")
		wantEqual(t, "callbacks", strings.Replace(r.order(), "drain ", "", 1), "connect data close")
		wantEqual(t, "data", r.received(), "written before it is up")
		wantEqual(t, "Conn.Err", c.Err(), nil)
		wantEqual(t, "Stats.DialedTotal", l.Stats().Conns.DialedTotal, 1)
	})
}

func TestTLSIsMadeOnTopOfDialOfTheConfiguration(t *testing.T) {
	echo := func(nc net.Conn) {
		tc := tls.Server(nc, serverConf)
		io.Copy(tc, tc)
		tc.Close()
	}
	named := clientConf.Clone()
	named.ServerName = "" // comes from the address
	dials := map[string]*eventloop.ConnConfig{
		"TLS":             {TLS: named, Dial: dialPipe(echo)},
		"a tls.Conn":      {Dial: dialTLS(dialPipe(echo))},
		"a foreign below": {TLS: named, Dial: dialForeign(dialPipe(echo))},
	}
	for name, with := range dials {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *eventloop.Loop) {
				with.OnData = func(c *eventloop.Conn, _ []byte) {
					state, ok := c.TLS()
					wantEqual(t, "the handshake is complete", ok && state.HandshakeComplete, true)
					c.Close()
				}
				r, cfg := newTape(with)
				c, err := l.Dial(t.Context(), "tcp", "127.0.0.1:7", cfg)
				if err != nil {
					t.Fatal(err)
				}
				c.WriteString("hello")
				synctest.Wait()
				wantEqual(t, "callbacks", strings.Replace(r.order(), "drain ", "", 1), "connect data close")
				wantEqual(t, "data", r.received(), "hello")
			})
		})
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

func dialTLS(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		return tls.Client(nc, clientConf), err
	}
}

// A foreignPipe is a pipe of a type that the loop does not know.
type foreignPipe struct{ net.Conn }

func dialForeign(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		return foreignPipe{nc}, err
	}
}

func TestAFailureOfDialOfTheConfigurationIsTheEventOfAFailedDial(t *testing.T) {
	failure := errors.New("no route")
	tests := map[string]struct {
		dial dialFunc
		text string
		is   error
	}{
		"an error": {
			func(context.Context, string, string) (net.Conn, error) { return nil, failure },
			"dial tcp server:7: no route", failure,
		},
		"no connection": {
			func(context.Context, string, string) (net.Conn, error) { return nil, nil },
			"dial tcp server:7: ConnConfig.Dial returned neither a connection nor an error", nil,
		},
		"a nil pointer as connection": {
			func(context.Context, string, string) (net.Conn, error) { return (*net.TCPConn)(nil), nil },
			"dial tcp server:7: ConnConfig.Dial returned neither a connection nor an error", nil,
		},
		"a nil pointer after the end of its context": {
			func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return (*net.UnixConn)(nil), nil
			},
			"dial tcp server:7: context deadline exceeded", eventloop.ErrTimeout,
		},
		"the end of its context, which it ignores": {
			func(context.Context, string, string) (net.Conn, error) {
				time.Sleep(3 * time.Second)
				return nil, failure
			},
			"dial tcp server:7: context deadline exceeded", eventloop.ErrTimeout,
		},
		"the end of its context": {
			func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
			"dial tcp server:7: context deadline exceeded", eventloop.ErrTimeout,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *eventloop.Loop) {
				r, cfg := newTape(&eventloop.ConnConfig{ConnectTimeout: time.Second, Dial: test.dial})
				c, err := l.Dial(t.Context(), "tcp", "server:7", cfg)
				if err != nil {
					t.Fatal(err)
				}
				c.WriteString("is dropped")
				time.Sleep(time.Second)
				synctest.Wait()
				wantEqual(t, "callbacks a second later", r.order(), "event close")
				wantEqual(t, "error", c.Err().Error(), test.text)
				var oe *eventloop.OpError
				if !errors.As(c.Err(), &oe) || oe.Op != eventloop.OpDial || oe.Conn != c || test.is != nil && !errors.Is(c.Err(), test.is) {
					t.Errorf("the error is %#v", c.Err())
				}
			})
		})
	}
}

func TestAConnectionThatDialReturnsTooLateIsClosed(t *testing.T) {
	for _, end := range []string{"timeout", "Close", "Abort", "context", "Stop"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peerSaw := make(chan error, 1)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var r *tape
				err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
					var cfg *eventloop.ConnConfig
					r, cfg = newTape(&eventloop.ConnConfig{
						ConnectTimeout: time.Hour,
						Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
							<-ctx.Done()
							ours, peer := net.Pipe()
							go func() {
								_, err := peer.Read(make([]byte, 1))
								peerSaw <- err
							}()
							return foreignPipe{ours}, nil
						},
					})
					c, err := l.Dial(ctx, "tcp", "server:7", cfg)
					if err != nil {
						return err
					}
					l.AfterFunc(time.Second, map[string]func(){
						"timeout": func() {},
						"Close":   func() { c.Close() },
						"Abort":   func() { c.Abort() },
						"context": cancel,
						"Stop":    l.Stop,
					}[end])
					return nil
				})
				wantEqual(t, "Run", err, nil)
				wantEqual(t, "what the peer saw", <-peerSaw, io.EOF)
				want := "close"
				if end == "timeout" || end == "context" {
					want = "event close"
				}
				wantEqual(t, "callbacks", r.order(), want)
			})
		})
	}
}

// The dial has failed, so Run names the function itself and not the connection's state.
func TestADialThatIgnoresItsContextIsNamedOnlyIfItIsStillThereAtTheEnd(t *testing.T) {
	for _, returns := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			var connErr, httpErr error
			dial := func(context.Context, string, string) (net.Conn, error) { <-release; return nil, io.EOF }
			cfg := &eventloop.Config{HTTPClient: &eventloop.HTTPClientConfig{Dial: dial, Proxy: eventloop.NoProxy}, Logger: slog.New(slog.DiscardHandler)}
			began := time.Now()
			err := eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
				_, err := l.Dial(context.Background(), "tcp", "server:7", &eventloop.ConnConfig{
					ConnectTimeout: time.Second, Dial: dial,
					OnEvent: func(_ *eventloop.Conn, err error) {
						connErr = err
						wantEqual(t, "time of OnEvent", time.Since(began), time.Second)
					},
				})
				l.HTTP().Do(context.Background(), "GET", "http://server/", &eventloop.HTTPOptions{Timeout: time.Second}).Then(func(_ *eventloop.HTTPResponse, err error) {
					httpErr = err
					wantEqual(t, "time of the request's error", time.Since(began), time.Second)
				})
				l.AfterFunc(2*time.Second, func() {
					if returns {
						close(release)
					}
				})
				return err
			})
			if !errors.Is(connErr, eventloop.ErrTimeout) || !errors.Is(connErr, eventloop.ErrTCP) || !errors.Is(httpErr, eventloop.ErrTimeout) || !errors.Is(httpErr, eventloop.ErrHTTP) {
				t.Errorf("the errors are %v and %v", connErr, httpErr)
			}
			if returns {
				wantEqual(t, "Run", err, nil)
				return
			}
			for _, name := range []string{"ConnConfig.Dial of conn tcp server:7", "HTTPClientConfig.Dial of conn tcp server:80"} {
				if !errors.Is(err, eventloop.ErrWorkLeft) || strings.Count(err.Error(), name) != 1 {
					t.Errorf("Run = %v, want an error that names %s", err, name)
				}
			}
			close(release)
		})
	}
}

func TestAPanicInADialThatWasGivenUpIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []error
		var order string
		cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) { events = append(events, err) }}
		err := eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
			_, err := l.Dial(context.Background(), "tcp", "server:7", &eventloop.ConnConfig{
				ConnectTimeout: time.Second,
				Dial:           func(context.Context, string, string) (net.Conn, error) { time.Sleep(time.Minute); panic("late") },
				OnEvent:        func(*eventloop.Conn, error) { order += "event " },
				OnClose:        func(*eventloop.Conn) { order += "close" },
			})
			l.AfterFunc(time.Hour, func() {})
			return err
		})
		wantEqual(t, "Run", err, nil)
		wantEqual(t, "callbacks", order, "event close")
		var pe *eventloop.PanicError
		if len(events) != 1 || !errors.As(events[0], &pe) || pe.Value != "late" {
			t.Errorf("the events are %v", events)
		}
	})
}

func TestAdoptRefusesANilPointer(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		for _, nc := range []net.Conn{nil, (*net.TCPConn)(nil), (*foreignPipe)(nil)} {
			if c, err := l.Adopt(nc, nil); err == nil {
				t.Errorf("Adopt(%T(nil)) = %v", nc, c)
			}
		}
	})
}

func TestDialChecksItsArgumentsBeforeDialOfTheConfiguration(t *testing.T) {
	inBubble(t, func(t *testing.T, l *eventloop.Loop) {
		cfg := &eventloop.ConnConfig{Dial: func(context.Context, string, string) (net.Conn, error) {
			t.Error("Dial was called")
			return nil, io.EOF
		}}
		for _, arg := range [][2]string{{"pigeon", "server:7"}, {"tcp", "server"}, {"tcp", "server:no-such-service"}} {
			if _, err := l.Dial(t.Context(), arg[0], arg[1], cfg); err == nil {
				t.Errorf("Dial(%q, %q) succeeds", arg[0], arg[1])
			}
		}
	})
}
