package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/smtp"
)

// onAll runs f with each server.
func onAll(t *testing.T, f func(t *testing.T, s *testServer)) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) { f(t, start(t)) })
	}
}

// run runs f with a client for s, which it closes when f's mails are settled.
func run(t *testing.T, o *smtp.Options, f func(t *testing.T, l *eventloop.Loop, c *smtp.Client)) {
	t.Helper()
	err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		c, err := smtp.New(l, o)
		if err != nil {
			return err
		}
		f(t, l, c)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// message returns a message with a subject and a text.
func message(subject, text string) []byte {
	return []byte("From: ann@e2e.example\r\nTo: bob@e2e.example\r\nSubject: " + subject + "\r\n\r\n" + text)
}

// to returns a mail to one recipient.
func to(body any) smtp.Mail {
	return smtp.Mail{From: "ann@e2e.example", To: []string{"bob@e2e.example"}, Body: body}
}

// has waits until a mail with the subject and the text has arrived.
func (s *testServer) has(t *testing.T, subject, text string) {
	t.Helper()
	text = strings.TrimSuffix(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), "\n")
	await(t, "a mail with the subject "+subject, func() bool {
		for _, m := range s.mails(t) {
			m = strings.ReplaceAll(m, "\r\n", "\n")
			// Only the header: a report on the delivery of a mail has that mail in its body.
			header, got, _ := strings.Cut(m, "\n\n")
			if !strings.Contains(header+"\n", "\nSubject: "+subject+"\n") {
				continue
			}
			if strings.TrimRight(got, "\n") != strings.TrimRight(text, "\n") {
				t.Fatalf("%s: got %d bytes, want %d", subject, len(got), len(text))
			}
			return true
		}
		return false
	})
}

// A readerOnly has no method but Read.
type readerOnly struct{ io.Reader }

func TestMailsArriveAsTheyWereSent(t *testing.T) {
	large := strings.Repeat(strings.Repeat("0123456789", 7)+"\r\n", 3<<20/72)
	onAll(t, func(t *testing.T, s *testServer) {
		bodies := map[string]string{
			"short": "Hello.\r\n", "empty": "", "no-end-of-line": "Hello.", "dots": ".\r\n..\r\n.\r\n.a\r\n",
			"LF-alone": "a\n.\nb\n", "eight-bit": "caf\xc3\xa9\r\n", "large": large,
		}
		run(t, s.options(), func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			for name, text := range bodies {
				p := message(name, text)
				for kind, body := range map[string]any{"bytes": p, "buffer": bytes.NewBuffer(slices.Clone(p)), "reader": readerOnly{bytes.NewReader(p)}} {
					if kind != "bytes" {
						p := message(name+"-"+kind, text)
						if kind == "buffer" {
							body = bytes.NewBuffer(p)
						} else {
							body = readerOnly{bytes.NewReader(p)}
						}
					}
					c.Send(t.Context(), to(body)).Then(func(_ smtp.Receipt, err error) {
						if err != nil {
							t.Errorf("%s, %s: %v", name, kind, err)
						}
					})
				}
			}
			c.Close()
		})
		if t.Failed() {
			return
		}
		for name, text := range bodies {
			for _, subject := range []string{name, name + "-buffer", name + "-reader"} {
				s.has(t, subject, text)
			}
		}
	})
}

func TestManyMailsGoOverFewSessions(t *testing.T) {
	const mails = 200
	onAll(t, func(t *testing.T, s *testServer) {
		o := s.options()
		o.MaxMessages = 30
		sent := 0
		run(t, o, func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			for i := range mails {
				c.Send(t.Context(), to(message(fmt.Sprintf("many-%d", i), "x"))).Then(func(_ smtp.Receipt, err error) {
					if err != nil {
						t.Error(err)
					}
					sent++
				})
			}
			c.Close()
		})
		if sent != mails {
			t.Errorf("%d mails were sent", sent)
		}
		await(t, "all mails", func() bool { return len(s.mails(t)) == mails })
		there := strings.Join(s.mails(t), "")
		for i := range mails {
			if n := strings.Count(there, fmt.Sprintf("Subject: many-%d\r\n", i)) + strings.Count(there, fmt.Sprintf("Subject: many-%d\n", i)); n != 1 {
				t.Errorf("mail %d is there %d times", i, n)
			}
		}
	})
}

