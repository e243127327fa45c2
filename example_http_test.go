package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/onloop/eventloop"
)

// A server, and a client of it on the same loop. The answer comes from a timer:
// a request may be answered at any time, and nothing waits for it but its client.
func ExampleLoop_ListenHTTP() {
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		hits := 0 // no lock
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			hits++
			text := fmt.Sprintf("hello from %s, request %d", r.Path(), hits)
			l.AfterFunc(time.Millisecond, func() {
				r.Respond(200, eventloop.HTTPHeaders{{Name: "Content-Type", Value: "text/plain"}}, []byte(text))
			})
		}, nil)
		if err != nil {
			return err
		}
		l.HTTP().Get(ctx, "http://"+s.Addr().String()+"/loop").Then(func(res *eventloop.HTTPResponse, err error) {
			s.Close()
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%d %s: %s\n", res.Status, res.Header("Content-Type"), res.Body)
		})
		return nil
	})
	fmt.Println("the loop ended:", err)
	// Output:
	// 200 text/plain: hello from /loop, request 1
	// the loop ended: <nil>
}

// A listener of any kind will do: this one is in memory. Shutdown
// waits for the last answer.
func ExampleLoop_ServeHTTP() {
	ctx := context.Background()
	ln := fasthttputil.NewInmemoryListener()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ServeHTTP(ln, func(r *eventloop.HTTPRequest) {
			r.Respond(200, nil, []byte(r.Method()+" "+r.URI()))
		}, nil)
		if err != nil {
			return err
		}
		client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{
			Proxy: eventloop.NoProxy,
			Dial:  func(context.Context, string, string) (net.Conn, error) { return ln.Dial() },
		})
		client.Get(ctx, "http://in.memory/a?b=c").Then(func(res *eventloop.HTTPResponse, err error) {
			if err == nil {
				fmt.Printf("%s\n", res.Body)
			}
			s.Shutdown(time.Minute).Then(func(_ struct{}, err error) { fmt.Println("closed:", err) })
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// GET /a?b=c
	// closed: <nil>
}

// Some routes of a fasthttp server that is there already are moved to a loop:
// their requests share its state, without locks.
func ExampleFastHTTPHandler() {
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		visits := map[string]int{}
		h := eventloop.FastHTTPHandler(l, func(r *eventloop.HTTPRequest) {
			visits[r.Path()]++
			r.Respond(200, nil, fmt.Appendf(nil, "%s: %d", r.Path(), visits[r.Path()]))
		})
		server := &fasthttp.Server{
			Handler: func(fctx *fasthttp.RequestCtx) {
				if string(fctx.Path()) == "/old" {
					fctx.WriteString("as ever")
					return
				}
				h(fctx)
			},
			NoDefaultDate: true,
		}
		client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{
			Proxy: eventloop.NoProxy,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				c, s := net.Pipe()
				go server.ServeConn(s)
				return c, nil
			},
		})
		l.Go(ctx, func(t *eventloop.Task) error {
			for _, path := range []string{"/old", "/new", "/new"} {
				res, err := client.Get(t.Context(), "http://in.memory"+path).Await(t)
				if err != nil {
					return err
				}
				fmt.Printf("%s\n", res.Body)
			}
			return nil
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// as ever
	// /new: 1
	// /new: 2
}

// The same for a server of net/http, or a router for it, whose wildcards are at hand.
func ExampleHTTPHandler() {
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		mux := http.NewServeMux()
		mux.Handle("POST /echo/{name}", eventloop.HTTPHandler(l, func(r *eventloop.HTTPRequest) {
			r.RespondText(200, r.PathValue("name")+": "+string(r.Body()))
		}))
		// ServeHTTP waits for the loop, so it must not be called on it.
		eventloop.Work(ctx, l, func(context.Context) (string, error) {
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, httptest.NewRequest("POST", "/echo/ann", strings.NewReader("hello")))
			return fmt.Sprint(w.Code, " ", w.Body), nil
		}).Then(func(answer string, err error) { fmt.Println(answer, err) })
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// 200 ann: hello <nil>
}

