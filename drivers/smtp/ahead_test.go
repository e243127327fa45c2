package smtp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

func TestWhileMailsWaitEachTakesOneRoundTrip(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		var k counter
		c := newClient(t, l, n, func(o *Options) { o.MaxConns, o.Dial = 1, k.dialer(o.Dial) })
		const mails = 10
		for range mails {
			sent(t, c.Send(t.Context(), mail()), func(Receipt) {
				if c.Pending() > 0 {
					return
				}
				if _, trips := k.get(); trips != 1+1+mails {
					t.Errorf("%d round trips, want EHLO, the first envelope, and %d", trips, mails)
				}
				c.Close()
			})
		}
		replies := reply("250 ok", "250 ok", "354 go")
		script := steps(greet("PIPELINING"), envelope, replies)
		for range mails - 1 { // the next envelope is there before the server answers
			script = steps(script, hi, envelope, reply("250 queued"), replies)
		}
		return n.Script(server, steps(script, hi, reply("250 queued"), bye)...)
	})
}

// outcomes are what the client says of mails.
type outcomes struct{ accepted, uncertain, failed []string }

// note notes the outcome of the mail m.
func (o *outcomes) note(f *eventloop.Future[Receipt], m Mail, then func()) {
	f.Then(func(_ Receipt, err error) {
		switch {
		case err == nil:
			o.accepted = append(o.accepted, m.From)
		case errors.Is(err, ErrUncertain):
			o.uncertain = append(o.uncertain, m.From)
		default:
			o.failed = append(o.failed, m.From)
		}
		then()
	})
}

// check compares what the client says with what the server has.
func (o *outcomes) check(t *testing.T, f *fakeServer) {
	there := make(map[string]int)
	for _, from := range f.mails {
		if there[from]++; there[from] > 1 {
			t.Errorf("%s was delivered twice", from)
		}
	}
	for _, from := range o.accepted {
		if there[from] != 1 {
			t.Errorf("%s was accepted and is not there", from)
		}
	}
	for _, from := range o.failed {
		if there[from] != 0 {
			t.Errorf("%s failed and is there", from)
		}
	}
}

// The connection of three mails is cut at any byte from the server, in each of the
// states of the mails.
func TestOnlyTheMailWhoseEndWasSentIsUncertain(t *testing.T) {
	looptest.Seeds(t, seeds, func(t *testing.T, l *eventloop.Loop) error {
		n := looptest.NewNet(t)
		n.Latency(0, time.Millisecond)
		for k := range 250 {
			if looptest.Rand(t).IntN(8) != 0 {
				continue // the turn of another seed
			}
			addr := fmt.Sprintf("mail%d.example:25", k)
			c := newClient(t, l, n, func(o *Options) { o.Addr, o.MaxConns = addr, 1 })
			f, o := &fakeServer{}, &outcomes{}
			for i := range 3 {
				o.note(c.Send(t.Context(), from(i)), from(i), func() {
					if c.Pending() == 0 {
						c.Close()
					}
				})
			}
			l.OnExit(func() {
				o.check(t, f)
				if len(o.failed) > 0 || len(o.uncertain) > 1 {
					t.Errorf("cut after %d bytes: %+v", k, o)
				}
			})
			serve := []looptest.Step{f.serve}
			if err := n.Script(addr, perConnection(cutAfter(k+1, false, serve), serve)...); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestGivingUpTheNextMailLeavesTheCurrentOneAlone(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.MaxConns = 1 })
		ctx, cancel := context.WithCancelCause(t.Context())
		sent(t, c.Send(t.Context(), mail()), nil)
		next := c.Send(ctx, mail())
		fails(t, next, errGivenUp).Then(func(_ Receipt, err error) {
			if errors.Is(err, ErrUncertain) {
				t.Errorf("%v: nothing of the mail was sent", err)
			}
		})
		sent(t, c.Send(t.Context(), mail()), func(Receipt) { c.Close() })
		l.AfterFunc(10*time.Second, func() { cancel(errGivenUp) })
		first := steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"), hi, envelope,
			[]looptest.Step{looptest.Delay(20 * time.Second)}, reply("250 queued", "250 ok", "250 ok", "354 go"), []looptest.Step{drain})
		return n.Script(server, perConnection(first, steps(greet("PIPELINING"), accept(), bye))...)
	})
}

func TestTheNextMailIsSentOnAnotherSessionWhenThisOneEnds(t *testing.T) {
	begun := steps(greet("PIPELINING"), envelope, reply("250 ok", "250 ok", "354 go"), hi, envelope)
	for name, end := range map[string][]looptest.Step{
		"421":      reply("421 4.3.2 shutting down"),
		"lost":     nil,
		"canceled": {drain},
		"garbage":  steps(reply("what"), []looptest.Step{drain}),
	} {
		t.Run(name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				c := newClient(t, l, n, func(o *Options) { o.MaxConns = 1 })
				ctx, cancel := context.WithCancelCause(t.Context())
				f := c.Send(ctx, mail())
				if name == "421" {
					failsWith(t, f, Error{Command: "DATA", Code: 421, Enhanced: "4.3.2", Text: "shutting down"})
				} else {
					fails(t, f, ErrUncertain)
				}
				sent(t, c.Send(t.Context(), mail()), func(Receipt) { c.Close() })
				if name == "canceled" {
					l.AfterFunc(time.Minute, func() { cancel(errGivenUp) })
				}
				f.Then(func(Receipt, error) { cancel(nil) })
				return n.Script(server, perConnection(steps(begun, end), steps(greet("PIPELINING"), accept(), bye))...)
			})
		})
	}
}

// Mails of all kinds, over one session or a few, some of them canceled, with a server
// that is slow now and then and ends some connections.
func TestMixedMailsArriveOnceOrFail(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		r := looptest.Rand(t)
		f, o := &fakeServer{delay: time.Duration(r.IntN(3)) * time.Millisecond}, &outcomes{}
		c := newClient(t, l, n, func(o *Options) { o.MaxConns, o.MaxMessages = 1+r.IntN(3), 2+r.IntN(5) })
		const mails = 16
		for i := range mails {
			m := from(i)
			switch r.IntN(5) {
			case 0:
				m.Body = bytes.NewBuffer([]byte("x"))
			case 1:
				m.Body = writerTo(text(chunkSize + 10))
			case 2:
				m.Body = []byte("caf\xe9") // the server does not offer 8BITMIME
			case 3:
				m.To = slices.Repeat([]string{"b@y"}, pipelined)
			}
			ctx, cancel := context.WithCancel(t.Context())
			if r.IntN(4) == 0 {
				l.AfterFunc(time.Duration(r.IntN(100))*time.Millisecond, cancel)
			}
			o.note(c.Send(ctx, m), m, func() {
				cancel()
				if c.Pending() == 0 {
					c.Close()
				}
			})
		}
		l.OnExit(func() {
			o.check(t, f)
			if n := len(o.accepted) + len(o.uncertain) + len(o.failed); n != mails {
				t.Errorf("%d of %d mails are settled", n, mails)
			}
		})
		sometimes := looptest.Step(func(c net.Conn, in *bufio.Reader) error {
			if strings.HasSuffix(c.RemoteAddr().String(), "3") { // one in ten
				return follow(c, in, cutAfter(100, true, []looptest.Step{f.serve}))
			}
			return f.serve(c, in)
		})
		return n.Script(server, sometimes)
	})
}
