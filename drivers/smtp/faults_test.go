package smtp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// perConnection takes the first connection through the first list, the second through
// the second list and so on; further ones get the last list.
func perConnection(lists ...[]looptest.Step) []looptest.Step {
	var mu sync.Mutex
	connections := 0
	return []looptest.Step{func(c net.Conn, in *bufio.Reader) error {
		mu.Lock()
		list := lists[min(connections, len(lists)-1)]
		connections++
		mu.Unlock()
		return follow(c, in, list)
	}}
}

// follow takes c through list.
func follow(c net.Conn, in *bufio.Reader, list []looptest.Step) error {
	for i, step := range list {
		if err := step(c, in); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

// cutAfter takes the connection through list until n bytes were sent. It sends no more,
// and closes the connection, with a reset if reset is set.
func cutAfter(n int, reset bool, list []looptest.Step) []looptest.Step {
	return []looptest.Step{func(c net.Conn, in *bufio.Reader) error {
		left := n
		if left == 0 {
			list = nil
		}
		err := follow(&cutConn{Conn: c, left: &left}, in, list)
		if reset {
			c.(interface{ SetLinger(int) error }).SetLinger(0)
		}
		c.Close()
		if left == 0 {
			err = nil
		}
		return err
	}}
}

// A cutConn writes a number of bytes and then ends.
type cutConn struct {
	net.Conn
	left *int
}

func (c *cutConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p[:min(len(p), *c.left)])
	if *c.left -= n; *c.left == 0 && err == nil {
		err = errors.New("cut off")
	}
	return n, err
}

// sizeOf returns how many bytes the server sends in list.
func sizeOf(list []looptest.Step) int {
	var c sizeConn
	for _, step := range list {
		step(&c, bufio.NewReader(strings.NewReader(""))) // Expect fails and sends nothing
	}
	return c.size
}

type sizeConn struct {
	net.Conn
	size int
}

func (c *sizeConn) Write(p []byte) (int, error) { c.size += len(p); return len(p), nil }

// Until the end of the mail is sent, a lost connection costs nothing: the mail goes over
// another one. After that it is uncertain what became of the mail, until the last byte
// of the reply is there.
func TestAConnectionThatIsCutAtAnyByteOfAReply(t *testing.T) {
	beforeEnd := steps(greet("PIPELINING", "AUTH PLAIN"), say("AUTH PLAIN AHUAcA==", "235 ok"),
		envelope, reply("250 ok", "250 ok", "354 go"))
	all := steps(beforeEnd, hi, reply("250-2.0.0 first", "250 2.0.0 queued"))
	certain, size := sizeOf(beforeEnd), sizeOf(all)
	for _, reset := range []bool{false, true} {
		t.Run(fmt.Sprintf("reset=%v", reset), func(t *testing.T) {
			covered := make([]bool, size+1)
			looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
				n := looptest.NewNet(t)
				n.Latency(0, time.Millisecond)
				for k := range size + 1 {
					if looptest.Rand(t).IntN(8) != 0 {
						continue // the turn of another seed
					}
					covered[k] = true
					addr := fmt.Sprintf("mail%d.example:25", k)
					c := newClient(t, l, n, func(o *Options) { o.Addr, o.Auth, o.PlaintextAuth = addr, Plain("u", "p"), true })
					c.Send(t.Context(), mail()).Then(func(_ Receipt, err error) {
						switch {
						case k < certain || k == size:
							if err != nil {
								t.Errorf("cut after %d of %d bytes: %v", k, size, err)
							}
						case !errors.Is(err, ErrUncertain):
							t.Errorf("cut after %d of %d bytes: got %v, want ErrUncertain", k, size, err)
						}
						c.Close()
					})
					if err := n.Script(addr, perConnection(cutAfter(k, reset, all), steps(all, bye))...); err != nil {
						return err
					}
				}
				return nil
			})
			if k := slices.Index(covered, false); k >= 0 && os.Getenv("LOOPTEST_SEED") == "" {
				t.Errorf("no seed has cut after %d bytes", k)
			}
		})
	}
}