func TestRefusedRecipientsAreReported(t *testing.T) {
	onAll(t, func(t *testing.T, s *testServer) {
		run(t, s.options(), func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			m := to(message("partial", "x"))
			m.To = append(m.To, "eve@elsewhere.example")
			c.Send(t.Context(), m).Then(func(r smtp.Receipt, err error) {
				if err != nil || len(r.Rejected) != 1 || r.Rejected[0].To != "eve@elsewhere.example" || r.Rejected[0].Code/100 != 5 {
					t.Errorf("got %+v, %v", r, err)
				}
			})
			m = to(message("refused", "x"))
			m.To = []string{"eve@elsewhere.example", "mallory@elsewhere.example"}
			c.Send(t.Context(), m).Then(func(_ smtp.Receipt, err error) {
				var e *smtp.Error
				if !errors.As(err, &e) || e.Command != "RCPT" || e.Temporary() || len(e.Rejected) != 2 {
					t.Errorf("got %v", err)
				}
			})
			c.Close()
		})
		s.has(t, "partial", "x")
	})
}

func TestMailsLargerThanTheServerPermitsAreRefused(t *testing.T) {
	onAll(t, func(t *testing.T, s *testServer) {
		if s.dsn { // go-smtp and Postfix have a limit
			run(t, s.options(), func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
				large := message("large", strings.Repeat("x\r\n", 4<<20))
				for _, body := range []any{large, readerOnly{bytes.NewReader(large)}} {
					c.Send(t.Context(), to(body)).Then(func(_ smtp.Receipt, err error) {
						if !errors.Is(err, smtp.ErrTooLarge) || errors.Is(err, smtp.ErrUncertain) {
							t.Errorf("got %v", err)
						}
					})
				}
				c.Close()
			})
			if n := len(s.mails(t)); n != 0 {
				t.Errorf("the server has %d mails", n)
			}
		}
	})
}

func TestExtensionsOfRealServers(t *testing.T) {
	onAll(t, func(t *testing.T, s *testServer) {
		run(t, s.options(), func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			dsn := to(message("dsn", "x"))
			dsn.DSN = &smtp.DSN{Notify: []string{"SUCCESS"}, Return: "HDRS", EnvelopeID: "e2e+1=2"}
			utf8 := to(message("utf8", "x"))
			utf8.To = []string{"dörte@e2e.example"}
			for what, f := range map[string]*eventloop.Future[smtp.Receipt]{"dsn": c.Send(t.Context(), dsn), "utf8": c.Send(t.Context(), utf8)} {
				f.Then(func(_ smtp.Receipt, err error) {
					offered := map[string]bool{"dsn": s.dsn, "utf8": s.utf8}[what]
					if offered != (err == nil) || !offered && !errors.Is(err, errors.ErrUnsupported) {
						t.Errorf("%s: %v", what, err)
					}
				})
			}
			c.Close()
		})
		if s.dsn {
			s.has(t, "dsn", "x")
		}
		if s.utf8 {
			s.has(t, "utf8", "x")
		}
	})
}

func TestWrongPasswordsAreRefused(t *testing.T) {
	onAll(t, func(t *testing.T, s *testServer) {
		if !s.auth {
			return
		}
		o := s.options()
		o.Auth = smtp.Password("ann", "guess")
		run(t, o, func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			c.Send(t.Context(), to(message("auth", "x"))).Then(func(_ smtp.Receipt, err error) {
				var e *smtp.Error
				if !errors.Is(err, smtp.ErrAuth) || !errors.As(err, &e) || e.Code != 535 {
					t.Errorf("got %v", err)
				}
			})
		})
	})
}

func TestUnknownCertificatesAreRefused(t *testing.T) {
	onAll(t, func(t *testing.T, s *testServer) {
		o := s.options()
		o.TLS = nil
		run(t, o, func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			c.Send(t.Context(), to(message("tls", "x"))).Then(func(_ smtp.Receipt, err error) {
				if err == nil || !strings.Contains(err.Error(), "certificate") {
					t.Errorf("got %v", err)
				}
			})
		})
	})
}

func TestACanceledMailLeavesTheOthersAlone(t *testing.T) {
	onAll(t, func(t *testing.T, s *testServer) {
		run(t, s.options(), func(t *testing.T, l *eventloop.Loop, c *smtp.Client) {
			ctx, cancel := context.WithCancel(t.Context())
			l.OnExit(cancel)
			for i := range 40 {
				if i%4 == 0 {
					c.Send(ctx, to(message(fmt.Sprintf("canceled-%d", i), "x"))).Then(func(_ smtp.Receipt, err error) {
						if err != nil && !errors.Is(err, context.Canceled) {
							t.Error(err)
						}
					})
					continue
				}
				c.Send(t.Context(), to(message(fmt.Sprintf("kept-%d", i), "x"))).Then(func(_ smtp.Receipt, err error) {
					if err != nil {
						t.Error(err)
					}
					cancel()
				})
			}
			c.Close()
		})
		for i := range 40 {
			if i%4 != 0 {
				s.has(t, fmt.Sprintf("kept-%d", i), "x")
			}
		}
	})
}
