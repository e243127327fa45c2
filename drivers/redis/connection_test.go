package redis_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
	"github.com/onloop/eventloop/internal/childserver"
)

func TestAServerWithoutVersion3IsUsedWithVersion2(t *testing.T) {
	for _, hello := range []string{"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n", "-NOPROTO unsupported protocol version\r\n"} {
		var got []string
		server := func() *fake {
			got = nil
			return &fake{hello: func(p *peer, args []string) string {
				got = append(got, strings.Join(args, " "))
				return hello
			}, command: func(p *peer, args []string) (string, bool) {
				got = append(got, strings.Join(args, " "))
				if args[0] == "SELECT" && !slices.Contains(got, "AUTH me secret") {
					return "-NOAUTH Authentication required.\r\n", true
				}
				return "", false
			}}
		}
		o := redis.Options{Username: "me", Password: "secret", Name: "x", DB: 2}
		law(t, server, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
			n := settled(c.Get(background(), "none"), func(_ string, err error) {
				if err != redis.ErrNil {
					t.Error(err)
				}
			})
			l.OnExit(func() {
				want := []string{"HELLO 3 AUTH me secret SETNAME x", "SELECT 2", "AUTH me secret", "SELECT 2", "GET none"}
				if *n != 1 || !slices.Equal(got, want) || s.connsSeen() != 1 {
					t.Errorf("%d results, the server got %q", *n, got)
				}
			})
		})
	}
}

// refusingFirst returns a server that refuses the database of the first connection.
func refusingFirst() *fake {
	return &fake{command: func(p *peer, args []string) (string, bool) {
		if args[0] == "SELECT" && p.number == 1 {
			return "-ERR DB index is out of range\r\n", true
		}
		return "", false
	}}
}

func TestARefusedHandshakeFailsTheCommandsThatWait(t *testing.T) {
	law(t, refusingFirst, redis.Options{DB: 99}, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		start, results := time.Now(), 0
		for range 3 {
			c.Get(background(), "k").Then(func(_ string, err error) {
				results++
				if e, ok := errors.AsType[*redis.Error](err); !ok || !strings.Contains(e.Text, "DB index") || errors.Is(err, redis.ErrUncertain) || time.Since(start) > time.Second {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
			})
		}
		l.AfterFunc(time.Minute, func() { // the server was put right
			c.Get(background(), "k").Then(func(_ string, err error) {
				if results++; err != redis.ErrNil {
					t.Error(err)
				}
			})
		})
		l.OnExit(func() {
			if results != 4 {
				t.Errorf("%d results", results)
			}
		})
	})
}

func TestStatesAndFailuresOfSendAreTold(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			if args[0] == "DIE" {
				return hangUp, true
			}
			return "", false
		}}
	}
	var told []string
	o := redis.Options{
		OnState: func(up bool, err error) { told = append(told, fmt.Sprint("up ", up, ", ", err == nil)) },
		OnSendError: func(err error) {
			told = append(told, fmt.Sprint("send: reply ", errors.As(err, new(*redis.Error)), ", uncertain ", errors.Is(err, redis.ErrUncertain)))
		},
	}
	law(t, server, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
		told = nil
		for _, args := range [][]any{{"NONE"}, {"SET", "k", "v"}, {"DIE"}, {"ECHO", 1}, {"ECHO", 2}} {
			if err := c.Send(args...); err != nil {
				t.Error(err)
			}
		}
		l.OnExit(func() {
			want := []string{"up true, true", "send: reply true, uncertain false", "send: reply false, uncertain true", "up false, false"}
			if !slices.Equal(told, want) {
				t.Errorf("got %q", told)
			}
		})
	})
}

