package smtp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"reflect"
	"strings"
	"testing"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

func TestAMailIsSentInOnePipelinedTransaction(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		var k counter
		c := newClient(t, l, n, func(o *Options) { o.Dial = k.dialer(o.Dial) })
		const mails = 5
		var script []looptest.Step
		for range mails {
			script = append(script, accept()...)
		}
		err := n.Script(server, steps(greet("PIPELINING", "SIZE 1000"), script, bye)...)
		var send func(i int)
		send = func(i int) {
			if i == mails {
				c.Close()
				return
			}
			sent(t, c.Send(t.Context(), mail()), func(r Receipt) {
				if want := (Receipt{Reply: "queued"}); !reflect.DeepEqual(r, want) {
					t.Errorf("got %+v, want %+v", r, want)
				}
				dials, trips := k.get()
				if want := 1 + 2*(i+1); dials != 1 || trips != want {
					t.Errorf("mail %d: %d connections, %d round trips, want 1 and %d: EHLO and two per mail", i, dials, trips, want)
				}
				send(i + 1)
			})
		}
		send(0)
		return err
	})
}

func TestWithoutPipeliningEachCommandWaitsForItsReply(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		var k counter
		c := newClient(t, l, n, func(o *Options) { o.Dial = k.dialer(o.Dial) })
		sent(t, c.Send(t.Context(), mail("b@y", "c@z")), func(Receipt) {
			if _, trips := k.get(); trips != 1+5 {
				t.Errorf("%d round trips, want 6: EHLO, MAIL, RCPT, RCPT, DATA and the mail", trips)
			}
			c.Close()
		})
		return n.Script(server, steps(greet(),
			say("MAIL FROM:<a@x>", "250 ok", "RCPT TO:<b@y>", "250 ok", "RCPT TO:<c@z>", "251 forwarded", "DATA", "354 go"),
			hi, reply("250 ok"), bye)...)
	})
}

func TestManyRecipientsAreSentInGroups(t *testing.T) {
	const recipients = 3*pipelined + 7
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		var to []string
		script := greet("PIPELINING")
		script = append(script, expect("MAIL FROM:<a@x>")...)
		script = append(script, reply("250 ok")...)
		for i := range recipients {
			addr := fmt.Sprintf("user%d@example.com", i)
			to = append(to, addr)
			script = append(script, expect("RCPT TO:<"+addr+">")...)
			if i%100 == 99 {
				script = append(script, reply("550 5.1.1 no")...)
			} else {
				script = append(script, reply("250 ok")...)
			}
		}
		script = append(script, say("DATA", "354 go")...)
		c := newClient(t, l, n, nil)
		sent(t, c.Send(t.Context(), mail(to...)), func(r Receipt) {
			if len(r.Rejected) != recipients/100 || r.Rejected[0].To != "user99@example.com" {
				t.Errorf("rejected: %v", r.Rejected)
			}
			c.Close()
		})
		return n.Script(server, steps(script, hi, reply("250 ok"), bye)...)
	})
}

func TestPartialAcceptanceIsASuccessWithTheRejectedRecipients(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, nil)
		sent(t, c.Send(t.Context(), mail("b@y", "c@z", "d@z")), func(r Receipt) {
			want := Receipt{Reply: "queued\nas 17", Rejected: []Rejection{
				{To: "b@y", Code: 550, Enhanced: "5.1.1", Text: "no such user"},
				{To: "d@z", Code: 452, Text: "full"},
			}}
			if !reflect.DeepEqual(r, want) {
				t.Errorf("got %+v, want %+v", r, want)
			}
			if r.Rejected[0].Temporary() || !r.Rejected[1].Temporary() {
				t.Error("452 is temporary, 550 is not")
			}
			if got := r.Rejected[0].String(); got != "b@y: 550 5.1.1 no such user" {
				t.Error(got)
			}
			c.Close()
		})
		return n.Script(server, steps(greet("PIPELINING"),
			expect("MAIL FROM:<a@x>", "RCPT TO:<b@y>", "RCPT TO:<c@z>", "RCPT TO:<d@z>", "DATA"),
			reply("250 ok", "550 5.1.1 no such user", "250 ok", "452 full", "354 go"), hi,
			reply("250-2.0.0 queued", "250 2.0.0 as 17"), bye)...)
	})
}