// A session that was idle is often closed by the server, just when the next mail is
// sent.
func TestAMailThatMeetsAClosedSessionIsSentOnAnother(t *testing.T) {
	for _, c := range []struct {
		name string
		end  []looptest.Step
	}{
		{"closed", nil},
		{"reset", cutAfter(0, true, nil)},
		{"421 unasked", reply("421 4.4.2 idle for too long")},
		{"421 to the mail", steps(expect("MAIL *"), reply("421 4.3.2 shutting down"))},
		{"421 to DATA", steps(envelope, reply("250 ok", "250 ok", "421 4.3.2 shutting down"))},
	} {
		t.Run(c.name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				client := newClient(t, l, n, nil)
				delay := looptest.Rand(t).IntN(12)
				sent(t, client.Send(t.Context(), mail()), func(Receipt) {
					l.AfterFunc(time.Duration(delay)*time.Millisecond, func() {
						sent(t, client.Send(t.Context(), mail()), func(Receipt) { client.Close() })
					})
				})
				idle := time.Duration(looptest.Rand(t).IntN(12)) * time.Millisecond
				first := steps(greet("PIPELINING"), accept(), []looptest.Step{looptest.Delay(idle)}, c.end)
				return n.Script(server, perConnection(first, steps(greet("PIPELINING"), accept(), bye))...)
			})
		})
	}
}

func TestAMailIsSentAgainOnceAndNotMore(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, nil)
		fails(t, c.Send(t.Context(), mail()), io.ErrUnexpectedEOF).Then(func(_ Receipt, err error) {
			if errors.Is(err, ErrUncertain) {
				t.Errorf("%v: the end of the mail was never sent", err)
			}
			c.Close()
		})
		lost := steps(greet("PIPELINING"), envelope)
		tooMany := step("a third try", func(net.Conn, *bufio.Reader) error { return errors.New("a third connection") })
		return n.Script(server, perConnection(lost, lost, tooMany)...)
	})
}

// places are the replies of a session with one mail, in order.
var places = [][]looptest.Step{
	reply("220 mail.example ESMTP"),
	hello("PIPELINING"),
	steps(envelope, reply("250 ok", "250 ok", "354 go")),
	steps(hi, reply("250 queued")),
}

// upTo goes through the first places and the commands of the next one.
func upTo(place int) []looptest.Step {
	list := steps(places[:place]...)
	next := [][]looptest.Step{nil, expect("EHLO client.example"), envelope, hi}[place]
	return steps(list, next)
}

func TestGarbageEndsTheConnection(t *testing.T) {
	for place := range places {
		for _, garbage := range []string{"HTTP/1.1 400 Bad Request\r\n", "\x15\x03\x01\x00\x02\x02\x16\n", "\r\n", "250-a\r\n251 b\r\n", "333 what\r\n"} {
			t.Run(fmt.Sprintf("place=%d,%q", place, garbage), func(t *testing.T) {
				protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
					c := newClient(t, l, n, nil)
					f := fails(t, c.Send(t.Context(), mail()), ErrMalformed)
					if place == len(places)-1 {
						fails(t, f, ErrUncertain)
					}
					f.Then(func(Receipt, error) { c.Close() })
					return n.Script(server, steps(upTo(place), []looptest.Step{looptest.Reply(garbage), drain})...)
				})
			})
		}
	}
}

// A positive reply with a code that is not for the command may belong to something else.
func TestAReplyWithACodeOfAnotherCommandEndsTheConnection(t *testing.T) {
	for name, script := range map[string][]looptest.Step{
		"greeting": reply("250 mail.example"),
		"EHLO":     steps(reply("220 mail.example"), say("EHLO client.example", "220 mail.example")),
		"HELO":     steps(reply("220 mail.example"), say("EHLO client.example", "502 what?", "HELO client.example", "220 mail.example")),
		"STARTTLS": steps(greet("STARTTLS"), say("STARTTLS", "250 go")),
		"AUTH":     steps(greet("AUTH PLAIN"), say("AUTH PLAIN AHUAcA==", "250 ok")),
	} {
		t.Run(name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				c := newClient(t, l, n, func(o *Options) {
					o.Security, o.TLS = Opportunistic, trusting()
					o.Auth, o.PlaintextAuth = Plain("u", "p"), true
				})
				fails(t, c.Send(t.Context(), mail()), ErrMalformed).Then(func(_ Receipt, err error) {
					if isTransient(err) {
						t.Errorf("%v is transient", err)
					}
					c.Close()
				})
				return n.Script(server, append(script, drain)...)
			})
		})
	}
}

func TestAReplyWithoutAnEndEndsTheConnection(t *testing.T) {
	for place := range places {
		for _, line := range []string{strings.Repeat("250-more\r\n", 50), strings.Repeat("250 more ", 50)} {
			name := line[:8]
			t.Run(fmt.Sprintf("place=%d,%q", place, name), func(t *testing.T) {
				protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
					c := newClient(t, l, n, func(o *Options) { o.MaxReplyBytes = 2 << 10 })
					n.Window(4 << 10)
					f := fails(t, c.Send(t.Context(), mail()), ErrReplyTooLarge)
					if place == len(places)-1 {
						fails(t, f, ErrUncertain)
					}
					f.Then(func(Receipt, error) { c.Close() })
					endless := step("endless", func(c net.Conn, _ *bufio.Reader) error {
						for { // until the client has enough
							if _, err := io.WriteString(c, line); err != nil {
								return nil
							}
						}
					})
					return n.Script(server, steps(upTo(place), endless)...)
				})
			})
		}
	}
}