// The server closes the connection after DIE, at about the time when the client ends.
func TestOnStateIsNotCalledAfterTheEndOfTheClient(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) { return hangUp, args[0] == "DIE" }}
	}
	for name, end := range map[string]func(l *eventloop.Loop, c *redis.Client, ended func()){
		"Close": func(_ *eventloop.Loop, c *redis.Client, ended func()) {
			c.Close().Then(func(struct{}, error) { ended() })
		},
		"Abort":           func(_ *eventloop.Loop, c *redis.Client, ended func()) { c.Abort(); ended() },
		"end of the loop": func(*eventloop.Loop, *redis.Client, func()) {},
	} {
		for _, command := range []string{"ECHO", "DIE"} {
			t.Run(name+" after "+command, func(t *testing.T) {
				var told []string
				ended := false
				o := redis.Options{OnState: func(up bool, err error) {
					if told = append(told, fmt.Sprint(up)); ended {
						t.Errorf("OnState(%v, %v) after the end of the client", up, err)
					}
				}}
				law(t, server, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
					told, ended = nil, false
					c.Do(background(), "ECHO", "x").Then(func(redis.Reply, error) {
						settled(c.Do(background(), command, "y"), func(redis.Reply, error) {
							end(l, c, func() { ended = true })
						})
						if command == "DIE" { // the end of the client may come before that of the connection
							l.AfterFunc(2*time.Millisecond, func() { end(l, c, func() { ended = true }) })
						}
					})
					l.OnExit(func() {
						switch got := strings.Join(told, " "); {
						case got == "true":
						case got == "true false" && command == "DIE":
						default:
							t.Errorf("states %q", got)
						}
					})
				})
			})
		}
	}
}

// Commands of Send that never leave are told as well.
func TestOnSendErrorIsCalledForCommandsThatAreNotSent(t *testing.T) {
	for name, hello := range map[string]func(p *peer, args []string) string{
		"refused": func(*peer, []string) string { return "-WRONGPASS invalid\r\n" },
		"overdue": func(*peer, []string) string { return silence },
	} {
		t.Run(name, func(t *testing.T) {
			told := 0
			o := redis.Options{OnSendError: func(err error) {
				if told++; errors.Is(err, redis.ErrUncertain) || errors.Is(err, eventloop.ErrTimeout) != (name == "overdue") {
					t.Error(err)
				}
			}}
			law(t, func() *fake { return &fake{hello: hello} }, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
				told = 0
				for range 3 {
					if err := c.Send("SET", "k", "v"); err != nil {
						t.Error(err)
					}
				}
				l.OnExit(func() {
					if told != 1 {
						t.Errorf("told %d times, want once for all", told)
					}
				})
			})
		})
	}
}

func TestNoCallbackFollowsAbort(t *testing.T) {
	server := func() *fake {
		return &fake{command: func(p *peer, args []string) (string, bool) {
			switch args[0] {
			case "SUBSCRIBE":
				return ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n" + strings.Repeat(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n", 3), true
			case "XREADGROUP":
				return "*1\r\n*2\r\n$1\r\ns\r\n*2\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nn\r\n$1\r\n1\r\n*2\r\n$3\r\n1-2\r\n*2\r\n$1\r\nn\r\n$1\r\n2\r\n", true
			}
			return silence, true
		}}
	}
	for name, begin := range map[string]func(c *redis.Client, call func()){
		"OnMessage": func(c *redis.Client, call func()) {
			c.Subscribe(redis.SubscribeOptions{Channels: []string{"c"}, OnMessage: func(redis.Message) { call() }}).Done().Ignore()
		},
		"OnEntry": func(c *redis.Client, call func()) {
			if _, err := c.Consume(redis.ConsumeOptions{Stream: "s", Group: "g", Consumer: "me", OnEntry: func(*redis.Delivery) { call() }}); err != nil {
				t.Error(err)
			}
		},
	} {
		for ending, end := range map[string]func(c *redis.Client){
			"Abort": (*redis.Client).Abort,
			"Close": func(c *redis.Client) { c.Close() },
		} {
			t.Run(name+" after "+ending, func(t *testing.T) {
				o := redis.Options{Timeout: time.Second, OnSendError: func(err error) {
					if ending == "Abort" {
						t.Errorf("OnSendError(%v)", err)
					}
				}}
				law(t, server, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
					calls := 0
					c.Send("SILENT")
					begin(c, func() { calls++; end(c) })
					l.OnExit(func() {
						if calls != 1 {
							t.Errorf("%d calls, want 1", calls)
						}
					})
				})
			})
		}
	}
}