// A handler in the linear style. An error that it returns is a 500 for the client.
func ExampleTaskHandler() {
	ctx := context.Background()
	handle := func(t *eventloop.Task, r *eventloop.HTTPRequest) error {
		size, err := eventloop.Block(t, func(ctx context.Context) (int, error) {
			return len(r.Body()), nil // a database, say
		})
		if err != nil {
			return err
		}
		return r.RespondJSON(200, map[string]int{"size": size})
	}
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", eventloop.TaskHandler(handle), nil)
		if err != nil {
			return err
		}
		l.Go(ctx, func(t *eventloop.Task) error {
			defer s.Close()
			res, err := l.HTTP().Do(t.Context(), "POST", "http://"+s.Addr().String(), &eventloop.HTTPOptions{Body: []byte("hello")}).Await(t)
			if err != nil {
				return err
			}
			fmt.Printf("%d %s\n", res.Status, res.Body)
			return nil
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output: 200 {"size":5}
}

// Server-sent events: a response that goes on. OnAbort runs when the client leaves.
// The client here leaves after the third event.
func ExampleHTTPRequest_RespondStream() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			w, err := r.RespondStream(200, eventloop.HTTPHeaders{{Name: "Content-Type", Value: "text/event-stream"}})
			if err != nil {
				return
			}
			n := 0
			tick := l.Every(time.Millisecond, func() {
				if n++; n <= 3 {
					fmt.Fprintf(w, "data: event %d\n\n", n)
				}
			})
			r.OnAbort(func(error) { // the client is gone
				tick.Stop()
				w.Close()
			})
		}, nil)
		if err != nil {
			return err
		}
		ctx, leave := context.WithCancel(context.Background())
		var text []byte
		l.HTTP().Do(ctx, "GET", "http://"+s.Addr().String(), &eventloop.HTTPOptions{
			OnBody: func(_ *eventloop.HTTPResponse, data []byte) {
				if text = append(text, data...); bytes.Count(text, []byte("\n\n")) == 3 {
					leave()
				}
			},
		}).Then(func(_ *eventloop.HTTPResponse, err error) {
			fmt.Printf("%s", text)
			fmt.Println("canceled:", errors.Is(err, context.Canceled))
			s.Close()
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// data: event 1
	//
	// data: event 2
	//
	// data: event 3
	//
	// canceled: true
}

// Any library that takes an http.Client works over the loop, also in a task.
func ExampleHTTPClient_RoundTripper() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			r.RespondJSON(200, map[string]string{"path": r.Path()})
		}, nil)
		if err != nil {
			return err
		}
		client := &http.Client{Transport: l.HTTP().RoundTripper(), Timeout: 10 * time.Second}
		l.Go(context.Background(), func(t *eventloop.Task) error {
			defer s.Close()
			res, err := client.Get("http://" + s.Addr().String() + "/hello") // suspends the task
			if err != nil {
				return err
			}
			defer res.Body.Close()
			var answer struct{ Path string }
			err = json.NewDecoder(res.Body).Decode(&answer)
			fmt.Println(answer.Path, err)
			return err
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// /hello <nil>
}

// A transport that needs no network makes a test of code that uses the client.
func ExampleHTTPClientConfig_transport() {
	transport := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		body := "hello from " + req.URL.Host
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, nil
	})
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{Transport: transport})
		client.Get(context.Background(), "http://example.org/").Then(func(res *eventloop.HTTPResponse, err error) {
			if err == nil {
				fmt.Printf("%d %s\n", res.Status, res.Body)
			}
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// 200 hello from example.org
}

type roundTripFunc func(req *http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// A response is judged by its head: what is too long is not read.
func ExampleHTTPOptions_onResponse() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			r.Respond(200, nil, make([]byte, 10<<20))
		}, nil)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		l.HTTP().Do(ctx, "GET", "http://"+s.Addr().String(), &eventloop.HTTPOptions{
			OnResponse: func(res *eventloop.HTTPResponse) {
				fmt.Println(res.Status, res.Header("Content-Length"))
				cancel(errors.New("too long"))
			},
		}).Then(func(_ *eventloop.HTTPResponse, err error) {
			fmt.Println(context.Cause(ctx))
			s.Close()
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// 200 10485760
	// too long
}

// Requests are sent at once and wait for each other as futures do.
func ExampleLoop_HTTP() {
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			r.Respond(200, nil, []byte(r.Path()))
		}, nil)
		if err != nil {
			return err
		}
		base := "http://" + s.Addr().String()
		a, b := l.HTTP().Get(ctx, base+"/a"), l.HTTP().Get(ctx, base+"/b")
		eventloop.All(l, a, b).Then(func(all []*eventloop.HTTPResponse, err error) {
			for _, res := range all {
				fmt.Printf("%d %s\n", res.Status, res.Body)
			}
			s.Close()
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// 200 /a
	// 200 /b
}

// In a task, requests are made one after the other. An answer of any status is a
// result; the future fails if there was none.
func ExampleHTTPClient_Do() {
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			switch {
			case r.Path() == "/slow": // is never answered
			case r.Method() != "POST":
				r.Respond(405, eventloop.HTTPHeaders{{Name: "Allow", Value: "POST"}}, nil)
			default:
				r.Respond(201, nil, append([]byte("stored: "), r.Body()...))
			}
		}, nil)
		if err != nil {
			return err
		}
		base := "http://" + s.Addr().String()
		l.Go(ctx, func(t *eventloop.Task) error {
			defer func() { s.Shutdown(0).Then(nil) }() // cuts off the request to /slow
			res, err := l.HTTP().Do(t.Context(), "POST", base+"/notes", &eventloop.HTTPOptions{
				Headers: eventloop.HTTPHeaders{{Name: "Content-Type", Value: "text/plain"}},
				Body:    []byte("milk"),
			}).Await(t)
			if err != nil {
				return err
			}
			fmt.Printf("%d %s\n", res.Status, res.Body)
			if res, err = l.HTTP().Get(t.Context(), base+"/notes").Await(t); err != nil {
				return err
			}
			fmt.Println(res.Status, res.Header("Allow"), res.Reused)
			_, err = l.HTTP().Do(t.Context(), "GET", base+"/slow", &eventloop.HTTPOptions{
				Timeout: 10 * time.Millisecond,
			}).Await(t)
			fmt.Println(errors.Is(err, eventloop.ErrHTTP), errors.Is(err, eventloop.ErrTimeout))
			return nil
		})
		return nil
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// 201 stored: milk
	// 405 POST true
	// true true
}