// After a refusal the session goes on, with RSET in the same write as the next mail.
func TestARefusedMailIsAnErrorAndTheSessionGoesOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		script []looptest.Step
		want   Error
	}{
		{"MAIL", steps(envelope, reply("550 5.7.1 not you", "503 MAIL first", "503 RCPT first")),
			Error{Command: "MAIL", Code: 550, Enhanced: "5.7.1", Text: "not you"}},
		{"MAIL, and the server accepts DATA", steps(envelope, reply("452 4.3.1 later", "250 ok", "354 go"), expect("."), reply("554 no")),
			Error{Command: "MAIL", Code: 452, Enhanced: "4.3.1", Text: "later"}},
		{"RCPT", steps(envelope, reply("250 ok", "550 no such user", "554 no recipient")),
			Error{Command: "RCPT", Code: 550, Text: "no such user"}},
		{"RCPT, and the server accepts DATA", steps(envelope, reply("250 ok", "550-no such", "550 user", "354 go"), expect("."), reply("554 no")),
			Error{Command: "RCPT", Code: 550, Text: "no such\nuser"}},
		{"DATA", steps(envelope, reply("250 ok", "250 ok", "451 4.3.0 busy")),
			Error{Command: "DATA", Code: 451, Enhanced: "4.3.0", Text: "busy"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				client := newClient(t, l, n, nil)
				failsWith(t, client.Send(t.Context(), mail()), c.want)
				sent(t, client.Send(t.Context(), mail()), func(Receipt) { client.Close() })
				next := steps(expect("RSET"), envelope, reply("250 ok", "250 ok", "250 ok", "354 go"), hi, reply("250 ok"))
				client.opts.MaxConns = 1
				return n.Script(server, steps(greet("PIPELINING"), c.script, next, bye)...)
			})
		})
	}
}

func TestAMailThatTheServerRefusesAtItsEndIsAnError(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.MaxConns = 1 })
		failsWith(t, c.Send(t.Context(), mail()), Error{Command: "DATA", Code: 554, Enhanced: "5.6.0", Text: "spam"})
		sent(t, c.Send(t.Context(), mail()), func(Receipt) { c.Close() })
		return n.Script(server, steps(greet("PIPELINING"),
			envelope, reply("250 ok", "250 ok", "354 go"), hi, reply("554 5.6.0 spam"), accept(), bye)...)
	})
}

func TestAllRecipientsRefusedIsOneErrorWithAllOfThem(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, nil)
		f := c.Send(t.Context(), mail("b@y", "c@z"))
		failsWith(t, f, Error{Command: "RCPT", Code: 550, Enhanced: "5.1.1", Text: "no"})
		f.Then(func(_ Receipt, err error) {
			var e *Error
			if !errors.As(err, &e) || len(e.Rejected) != 2 || e.Rejected[1] != (Rejection{To: "c@z", Code: 450, Text: "later"}) {
				t.Errorf("got %+v", e)
			}
			if want := "send mail tcp " + server + ": smtp: RCPT: 550 5.1.1 no (and 1 more recipients)"; err.Error() != want {
				t.Errorf("got %q, want %q", err, want)
			}
			c.Close()
		})
		return n.Script(server, steps(greet("PIPELINING"), expect("MAIL *", "RCPT *", "RCPT *", "DATA"),
			reply("250 ok", "550 5.1.1 no", "450 later", "503 no recipients"), bye)...)
	})
}

func TestLMTPHasAReplyForEachRecipient(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.LMTP, o.MaxConns = true, 1 })
		sent(t, c.Send(t.Context(), mail("b@y", "c@y", "d@y", "e@y")), func(r Receipt) {
			want := Receipt{Reply: "stored", Rejected: []Rejection{
				{To: "b@y", Code: 550, Text: "no"}, {To: "c@y", Code: 452, Enhanced: "4.2.2", Text: "quota"},
			}}
			if !reflect.DeepEqual(r, want) {
				t.Errorf("got %+v, want %+v", r, want)
			}
		})
		f := c.Send(t.Context(), mail("b@y", "c@y"))
		failsWith(t, f, Error{Command: "DATA", Code: 452, Text: "quota b"})
		f.Then(func(Receipt, error) { c.Close() })
		return n.Script(server, steps(reply("220 ready"), say("LHLO client.example", "250-mail\r\n250 PIPELINING"),
			expect("MAIL *", "RCPT *", "RCPT *", "RCPT *", "RCPT *", "DATA"),
			reply("250 ok", "550 no", "250 ok", "250 ok", "250 ok", "354 go"), hi,
			reply("452 4.2.2 quota", "250 stored", "250 also stored"),
			expect("MAIL *", "RCPT *", "RCPT *", "DATA"),
			reply("250 ok", "250 ok", "250 ok", "354 go"), hi, reply("452 quota b", "452 quota c"), bye)...)
	})
}