// A server that does not know a command repeats its arguments.
func TestAnErrorOfTheHandshakeDoesNotShowThePassword(t *testing.T) {
	for _, hello := range []string{
		"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hidden' \r\n",
		"-DENIED HELLO 3 AUTH default hidden\r\n",
	} {
		server := func() *fake {
			return &fake{
				hello: func(*peer, []string) string { return hello },
				command: func(_ *peer, args []string) (string, bool) {
					return "-ERR unknown command 'AUTH', with args beginning with: '" + args[1] + "' \r\n", args[0] == "AUTH"
				},
			}
		}
		var told []error
		o := redis.Options{Password: "hidden", OnState: func(_ bool, err error) { told = append(told, err) }}
		law(t, server, o, func(t *testing.T, l *eventloop.Loop, c *redis.Client, s *fake) {
			c.Get(background(), "k").Then(func(_ string, err error) { told = append(told, err) })
			l.OnExit(func() {
				for _, err := range told {
					if err == nil || strings.Contains(err.Error(), "hidden") {
						t.Errorf("got %v, want an error without the password", err)
					}
				}
			})
		})
	}
}

func TestTheServerAsksForAPassword(t *testing.T) {
	s := redistest.Start(t, "--requirepass", "secret")
	checkDescriptors(t)
	for _, v2 := range []bool{false, true} {
		for _, tt := range []struct{ user, password, code string }{
			{"", "secret", ""}, {"default", "secret", ""}, {"", "wrong", "WRONGPASS"}, {"", "", "NOAUTH"},
		} {
			runTask(t, func(task *eventloop.Task) {
				c, err := redis.New(task.Loop(), patiently(redis.Options{Addr: s.Path, Username: tt.user, Password: tt.password, RESP2: v2}))
				if err != nil {
					t.Fatal(err)
				}
				_, err = c.Ping(task.Context()).Await(task)
				e, ok := errors.AsType[*redis.Error](err)
				if tt.code == "" && err != nil || tt.code != "" && (!ok || e.Code() != tt.code) {
					t.Errorf("%+v, version 2 %v: %v", tt, v2, err)
				}
			})
		}
	}
}