// What a request says of itself.
func ExampleHTTPRequest() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			fmt.Println(r.Method(), r.Path(), r.Query(), r.Host())
			for _, h := range r.Headers() {
				fmt.Println(h.Name, h.Value)
			}
			r.Respond(204, nil, nil)
		}, nil)
		if err != nil {
			return err
		}
		l.HTTP().Do(ctx, "DELETE", "http://"+s.Addr().String()+"/users/7?hard", &eventloop.HTTPOptions{
			Host: "example.org",
		}).Then(func(res *eventloop.HTTPResponse, err error) { s.Close() })
		return nil
	})
	// Output:
	// DELETE /users/7 hard example.org
	// Host example.org
	// User-Agent eventloop
}

// An http.ServeMux on the port of a loop: what is below /debug/ is for net/http, and the
// rest for callbacks.
func ExampleHTTPRequest_ServeHTTP() {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/{what}", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Millisecond) // may block: it does not run on the loop
		fmt.Fprintln(w, "net/http shows", r.PathValue("what"))
	})
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			if strings.HasPrefix(r.Path(), "/debug/") {
				r.ServeHTTP(mux)
				return
			}
			r.RespondText(200, "the loop answers\n")
		}, nil)
		if err != nil {
			return err
		}
		url := "http://" + s.Addr().String()
		eventloop.All(l, l.HTTP().Get(ctx, url), l.HTTP().Get(ctx, url+"/debug/vars")).Then(func(all []*eventloop.HTTPResponse, err error) {
			for _, res := range all {
				fmt.Print(string(res.Body))
			}
			s.Close()
		})
		return nil
	})
	// Output:
	// the loop answers
	// net/http shows vars
}

