package eventloop_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/onloop/eventloop"
)

// An echo server and its client live on one loop. The loop ends by itself when
// nothing is left: the listener is closed, and both ends of the connection are.
func Example() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) { c.Write(data) },
		})
		if err != nil {
			return err
		}
		c, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) {
				fmt.Printf("%s\n", data)
				c.Close()
				ln.Close()
			},
		})
		if err != nil {
			return err
		}
		c.WriteString("hello, loop") // sent when the connection is up
		return nil
	})
	fmt.Println("the loop ended:", err)
	// Output:
	// hello, loop
	// the loop ended: <nil>
}

func ExampleRun() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.AfterFunc(2*time.Millisecond, func() { fmt.Println("and goodbye") })
		fmt.Println("hello")
		return nil
	})
	fmt.Println(err)
	// Output:
	// hello
	// and goodbye
	// <nil>
}

func ExampleNew() {
	l := eventloop.New(&eventloop.Config{Name: "worker"})
	l.Post(func() { fmt.Println("posted before Run, called by Run") })
	err := l.Run(context.Background()) // this goroutine is the dispatcher now
	fmt.Println(err)
	fmt.Println(l.Post(func() {}))
	// Output:
	// posted before Run, called by Run
	// <nil>
	// eventloop: loop closed
}

// State that only callbacks touch needs no lock, however many goroutines post.
func ExampleLoop_Post() {
	l := eventloop.New(nil)
	sum := 0
	release := l.Hold() // the goroutines are not known to the loop
	go func() {
		defer release()
		var wg sync.WaitGroup
		for i := 1; i <= 100; i++ {
			wg.Go(func() { l.Post(func() { sum += i }) })
		}
		wg.Wait()
	}()
	l.Run(context.Background())
	fmt.Println(sum)
	// Output: 5050
}

func ExampleLoop_AfterFunc() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.AfterFunc(20*time.Millisecond, func() { fmt.Println("third") })
		l.AfterFunc(10*time.Millisecond, func() { fmt.Println("second") })
		l.AfterFunc(0, func() { fmt.Println("first, in the next turn") })
		never := l.AfterFunc(time.Hour, func() { fmt.Println("never") })
		fmt.Println("stopped:", never.Stop())
		return nil
	})
	// Output:
	// stopped: true
	// first, in the next turn
	// second
	// third
}

func ExampleLoop_Every() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		n := 0
		var tick *eventloop.Timer
		tick = l.Every(time.Millisecond, func() {
			n++
			fmt.Println("tick", n)
			if n == 3 {
				tick.Stop() // nothing keeps the loop alive any more
			}
		})
		return nil
	})
	// Output:
	// tick 1
	// tick 2
	// tick 3
}

func ExampleLoop_Hold() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		release := l.Hold()
		go func() { // a goroutine of the application's own
			answer := 6 * 7
			l.Post(func() { fmt.Println("the loop waited for", answer) })
			release()
		}()
		return nil
	})
	// Output: the loop waited for 42
}

func ExampleLoop_OnExit() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.OnExit(func() { fmt.Println("opened first, closed last") })
		l.OnExit(func() { fmt.Println("opened last, closed first") })
		fmt.Println("running")
		l.Stop() // at every kind of exit
		return nil
	})
	// Output:
	// running
	// opened last, closed first
	// opened first, closed last
}

// Shutdown closes what has no end of its own, and lets the rest finish.
func ExampleLoop_Shutdown() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Every(time.Hour, func() {})
		if _, err := l.Listen("tcp", "127.0.0.1:0", nil); err != nil {
			return err
		}
		l.AfterFunc(time.Millisecond, func() { fmt.Println("one-shots still run") })
		l.Shutdown(10 * time.Second)
		return nil
	})
	fmt.Println("ended:", err)
	// Output:
	// one-shots still run
	// ended: <nil>
}

// What is still open after the grace period is cut off, and named.
func ExampleErrForced() {
	cfg := &eventloop.Config{Logger: slog.New(slog.DiscardHandler)}
	err := eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error { return t.Sleep(time.Hour) })
		l.Shutdown(time.Millisecond)
		return nil
	})
	fmt.Println(errors.Is(err, eventloop.ErrForced))
	fmt.Println(strings.Contains(err.Error(), "ExampleErrForced"), "- the name of the task is in it")
	// Output:
	// true
	// true - the name of the task is in it
}

