package smtp_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/smtp"
)

// run runs f on a loop with a server that takes mails at addr.
func run(f func(l *eventloop.Loop, addr string) error) {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		addr, err := new(server).listen(l)
		if err != nil {
			return err
		}
		return f(l, addr)
	})
	if err != nil {
		log.Fatal(err)
	}
}

// hello is a message: header, empty line, text.
var hello = []byte("From: ann@example.com\r\nTo: bob@example.com\r\nSubject: hello\r\n\r\nHello, Bob.\r\n")

func Example() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS})
		if err != nil {
			return err
		}
		m := smtp.Mail{From: "ann@example.com", To: []string{"bob@example.com"}, Body: hello}
		c.Send(context.Background(), m).Then(func(r smtp.Receipt, err error) {
			fmt.Println(r.Reply, err)
		})
		return nil
	})
	// Output: queued as 1 <nil>
}

func ExampleNew() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{
			Addr:        addr,
			Security:    smtp.NoTLS, // leave this out: then STARTTLS is required
			Auth:        smtp.Password("ann", "secret"),
			LocalName:   "web1.example.com",
			MaxConns:    2,
			MaxMessages: 50,
			Rate:        100, // mails per second
		})
		if err != nil {
			return err
		}
		m := smtp.Mail{From: "ann@example.com", To: []string{"bob@example.com"}, Body: hello}
		c.Send(context.Background(), m).Then(func(r smtp.Receipt, err error) { fmt.Println(r.Reply, err) })

		_, err = smtp.New(l, &smtp.Options{Addr: "mail.example.com"})
		fmt.Println(err)
		return nil
	})
	// Output:
	// smtp: address "mail.example.com": want host:port
	// queued as 1 <nil>
}

// The server accepts the mail for one recipient and refuses another.
func ExampleClient_Send() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS})
		if err != nil {
			return err
		}
		m := smtp.Mail{From: "ann@example.com", To: []string{"bob@example.com", "eve@nowhere.example"}, Body: hello}
		c.Send(context.Background(), m).Then(func(r smtp.Receipt, err error) {
			fmt.Println(r.Reply, err)
			for _, r := range r.Rejected {
				fmt.Println(r)
			}
		})
		return nil
	})
	// Output:
	// queued as 1 <nil>
	// eve@nowhere.example: 550 5.1.2 no such domain
}

// In a task, mails are sent one after the other. A body that is an io.Reader or an
// io.WriterTo is read while it is sent.
func ExampleClient_Send_task() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS})
		if err != nil {
			return err
		}
		l.Go(context.Background(), func(t *eventloop.Task) error {
			for _, to := range []string{"bob@example.com", "carol@example.com"} {
				body := strings.NewReader("To: " + to + "\nSubject: news\n\nThere is none.\n")
				r, err := c.Send(t.Context(), smtp.Mail{From: "ann@example.com", To: []string{to}, Body: body}).Await(t)
				if err != nil {
					return err
				}
				fmt.Println(to, r.Reply)
			}
			return nil
		})
		return nil
	})
	// Output:
	// bob@example.com queued as 1
	// carol@example.com queued as 2
}

// Addresses cannot smuggle in commands.
func ExampleMail() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: "127.0.0.1:25"})
		if err != nil {
			return err
		}
		m := smtp.Mail{From: "ann@example.com", To: []string{"bob@example.com>\r\nRCPT TO:<eve@example.com"}, Body: hello}
		c.Send(context.Background(), m).Then(func(_ smtp.Receipt, err error) { fmt.Println(err) })
		return nil
	})
	// Output: send mail tcp 127.0.0.1:25: smtp: recipient: address "bob@example.com>\r\nRCPT TO:<eve@example.com": has a control character
}

// What to do after a failure.
func ExampleError() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS})
		if err != nil {
			return err
		}
		m := smtp.Mail{From: "ann@example.com", To: []string{"eve@nowhere.example"}, Body: hello}
		c.Send(context.Background(), m).Then(func(_ smtp.Receipt, err error) {
			var refused *smtp.Error
			switch {
			case err == nil:
				fmt.Println("sent")
			case errors.As(err, &refused) && !refused.Temporary():
				fmt.Println("never again:", refused.Enhanced, refused.Text)
			case errors.Is(err, smtp.ErrUncertain):
				fmt.Println("it may have arrived:", err)
			default:
				fmt.Println("later:", err)
			}
		})
		return nil
	})
	// Output: never again: 5.1.2 no such domain
}