func ExampleHTTPRequest_BasicAuth() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			name, password, _ := r.BasicAuth()
			if subtle.ConstantTimeCompare([]byte(password), []byte("sesame")) == 0 {
				r.Respond(401, eventloop.HTTPHeaders{{Name: "WWW-Authenticate", Value: "Basic"}}, nil)
				return
			}
			theme, _ := r.Cookie("theme")
			r.RespondText(200, fmt.Sprintf("%s likes %s, one of %d cookies", name, theme, len(r.Cookies())))
		}, nil)
		if err != nil {
			return err
		}
		l.HTTP().Do(ctx, "GET", "http://ali:sesame@"+s.Addr().String(), &eventloop.HTTPOptions{
			Headers: eventloop.HTTPHeaders{{Name: "Cookie", Value: "theme=dark; lang=en"}},
		}).Then(func(res *eventloop.HTTPResponse, err error) {
			s.Close()
			if err == nil {
				fmt.Println(res.Status, string(res.Body))
			}
		})
		return nil
	})
	// Output: 200 ali likes dark, one of 2 cookies
}

// Whatever the environment says, this client uses no proxy.
func ExampleNoProxy() {
	ctx := context.Background()
	eventloop.Run(ctx, &eventloop.Config{
		HTTPClient: &eventloop.HTTPClientConfig{Proxy: eventloop.NoProxy},
	}, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) { r.RespondText(200, "direct") }, nil)
		if err != nil {
			return err
		}
		l.HTTP().Get(ctx, "http://"+s.Addr().String()).Then(func(res *eventloop.HTTPResponse, err error) {
			s.Close()
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%s\n", res.Body)
		})
		return nil
	})
	// Output: direct
}

// A client with settings of its own.
func ExampleNewHTTPClient() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			r.RespondText(200, r.Header("User-Agent"))
		}, nil)
		if err != nil {
			return err
		}
		client := eventloop.NewHTTPClient(l, &eventloop.HTTPClientConfig{
			Timeout:   10 * time.Second,
			UserAgent: "example/1",
		})
		client.Get(ctx, "http://"+s.Addr().String()).Then(func(res *eventloop.HTTPResponse, err error) {
			client.CloseIdle() // or the connection is kept for the next request
			s.Close()
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%s\n", res.Body)
		})
		return nil
	})
	// Output: example/1
}

func ExampleHTTPHeaders() {
	var h eventloop.HTTPHeaders
	h.Add("Vary", "Accept")
	h.Add("vary", "Cookie")
	h.Set("Content-Type", "text/html")
	fmt.Println(h.Get("VARY"), h.Values("Vary"))
	h.Del("Vary")
	fmt.Println(h)
	// Output:
	// Accept [Accept Cookie]
	// [{Content-Type text/html}]
}

// A form, and the values of the query.
func ExampleHTTPRequest_FormValues() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			form, err := r.FormValues()
			if err != nil {
				r.RespondText(400, err.Error())
				return
			}
			r.RespondJSON(200, map[string]string{"page": r.QueryValues().Get("page"), "name": form.Get("name")})
		}, nil)
		if err != nil {
			return err
		}
		l.HTTP().Do(ctx, "POST", "http://"+s.Addr().String()+"/users?page=2", &eventloop.HTTPOptions{
			Headers: eventloop.HTTPHeaders{{Name: "Content-Type", Value: "application/x-www-form-urlencoded"}},
			Body:    []byte("name=ann+lee"),
		}).Then(func(res *eventloop.HTTPResponse, err error) {
			s.Close()
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%d %s\n", res.Status, res.Body)
		})
		return nil
	})
	// Output: 200 {"name":"ann lee","page":"2"}
}