// An application closes what it knows to be idle.
func ExampleLoop_OnShutdown() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		release := l.Hold() // a connection to a database, say
		l.OnShutdown(func() {
			fmt.Println("closing")
			release()
		})
		l.Shutdown(time.Minute)
		return nil
	})
	fmt.Println("ended:", err)
	// Output:
	// closing
	// ended: <nil>
}

// LogHandles says why a loop does not end.
func ExampleLoop_LogHandles() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == "age" || a.Key == "due" {
				return slog.Attr{} // they differ each time
			}
			return a
		},
	}))
	eventloop.Run(context.Background(), &eventloop.Config{Logger: log}, func(l *eventloop.Loop) error {
		l.AfterFunc(time.Hour, func() {})
		l.LogHandles()
		l.Stop()
		return nil
	})
	// Output:
	// level=INFO msg="open handle" kind=timer name="" ref=true
}

// A server answers, and learns that its client has gone.
func ExampleLoop_Listen() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		var ln *eventloop.Listener
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnData:  func(c *eventloop.Conn, data []byte) { fmt.Fprintf(c, "hello, %s", data) },
			OnEvent: func(c *eventloop.Conn, err error) { fmt.Println("server:", err) },
			OnClose: func(c *eventloop.Conn) { ln.Close() },
		})
		if err != nil {
			return err // the address is in use, say
		}
		c, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) {
				fmt.Printf("client: %s\n", data)
				c.Close()
			},
		})
		if err != nil {
			return err
		}
		c.WriteString("client")
		return nil
	})
	// Output:
	// client: hello, client
	// server: EOF
}

// The life of a connection, from the first callback to the last.
func ExampleLoop_Dial() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		var ln *eventloop.Listener
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) {
				c.WriteString("welcome")
				c.Close() // after it has sent what was written
				ln.Close()
			},
		})
		if err != nil {
			return err
		}
		_, err = l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
			ConnectTimeout: 5 * time.Second,
			OnConnect:      func(c *eventloop.Conn) { fmt.Println("OnConnect") },
			OnData:         func(c *eventloop.Conn, data []byte) { fmt.Printf("OnData %s\n", data) },
			OnEvent:        func(c *eventloop.Conn, err error) { fmt.Println("OnEvent", err) },
			OnClose:        func(c *eventloop.Conn) { fmt.Println("OnClose, because of", c.Err()) },
		})
		return err
	})
	// Output:
	// OnConnect
	// OnData welcome
	// OnEvent EOF
	// OnClose, because of EOF
}

// Dial of the configuration replaces the resolver and the dialer: here it connects
// through a proxy. The dialers of golang.org/x/net/proxy have methods of that shape.
func ExampleConnConfig_dial() {
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer proxy.Close()
	go func() { // a proxy that knows what it will be asked
		nc, err := proxy.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		r := bufio.NewReader(nc)
		line, _ := r.ReadString('\n')
		fmt.Fprintf(nc, "welcome to %s", strings.TrimPrefix(line, "CONNECT "))
		io.Copy(io.Discard, r)
	}()

	throughProxy := func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "tcp", proxy.Addr().String())
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(nc, "CONNECT %s\n", address)
		return nc, nil
	}
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		_, err := l.Dial(context.Background(), "tcp", "server.example:7", &eventloop.ConnConfig{
			Dial: throughProxy,
			OnData: func(c *eventloop.Conn, data []byte) {
				fmt.Printf("%s", data)
				c.Close()
			},
		})
		return err
	})
	// Output: welcome to server.example:7
}

// Any net.Conn can move to a loop: here one end of a pipe, while a goroutine
// goes on using the other end in the blocking way.
func ExampleLoop_Adopt() {
	near, far := net.Pipe()
	go func() {
		fmt.Fprint(far, "ping")
		far.Close()
	}()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		_, err := l.Adopt(near, &eventloop.ConnConfig{
			OnData:  func(c *eventloop.Conn, data []byte) { fmt.Printf("%s\n", data) },
			OnClose: func(c *eventloop.Conn) { fmt.Println("closed") },
		})
		return err
	})
	// Output:
	// ping
	// closed
}