// A reply too many must not pass for the reply to a later command in such a way that a
// mail counts as accepted that is not, or the other way round.
func TestAServerThatRepliesTwice(t *testing.T) {
	for place := range places {
		t.Run(fmt.Sprintf("place=%d", place), func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				c := newClient(t, l, n, func(o *Options) { o.MaxConns = 1 })
				var taken []string // by the server
				var told []string
				for i := range 2 {
					from := fmt.Sprintf("a%d@x", i)
					m := mail()
					m.From = from
					c.Send(t.Context(), m).Then(func(_ Receipt, err error) {
						checkOrNil(t, err)
						if err == nil {
							told = append(told, from)
						}
						if c.Pending() == 0 {
							c.Close()
						}
					})
				}
				c.opts.MaxBackoff = time.Millisecond
				l.OnExit(func() {
					if fmt.Sprint(told) != fmt.Sprint(taken) && place < 3 {
						t.Errorf("the client says that %v were accepted, the server has %v", told, taken)
					}
				})
				serve := func(c net.Conn, in *bufio.Reader) error {
					answer := func(at int, lines ...string) {
						for range 1 + b2i(at == place) {
							io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n")
						}
					}
					answer(0, "220 hi")
					var from string
					for {
						line, err := in.ReadString('\n')
						if err != nil {
							return nil
						}
						switch verb, _, _ := strings.Cut(strings.TrimSpace(line), " "); verb {
						case "EHLO":
							answer(1, "250-mail", "250 PIPELINING")
						case "MAIL":
							from, _, _ = strings.Cut(strings.TrimPrefix(line, "MAIL FROM:<"), ">")
							answer(2, "250 ok")
						case "DATA":
							answer(2, "354 go")
							for line != ".\r\n" && err == nil {
								line, err = in.ReadString('\n')
							}
							if err == nil {
								taken = append(taken, from)
							}
							answer(3, "250 queued")
						case "QUIT":
							answer(4, "221 bye")
							return nil
						default:
							answer(2, "250 ok")
						}
					}
				}
				return n.Script(server, serve)
			})
		})
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func checkOrNil(t *testing.T, err error) {
	if err != nil {
		checkOpError(t, err)
	}
}

func TestAServerThatNeverRepliesEndsTheMailWithATimeout(t *testing.T) {
	for place := range places {
		t.Run(fmt.Sprintf("place=%d", place), func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				c := newClient(t, l, n, func(o *Options) { o.QueueTimeout, o.ReplyTimeout = 10*time.Second, time.Minute })
				start := time.Now()
				f := fails(t, c.Send(t.Context(), mail()), eventloop.ErrTimeout, os.ErrDeadlineExceeded)
				f.Then(func(_ Receipt, err error) {
					want := []time.Duration{10 * time.Second, 10 * time.Second, time.Minute, 2 * time.Minute}[place]
					if d := time.Since(start); d < want || d > want+time.Second {
						t.Errorf("after %v, want %v", d, want)
					}
					if errors.Is(err, ErrUncertain) != (place == 3) {
						t.Errorf("place %d: %v", place, err)
					}
					c.Close()
				})
				return n.Script(server, steps(upTo(place), []looptest.Step{drain})...)
			})
		})
	}
}

func TestAServerThatTakesNoneOfALargeMailEndsItWithATimeout(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.ReplyTimeout = time.Minute })
		m := mail()
		m.Body = make([]byte, 2<<20)
		fails(t, c.Send(t.Context(), m), eventloop.ErrTimeout).Then(func(_ Receipt, err error) {
			if errors.Is(err, ErrUncertain) {
				t.Errorf("%v: the end of the mail was never sent", err)
			}
			c.Close()
		})
		return n.Script(server, steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"), []looptest.Step{looptest.Delay(time.Hour)})...)
	})
}

func TestAServerThatRefusesAMailInItsMiddle(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, nil)
		m := mail()
		m.Body = make([]byte, 2<<20)
		c.Send(t.Context(), m).Then(func(_ Receipt, err error) {
			checkOpError(t, err)
			var e *Error
			if errors.As(err, &e) && e.Code != 552 || errors.Is(err, ErrUncertain) {
				t.Errorf("got %v, want 552 or the end of the connection", err)
			}
			c.Close()
		})
		refuse := steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"), []looptest.Step{looptest.ExpectBytes("\x00\x00\x00")}, reply("552 5.3.4 too big"))
		return n.Script(server, refuse...)
	})
}