// What package fasthttp can parse: cookies, for example.
func ExampleHTTPRequest_FastHTTP() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			r.Respond(200, nil, r.FastHTTP().Header.Cookie("session"))
		}, nil)
		if err != nil {
			return err
		}
		l.HTTP().Do(ctx, "GET", "http://"+s.Addr().String(), &eventloop.HTTPOptions{
			Headers: eventloop.HTTPHeaders{{Name: "Cookie", Value: "theme=dark; session=7"}},
		}).Then(func(res *eventloop.HTTPResponse, err error) {
			s.Close()
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%s\n", res.Body)
		})
		return nil
	})
	// Output: 7
}

// An upload that is taken as it arrives, no faster than it can be stored.
func ExampleHTTPRequest_OnBody() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			n := 0
			r.OnBody(func(p []byte) {
				n += len(p)
				r.PauseReading()
				l.AfterFunc(time.Millisecond, r.ResumeReading) // when the piece is stored
			}, func(err error) {
				if err != nil {
					return // the client is gone, or too slow
				}
				r.RespondText(200, fmt.Sprintf("stream: %t, %d bytes for %s", r.HasBodyStream(), n, r.Path()))
			})
		}, &eventloop.HTTPServerConfig{MaxInlineBody: 1000, MaxBodyBytes: 1 << 20})
		if err != nil {
			return err
		}
		l.HTTP().Do(ctx, "PUT", "http://"+s.Addr().String()+"/backup", &eventloop.HTTPOptions{
			Body: make([]byte, 100_000),
		}).Then(func(res *eventloop.HTTPResponse, err error) {
			s.Close()
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%s\n", res.Body)
		})
		return nil
	})
	// Output: stream: true, 100000 bytes for /backup
}

// A response of any length, made as fast as the client takes it.
func ExampleHTTPResponseWriter_OnDrain() {
	ctx := context.Background()
	eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			w, err := r.RespondStream(200, nil)
			if err != nil {
				return
			}
			block, left := make([]byte, 1000), 1000 // blocks
			w.OnDrain(func() {
				for ; left > 0 && !w.NeedDrain(); left-- {
					w.Write(block)
				}
				if left == 0 {
					w.Close()
				}
			})
			w.Flush() // the header, at once
		}, nil)
		if err != nil {
			return err
		}
		l.HTTP().Get(ctx, "http://"+s.Addr().String()).Then(func(res *eventloop.HTTPResponse, err error) {
			s.Close()
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(len(res.Body), "bytes")
		})
		return nil
	})
	// Output: 1000000 bytes
}

// A protocol of its own on the connection of a request.
func ExampleHTTPRequest_Upgrade() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) {
			_, err := r.Upgrade(eventloop.HTTPHeaders{{Name: "Upgrade", Value: "shout"}}, &eventloop.ConnConfig{
				OnData: func(c *eventloop.Conn, data []byte) { c.Write(bytes.ToUpper(data)) },
			})
			if err != nil {
				r.RespondText(400, err.Error())
			}
		}, nil)
		if err != nil {
			return err
		}
		l.Go(context.Background(), func(t *eventloop.Task) error {
			defer s.Close()
			c, err := l.Dial(t.Context(), "tcp", s.Addr().String(), nil)
			if err != nil {
				return err
			}
			defer c.Close()
			c.WriteString("GET / HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
			in := bufio.NewReader(c.NetConn(t))
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				return err
			}
			fmt.Println(res.Status)
			c.WriteString("hello\n")
			line, err := in.ReadString('\n')
			fmt.Print(line)
			return err
		})
		return nil
	})
	// Output:
	// 101 Switching Protocols
	// HELLO
}