// Serve takes over a listener that an existing service opened.
func ExampleLoop_Serve() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		served, err := l.Serve(ln, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) {
				c.WriteString("served by a loop")
				c.Close()
			},
		})
		if err != nil {
			return err
		}
		go func() { // a client of the blocking world
			defer served.Close()
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				fmt.Println(err)
				return
			}
			defer nc.Close()
			text, err := io.ReadAll(nc)
			fmt.Printf("%s, %v\n", text, err)
		}()
		return nil
	})
	// Output: served by a loop, <nil>
}

// One connection at a time: the others wait until it is closed.
func ExampleListenConfig() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		lc := &eventloop.ListenConfig{MaxConns: 1, Backlog: 16}
		served := 0
		var ln *eventloop.Listener
		ln, err := lc.Listen(l, "tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) {
				fmt.Println("open at once:", l.Stats().Conns.Incoming)
				c.Close()
			},
			OnClose: func(c *eventloop.Conn) {
				if served++; served == 3 {
					ln.Close()
				}
			},
		})
		if err != nil {
			return err
		}
		for range 3 {
			if _, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), nil); err != nil {
				return err
			}
		}
		return nil
	})
	// Output:
	// open at once: 1
	// open at once: 1
	// open at once: 1
}

// A server and a client agree in the clear to go on with TLS, as SMTP does.
func ExampleConn_StartTLS() {
	serverTLS, clientTLS := certificates()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ln, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) {
				if string(data) == "STARTTLS" {
					c.WriteString("go ahead") // still in the clear
					c.StartTLS(serverTLS)
					return
				}
				c.Write(data)
			},
		})
		if err != nil {
			return err
		}
		c, err := l.Dial(context.Background(), "tcp", ln.Addr().String(), &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) {
				fmt.Printf("%s\n", data)
				if _, secret := c.TLS(); secret {
					c.Close()
					ln.Close()
					return
				}
				c.StartTLS(clientTLS).Then(func(_ tls.ConnectionState, err error) {
					fmt.Println("handshake:", err)
				})
				c.WriteString("a secret") // waits for the handshake
			},
		})
		if err != nil {
			return err
		}
		c.WriteString("STARTTLS")
		return nil
	})
	// Output:
	// go ahead
	// handshake: <nil>
	// a secret
}

// certificates returns a server's configuration and that of a client which
// trusts it, made from the test certificate of net/http/httptest.
func certificates() (server, client *tls.Config) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots}
}

// A value for each connection, without a map.
func ExampleDataOf() {
	type session struct{ bytes int }
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		server, client := net.Pipe()
		_, err := l.Adopt(server, &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) {
				eventloop.DataOf[session](c).bytes += len(data)
			},
			OnClose: func(c *eventloop.Conn) {
				fmt.Println(eventloop.DataOf[session](c).bytes, "bytes")
			},
		})
		go func() {
			io.WriteString(client, "hello, ")
			io.WriteString(client, "loop")
			client.Close()
		}()
		return err
	})
	// Output: 11 bytes
}

// A proxy connects each client to the server behind it. Each Pipe reads no faster than
// the other side takes the data.
func ExampleConn_Pipe() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		behind, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) { fmt.Fprintf(c, "echo of %s", data) },
		})
		if err != nil {
			return err
		}
		proxy, err := l.Listen("tcp", "127.0.0.1:0", &eventloop.ConnConfig{
			AllowHalfOpen: true,
			OnConnect: func(c *eventloop.Conn) {
				up, err := l.Dial(ctx, "tcp", behind.Addr().String(), &eventloop.ConnConfig{AllowHalfOpen: true})
				if err != nil {
					c.Abort()
					return
				}
				c.Pipe(up)
				up.Pipe(c).Then(func(n int64, err error) { fmt.Println(n, "bytes back,", err) })
			},
		})
		if err != nil {
			return err
		}
		c, err := l.Dial(ctx, "tcp", proxy.Addr().String(), &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) {
				fmt.Printf("%s\n", data)
				c.CloseWrite()
				proxy.Close()
				behind.Close()
			},
		})
		if err != nil {
			return err
		}
		c.WriteString("a question")
		return nil
	})
	// Output:
	// echo of a question
	// 18 bytes back, <nil>
}