func TestExtensionsAreUsedIfTheServerOffersThem(t *testing.T) {
	eight := Mail{From: "a@x", To: []string{"b@y"}, Body: []byte("caf\xe9\n")}
	intl := Mail{From: "ä@x", To: []string{"b@y"}, Body: []byte("x")}
	dsn := Mail{From: "a@x", To: []string{"b@y"}, Body: []byte("x"), DSN: &DSN{Notify: []string{"SUCCESS", "DELAY"}, Return: "HDRS", EnvelopeID: "id 1"}}
	for _, c := range []struct {
		name, offers string
		m            Mail
		mail, rcpt   string // the commands; "" if the mail must fail
	}{
		{"SIZE", "SIZE", Mail{From: "a@x", To: []string{"b@y"}, Body: []byte(".\nb")}, "MAIL FROM:<a@x> SIZE=6", "RCPT TO:<b@y>"},
		{"a null sender", "SIZE", Mail{To: []string{"b@y"}, Body: []byte("")}, "MAIL FROM:<>", "RCPT TO:<b@y>"},
		{"angle brackets", "SIZE", Mail{From: "<a@x>", To: []string{"<b@y>"}, Body: []byte("")}, "MAIL FROM:<a@x>", "RCPT TO:<b@y>"},
		{"a null sender in angle brackets", "SIZE", Mail{From: "<>", To: []string{"b@y"}, Body: []byte("")}, "MAIL FROM:<>", "RCPT TO:<b@y>"},
		{"8BITMIME", "8BITMIME", eight, "MAIL FROM:<a@x> BODY=8BITMIME", "RCPT TO:<b@y>"},
		{"8BITMIME is not needed", "8BITMIME", Mail{From: "a@x", To: []string{"b@y"}, Body: []byte("x")}, "MAIL FROM:<a@x>", "RCPT TO:<b@y>"},
		{"no 8BITMIME", "SIZE", eight, "", ""},
		{"SMTPUTF8", "SMTPUTF8", intl, "MAIL FROM:<ä@x> SMTPUTF8", "RCPT TO:<b@y>"},
		{"no SMTPUTF8", "8BITMIME", intl, "", ""},
		{"SMTPUTF8 of a header", "SMTPUTF8", Mail{From: "a@x", To: []string{"b@y"}, Body: []byte("x"), UTF8: true}, "MAIL FROM:<a@x> SMTPUTF8", "RCPT TO:<b@y>"},
		{"DSN", "DSN", dsn, "MAIL FROM:<a@x> RET=HDRS ENVID=id+201", "RCPT TO:<b@y> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b@y"},
		{"no DSN", "SIZE", dsn, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				client := newClient(t, l, n, nil)
				f := client.Send(t.Context(), c.m)
				f.Then(func(Receipt, error) { client.Close() })
				if c.mail == "" {
					fails(t, f, errors.ErrUnsupported)
					return n.Script(server, steps(greet(c.offers), bye)...)
				}
				sent(t, f, nil)
				body := []looptest.Step{func(_ net.Conn, in *bufio.Reader) error {
					_, err := io.ReadAll(textproto.NewReader(in).DotReader())
					return err
				}}
				return n.Script(server, steps(greet(c.offers), say(c.mail, "250 ok", c.rcpt, "250 ok", "DATA", "354 go"), body, reply("250 ok"), bye)...)
			})
		})
	}
}