func TestTLS(t *testing.T) {
	redistest.Need(t)
	dir := t.TempDir()
	pool := makeCertificate(t, dir)
	addr, release, err := childserver.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	_, port, _ := net.SplitHostPort(addr)
	file := func(name string) string { return filepath.Join(dir, name) }
	server := redistest.Start(t, "--tls-port", port, "--tls-cert-file", file("cert"), "--tls-key-file", file("key"), "--tls-ca-cert-file", file("cert"), "--tls-auth-clients", "no")
	if err := childserver.Await(server.Cmd, childserver.Listens("tcp", addr)); err != nil {
		t.Fatal(err)
	}
	checkDescriptors(t)
	runTask(t, func(task *eventloop.Task) {
		c, err := redis.New(task.Loop(), patiently(redis.Options{Addr: addr, TLS: &tls.Config{RootCAs: pool}}))
		if err != nil {
			t.Fatal(err)
		}
		big := strings.Repeat("x", 1<<20)
		want(t, task, c.Set(task.Context(), "big", big), done)
		want(t, task, c.Get(task.Context(), "big"), big)

		stranger, err := redis.New(task.Loop(), &redis.Options{Addr: addr, TLS: &tls.Config{}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stranger.Ping(task.Context()).Await(task)
		if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
			t.Errorf("a certificate of an unknown authority: %v", err)
		}
	})
}

// makeCertificate makes a certificate of 127.0.0.1 and a pool that has it.
func makeCertificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "cert"), cert, 0o600),
		os.WriteFile(filepath.Join(dir, "key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600)); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}

func TestAHundredThousandPendingCommandsTakeUnder100MB(t *testing.T) {
	const n = 100_000
	key := func(i int) string { return fmt.Sprintf("key:%032d", i) }
	size := len(fmt.Sprintf("*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key(0)), key(0)))
	arrived := make(chan struct{})
	a, b := net.Pipe()
	go func() { // a server that answers the handshake only
		buf := make([]byte, 4096)
		b.Read(buf)
		io.WriteString(b, "%1\r\n+proto\r\n:3\r\n")
		io.CopyN(io.Discard, b, int64(n*size))
		close(arrived)
		io.Copy(io.Discard, b)
	}()
	err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		c, err := redis.New(l, &redis.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return a, nil }, Timeout: -1})
		if err != nil {
			return err
		}
		before := heap()
		failed := 0
		for i := range n {
			c.Get(background(), key(i)).Then(func(string, error) { failed++ })
		}
		inQueue := heap() - before
		eventloop.Receive(l, arrived, func(struct{}, bool) {
			inFlight := heap() - before
			t.Logf("%d MB in the queue, %d MB in flight", inQueue>>20, inFlight>>20)
			if most := int64(100 << 20); inQueue > most || inFlight > most {
				t.Errorf("%d bytes in the queue, %d in flight", inQueue, inFlight)
			}
			c.Abort()
			c.Get(background(), "k").Ignore()
		})
		l.OnExit(func() {
			if failed != n {
				t.Errorf("%d commands failed, want %d", failed, n)
			}
		})
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestACommandAllocatesTwice(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, too")
	}
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		c.Set(task.Context(), "k", strings.Repeat("x", 64)).Await(task)
		const outstanding, commands = 64, 20_000
		measure := func() float64 {
			left, over := commands, 0
			end, resolve := eventloop.NewFuture[struct{}](task.Loop())
			var got func(string, error)
			got = func(string, error) {
				if left--; left >= 0 {
					c.Get(background(), "k").Then(got)
				} else if over++; over == outstanding {
					resolve(struct{}{}, nil)
				}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range outstanding {
				c.Get(background(), "k").Then(got)
			}
			end.Await(task) // without timers, which allocate the more the longer it takes
			runtime.ReadMemStats(&after)
			return float64(after.Mallocs-before.Mallocs) / (commands + outstanding)
		}
		measure()
		if got := measure(); got > 2.2 { // the future, and the string; some for each turn
			t.Errorf("%.2f allocations for each command, want 2", got)
		}
	})
}

// One turn has the reply, and one the callback and the next command.
func TestACommandAtATimeTakesTwoTurns(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		const commands = 2000
		left := commands
		end, resolve := eventloop.NewFuture[struct{}](task.Loop())
		var got func(string, error)
		got = func(string, error) {
			if left--; left > 0 {
				c.Ping(background()).Then(got)
			} else {
				resolve(struct{}{}, nil)
			}
		}
		c.Ping(task.Context()).Await(task)
		before := c.Loop().Stats().Loop.IterationsTotal
		c.Ping(background()).Then(got)
		end.Await(task) // without timers, which take turns of their own
		if n := c.Loop().Stats().Loop.IterationsTotal - before; float64(n) > 2.5*commands {
			t.Errorf("%d turns for %d commands", n, commands)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	redistest.Need(b)
	s, err := sharedServer()
	if err != nil {
		b.Fatal(err)
	}
	for _, outstanding := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(outstanding), func(b *testing.B) {
			b.ReportAllocs()
			err := eventloop.Run(b.Context(), nil, func(l *eventloop.Loop) error {
				c, err := redis.New(l, &redis.Options{Addr: s.Path})
				if err != nil {
					return err
				}
				left := b.N
				var got func(string, error)
				got = func(string, error) {
					if left--; left >= 0 {
						c.Get(background(), "k").Then(got)
					}
				}
				c.Set(background(), "k", strings.Repeat("x", 64)).Then(func(struct{}, error) {
					for range outstanding {
						got("", nil)
					}
				})
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}