// Detach gives a connection back to the blocking world, with what it had read.
func ExampleConn_Detach() {
	near, far := net.Pipe()
	go func() {
		fmt.Fprint(far, "HELLO") // for the loop
		fmt.Fprint(far, "WORLD") // for the next reader
		far.Close()
	}()
	var rest net.Conn
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		_, err := l.Adopt(near, &eventloop.ConnConfig{
			OnData: func(c *eventloop.Conn, data []byte) {
				fmt.Printf("on the loop: %s\n", data)
				c.Detach().Then(func(nc net.Conn, err error) { rest = nc })
			},
		})
		return err
	})
	text, err := io.ReadAll(rest)
	fmt.Printf("after it: %s, %v\n", text, err)
	rest.Close()
	// Output:
	// on the loop: HELLO
	// after it: WORLD, <nil>
}

// NewFuture is for asynchronous functions of one's own.
func ExampleNewFuture() {
	double := func(l *eventloop.Loop, n int) *eventloop.Future[int] {
		f, resolve := eventloop.NewFuture[int](l)
		l.AfterFunc(time.Millisecond, func() { resolve(2*n, nil) })
		return f
	}
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		double(l, 21).Then(func(n int, err error) { fmt.Println(n, err) })
		return nil
	})
	// Output: 42 <nil>
}

// Wait is for goroutines other than the loop's.
func ExampleFuture_Wait() {
	l := eventloop.New(nil)
	f, resolve := eventloop.NewFuture[string](l)
	l.AfterFunc(time.Millisecond, func() { resolve("from the loop", nil) })
	go l.Run(context.Background())

	s, err := f.Wait(context.Background())
	fmt.Println(s, err)
	<-l.Done()
	// Output: from the loop <nil>
}

// after returns a future of v, or of err, in d.
func after[T any](l *eventloop.Loop, d time.Duration, v T, err error) *eventloop.Future[T] {
	f, resolve := eventloop.NewFuture[T](l)
	l.AfterFunc(d, func() { resolve(v, err) })
	return f
}

func ExampleAll() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		slow := after(l, 2*time.Millisecond, "slow", nil)
		fast := after(l, time.Millisecond, "fast", nil)
		eventloop.All(l, slow, fast).Then(func(all []string, err error) { fmt.Println(all, err) })
		return nil
	})
	// Output: [slow fast] <nil>
}

func ExampleAny() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		broken := after(l, time.Millisecond, "", errors.New("no such mirror"))
		works := after(l, 2*time.Millisecond, "mirror 2", nil)
		eventloop.Any(l, broken, works).Then(func(s string, err error) { fmt.Println(s, err) })
		return nil
	})
	// Output: mirror 2 <nil>
}

func ExampleRace() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		work := after(l, time.Hour, "done", nil)
		limit := after(l, time.Millisecond, "", errors.New("took too long"))
		eventloop.Race(l, work, limit).Then(func(s string, err error) {
			fmt.Println(err)
			l.Stop() // or the loop would wait for the work
		})
		return nil
	})
	// Output: took too long
}

// Two loops serve one port, for callbacks that are more than one core can run.
func ExampleGroup() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ln.Close()
	g := eventloop.NewGroup(2, &eventloop.Config{Name: "web"})
	go func() {
		defer g.Shutdown(-1)
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			fmt.Println(err)
			return
		}
		defer nc.Close()
		text, err := io.ReadAll(nc)
		fmt.Printf("%s, %v\n", text, err)
	}()
	err = g.Run(context.Background(), func(l *eventloop.Loop) error {
		lc := &eventloop.ListenConfig{Shared: true} // each loop on a duplicate
		_, err := lc.Serve(l, ln, &eventloop.ConnConfig{
			OnConnect: func(c *eventloop.Conn) {
				c.WriteString("hello from one of two loops")
				c.Close()
			},
		})
		return err
	})
	fmt.Println(err)
	// Output:
	// hello from one of two loops, <nil>
	// <nil>
}