func TestAMailLargerThanTheServerPermitsIsNotSent(t *testing.T) {
	small := Mail{From: "a@x", To: []string{"b@y"}, Body: []byte("12345678\r\n")}
	for _, m := range []Mail{
		{From: "a@x", To: []string{"b@y"}, Body: []byte("123456789\r\n")},
		{From: "a@x", To: []string{"b@y"}, Body: strings.NewReader("12345678\n\n")},
		{From: "a@x", To: []string{"b@y"}, Body: io.MultiReader(strings.NewReader(strings.Repeat("x", chunkSize)), strings.NewReader("y"))},
	} {
		protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
			m := m
			if s, ok := m.Body.(io.Seeker); ok {
				s.Seek(0, io.SeekStart)
			} else if _, ok := m.Body.([]byte); !ok {
				m.Body, m.Size = io.MultiReader(strings.NewReader(strings.Repeat("x", chunkSize)), strings.NewReader("y")), 11
			}
			c := newClient(t, l, n, func(o *Options) { o.MaxConns = 1 })
			fails(t, c.Send(t.Context(), m), ErrTooLarge)
			sent(t, c.Send(t.Context(), small), func(Receipt) { c.Close() })
			return n.Script(server, steps(greet("SIZE 10"), say("MAIL FROM:<a@x> SIZE=10", "250 ok", "RCPT TO:<b@y>", "250 ok", "DATA", "354 go"),
				expect("12345678", "."), reply("250 ok"), bye)...)
		})
	}
}

// What the application changes after Send neither passes unchecked nor gets into another
// mail.
func TestTheEnvelopeIsCopied(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, nil)
		m := mail()
		m.DSN = &DSN{Notify: []string{"NEVER"}, Return: "HDRS", EnvelopeID: "id"}
		sent(t, c.Send(t.Context(), m), func(Receipt) { c.Close() })
		m.To[0] = "c@z>\r\nRSET"
		m.DSN.Notify[0], m.DSN.Return, m.DSN.EnvelopeID = "NEVER\r\nRSET", "FULL\r\nRCPT TO:<c@z>", "other"
		return n.Script(server, steps(greet("DSN"), say(
			"MAIL FROM:<a@x> RET=HDRS ENVID=id", "250 ok", "RCPT TO:<b@y> NOTIFY=NEVER ORCPT=rfc822;b@y", "250 ok", "DATA", "354 go"),
			hi, reply("250 ok"), bye)...)
	})
}

func TestInvalidMailsFailAtOnce(t *testing.T) {
	looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
		c := newClient(t, l, looptest.NewNet(t), nil)
		body := []byte("x")
		for name, m := range map[string]Mail{
			"CR LF in the sender":         {From: "a@x\r\nRSET", To: []string{"b@y"}, Body: body},
			"LF in a recipient":           {From: "a@x", To: []string{"b@y", "c@z\nDATA"}, Body: body},
			"NUL in a recipient":          {From: "a@x", To: []string{"b\x00@y"}, Body: body},
			"a parameter in the sender":   {From: "a@x> SIZE=1", To: []string{"b@y"}, Body: body},
			"a long recipient":            {From: "a@x", To: []string{strings.Repeat("b", 300) + "@y"}, Body: body},
			"a name in the sender":        {From: "A <a@x>", To: []string{"b@y"}, Body: body},
			"brackets in brackets":        {From: "<<a@x>>", To: []string{"b@y"}, Body: body},
			"half a pair of brackets":     {From: "<a@x", To: []string{"b@y"}, Body: body},
			"an empty path":               {From: "a@x", To: []string{"<>"}, Body: body},
			"no recipient":                {From: "a@x", Body: body},
			"an empty recipient":          {From: "a@x", To: []string{""}, Body: body},
			"no body":                     {From: "a@x", To: []string{"b@y"}},
			"a body of another type":      {From: "a@x", To: []string{"b@y"}, Body: "text"},
			"a negative size":             {From: "a@x", To: []string{"b@y"}, Body: body, Size: -1},
			"an injection by envelope ID": {From: "a@x", To: []string{"b@y"}, Body: body, DSN: &DSN{EnvelopeID: "x\r\nQUIT"}},
			"an injection by NOTIFY":      {From: "a@x", To: []string{"b@y"}, Body: body, DSN: &DSN{Notify: []string{"NEVER\r\nQUIT"}}},
			"an injection by RET":         {From: "a@x", To: []string{"b@y"}, Body: body, DSN: &DSN{Return: "FULL\r\nQUIT"}},
		} {
			f := c.Send(t.Context(), m)
			if _, err := f.Result(); err == nil || err == eventloop.ErrPending {
				t.Errorf("%s: got %v", name, err)
			} else {
				checkOpError(t, err)
			}
		}
		if n := c.Pending(); n != 0 {
			t.Errorf("%d mails are pending", n)
		}
		return nil
	})
}