func ExampleDSN() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS})
		if err != nil {
			return err
		}
		m := smtp.Mail{
			From: "ann@example.com", To: []string{"bob@example.com"}, Body: hello,
			DSN: &smtp.DSN{Notify: []string{"SUCCESS", "FAILURE"}, Return: "HDRS", EnvelopeID: "order 17"},
		}
		c.Send(context.Background(), m).Then(func(r smtp.Receipt, err error) { fmt.Println(r.Reply, err) })
		return nil
	})
	// Output: queued as 1 <nil>
}

// Close sends what is pending.
func ExampleClient_Close() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS, MaxConns: 1})
		if err != nil {
			return err
		}
		m := smtp.Mail{From: "ann@example.com", To: []string{"bob@example.com"}, Body: hello}
		for range 3 {
			c.Send(context.Background(), m).Then(func(r smtp.Receipt, err error) { fmt.Println(r.Reply, err) })
		}
		c.Close().Then(func(_ struct{}, err error) { fmt.Println("closed", err) })
		c.Send(context.Background(), m).Then(func(_ smtp.Receipt, err error) { fmt.Println(err != nil) })
		return nil
	})
	// Output:
	// true
	// queued as 1 <nil>
	// queued as 2 <nil>
	// queued as 3 <nil>
	// closed <nil>
}

func ExampleClient_Abort() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS})
		if err != nil {
			return err
		}
		m := smtp.Mail{From: "ann@example.com", To: []string{"bob@example.com"}, Body: hello}
		c.Send(context.Background(), m).Then(func(_ smtp.Receipt, err error) {
			fmt.Println(strings.TrimPrefix(err.Error(), "send mail tcp "+addr+": "))
		})
		c.Abort()
		return nil
	})
	// Output: the client is closed
}

// A context gives up a mail, here one to a server that is not there.
func ExampleClient_Pending() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: "127.0.0.1:1"})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		m := smtp.Mail{From: "ann@example.com", To: []string{"bob@example.com"}, Body: hello}
		c.Send(ctx, m).Then(func(_ smtp.Receipt, err error) {
			cancel()
			fmt.Println(c.Pending(), errors.Is(err, context.DeadlineExceeded))
		})
		fmt.Println(c.Pending())
		return nil
	})
	// Output:
	// 1
	// 0 true
}

// authenticate sends a mail and returns how the client has authenticated.
func authenticate(auth smtp.Auth) (result string) {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		s := &server{}
		addr, err := s.listen(l)
		if err != nil {
			return err
		}
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS, Auth: auth})
		if err != nil {
			return err
		}
		m := smtp.Mail{From: "ann@example.com", To: []string{"bob@example.com"}, Body: hello}
		c.Send(context.Background(), m).Then(func(_ smtp.Receipt, err error) {
			if result = fmt.Sprint(s.users); err != nil {
				result = strings.TrimPrefix(err.Error(), "send mail tcp "+addr+": ")
			}
		})
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	return result
}

func ExamplePlain() {
	fmt.Println(authenticate(smtp.Plain("ann", "secret")))
	fmt.Println(authenticate(smtp.Plain("ann", "guess")))
	// Output:
	// [PLAIN ann]
	// smtp: authentication failed: smtp: AUTH: 535 5.7.8 wrong password
}

func ExampleLogin() {
	fmt.Println(authenticate(smtp.Login("ann", "secret")))
	// Output: [LOGIN ann]
}

func ExamplePassword() {
	fmt.Println(authenticate(smtp.Password("ann", "secret")))
	// Output: [PLAIN ann]
}

// A mechanism of the application: XOAUTH2.
func ExampleAuth() {
	xoauth2 := func(user, token string) smtp.Auth {
		return func(offered []string) (string, func([]byte) ([]byte, error), error) {
			return "XOAUTH2", func(challenge []byte) ([]byte, error) {
				if challenge != nil { // it says what is wrong; the server then sends its reply
					return []byte{}, nil
				}
				return []byte("user=" + user + "\x01auth=Bearer " + token + "\x01\x01"), nil
			}, nil
		}
	}
	fmt.Println(authenticate(xoauth2("ann", "secret")))
	// Output: [XOAUTH2 ann]
}

// A server for mailboxes, which says what becomes of each recipient.
func ExampleOptions_lmtp() {
	run(func(l *eventloop.Loop, addr string) error {
		c, err := smtp.New(l, &smtp.Options{Addr: addr, Security: smtp.NoTLS, LMTP: true})
		if err != nil {
			return err
		}
		m := smtp.Mail{From: "ann@example.com", To: []string{"bob@example.com"}, Body: hello}
		c.Send(context.Background(), m).Then(func(r smtp.Receipt, err error) { fmt.Println(r.Reply, err) })
		return nil
	})
	// Output: queued as 1 <nil>
}