// A lookup keeps the loop alive until it is answered. Here no server is asked:
// localhost is always this machine.
func ExampleLoop_LookupNetIP() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		l.LookupNetIP(ctx, "ip4", "localhost").Then(func(addrs []netip.Addr, err error) {
			fmt.Println(addrs, err)
		})
		l.LookupNetIP(ctx, "ip", "no such name").Then(func(_ []netip.Addr, err error) {
			fmt.Println(errors.Is(err, eventloop.ErrDNS))
		})
		return nil
	})
	// Unordered output:
	// [127.0.0.1] <nil>
	// true
}

func ExampleLoop_LookupAddr() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	hosts := filepath.Join(dir, "hosts")
	if err := os.WriteFile(hosts, []byte("192.0.2.7 printer.example\n"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	cfg := &eventloop.Config{Resolver: &eventloop.ResolverConfig{HostsFile: hosts}}
	eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
		l.LookupAddr(context.Background(), netip.MustParseAddr("192.0.2.7")).Then(func(names []string, err error) {
			fmt.Println(names, err)
		})
		return nil
	})
	// Output: [printer.example.] <nil>
}

// Query asks for records of any type: here from a server of our own, which
// knows one mail exchange.
func ExampleLoop_Query() {
	near, far := net.Pipe() // in place of a connection to a name server
	go func() {
		server := &dns.Conn{Conn: far}
		question, err := server.ReadMsg()
		if err != nil {
			return
		}
		mx, _ := dns.NewRR("example.org. 300 IN MX 10 mail.example.org.")
		answer := new(dns.Msg).SetReply(question)
		answer.Answer = []dns.RR{mx}
		server.WriteMsg(answer)
	}()
	cfg := &eventloop.Config{Resolver: &eventloop.ResolverConfig{
		Servers: []string{"192.0.2.1"},
		UseTCP:  true,
		Dial:    func(context.Context, string, string) (net.Conn, error) { return near, nil },
	}}
	eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
		l.Query(context.Background(), "example.org", dns.TypeMX).Then(func(m *dns.Msg, err error) {
			if err != nil {
				fmt.Println(err)
				return
			}
			for _, rr := range m.Answer {
				fmt.Println(rr.(*dns.MX).Mx)
			}
		})
		return nil
	})
	// Output: mail.example.org.
}

// A task is linear code that shares the loop's state with callbacks.
func ExampleLoop_Go() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ticks := 0
		l.Every(time.Millisecond, func() { ticks++ }).Unref()
		l.Go(context.Background(), func(t *eventloop.Task) error {
			for ticks < 3 {
				if err := t.Sleep(time.Millisecond); err != nil { // the loop goes on
					return err
				}
			}
			fmt.Println("three ticks")
			return nil
		})
		return nil
	})
	fmt.Println(err)
	// Output:
	// three ticks
	// <nil>
}

func ExampleFuture_Await() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			a, err := after(l, time.Millisecond, 40, nil).Await(t)
			if err != nil {
				return err
			}
			b, err := after(l, time.Millisecond, 2, nil).Await(t)
			fmt.Println(a+b, err)
			return err
		})
		return nil
	})
	// Output: 42 <nil>
}

// Code over io.Reader and io.Writer works unchanged in a task.
func ExampleConn_NetConn() {
	near, far := net.Pipe()
	go func() { // any program that speaks in lines
		fmt.Fprint(far, "one\ntwo\nthree\n")
		far.Close()
	}()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := l.Adopt(near, nil)
		if err != nil {
			return err
		}
		l.Go(context.Background(), func(t *eventloop.Task) error {
			lines := bufio.NewScanner(c.NetConn(t))
			for lines.Scan() { // suspends the task, never the loop
				fmt.Println(lines.Text())
			}
			return lines.Err()
		})
		return nil
	})
	// Output:
	// one
	// two
	// three
}

// The tasks of a group end together.
func ExampleTask_Group() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			g := t.Group()
			g.Go(func(t *eventloop.Task) error { return t.Sleep(time.Hour) })
			g.Go(func(t *eventloop.Task) error { return errors.New("out of paper") })
			fmt.Println(g.Wait())
			return nil
		})
		return nil
	})
	// Output: out of paper
}

// Code that blocks runs beside the loop, and its result comes back to it.
func ExampleWork() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		eventloop.Work(context.Background(), l, func(ctx context.Context) (int, error) {
			return 6 * 7, nil // a query, a file, a computation
		}).Then(func(n int, err error) { fmt.Println(n, err) })
		return nil
	})
	// Output: 42 <nil>
}

// A goroutine asks something of state that belongs to the loop.
func ExampleCall() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		members := []string{"ada", "grace"}
		release := l.Hold()
		go func() {
			defer release()
			n, err := eventloop.Call(ctx, l, func() (int, error) { return len(members), nil })
			fmt.Println(n, err)
		}()
		return nil
	})
	// Output: 2 <nil>
}

// A channel as a handle: the loop lives until it is closed.
func ExampleReceive() {
	words := make(chan string)
	go func() {
		defer close(words)
		words <- "hello"
		words <- "channel"
	}()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		eventloop.Receive(l, words, func(word string, ok bool) { fmt.Printf("%q %v\n", word, ok) })
		return nil
	})
	// Output:
	// "hello" true
	// "channel" true
	// "" false
}

// Send never blocks the loop, however slow the receiver is.
func ExampleSendTo() {
	results := make(chan int)
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		for n := range results {
			fmt.Println(n)
		}
	}()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		s := eventloop.SendTo(l, results)
		for n := range 3 {
			s.Send(n)
		}
		return nil // the loop lives until they are taken
	})
	close(results)
	<-printed
	// Output:
	// 0
	// 1
	// 2
}

func ExampleLoop_Stats() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		near, far := net.Pipe()
		if _, err := l.Adopt(near, nil); err != nil {
			return err
		}
		c, err := l.Adopt(far, &eventloop.ConnConfig{
			OnDrain: func(c *eventloop.Conn) {
				s := l.Stats()
				fmt.Println("connections:", s.Conns.Incoming)
				fmt.Println("timers:", s.Loop.Timers)
				fmt.Println("bytes out:", s.Conns.BytesOutTotal)
				l.Stop()
			},
		})
		if err != nil {
			return err
		}
		l.AfterFunc(time.Hour, func() {})
		c.WriteString("twelve bytes")
		return nil
	})
	// Output:
	// connections: 2
	// timers: 1
	// bytes out: 12
}

// Handles answers the question why a loop does not end.
func ExampleLoop_Handles() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		if _, err := l.Listen("tcp", "127.0.0.1:0", nil); err != nil {
			return err
		}
		l.Every(time.Minute, func() {}).Unref() // statistics, say
		for h := range l.Handles() {
			fmt.Println(h.Kind, h.Ref)
		}
		l.Stop()
		return nil
	})
	// Output:
	// listener true
	// interval false
}

// Errors are matched with errors.Is; an OpError tells the details.
func ExampleOpError() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		_, err := l.Dial(context.Background(), "tcp", "127.0.0.1:1", &eventloop.ConnConfig{
			OnEvent: func(c *eventloop.Conn, err error) {
				fmt.Println("refused:", errors.Is(err, eventloop.ErrRefused))
				fmt.Println("timeout:", errors.Is(err, eventloop.ErrTimeout))
				if oe, ok := errors.AsType[*eventloop.OpError](err); ok {
					fmt.Println("while:", oe.Op, oe.Net, oe.Addr)
				}
			},
		})
		return err
	})
	// Output:
	// refused: true
	// timeout: false
	// while: dial tcp 127.0.0.1:1
}

// With CatchPanics, a panic in a callback is one more event.
func ExampleConfig_catchPanics() {
	cfg := &eventloop.Config{
		CatchPanics: true,
		EventHandler: func(err error) {
			if pe, ok := errors.AsType[*eventloop.PanicError](err); ok {
				fmt.Println("caught:", pe.Value)
			}
		},
	}
	eventloop.Run(context.Background(), cfg, func(l *eventloop.Loop) error {
		l.AfterFunc(0, func() { panic("oh no") })
		l.AfterFunc(time.Millisecond, func() { fmt.Println("the loop goes on") })
		return nil
	})
	// Output:
	// caught: oh no
	// the loop goes on
}

// By default a panic closes everything that the loop has, and leaves Run.
func ExamplePanicError() {
	defer func() {
		pe := recover().(*eventloop.PanicError)
		fmt.Println("out of Run:", pe.Value)
	}()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.OnExit(func() { fmt.Println("closed in good order") })
		l.Post(func() { panic("oh no") })
		return nil
	})
	// Output:
	// closed in good order
	// out of Run: oh no
}
