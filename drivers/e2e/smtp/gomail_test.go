package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"strings"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/smtp"
	"github.com/wneessen/go-mail"
)

// A message of go-mail, with an attachment, is the body of a mail, and knows its
// envelope.
func Example_goMail() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := newGoSMTP(&goSMTP{})
	go server.Serve(ln)
	defer server.Close()

	msg := mail.NewMsg()
	msg.From("Ann <ann@e2e.example>")
	msg.To("Bob <bob@e2e.example>", "eve@elsewhere.example")
	msg.Subject("Grüße")
	msg.SetBodyString(mail.TypeTextPlain, "See the attachment.")
	msg.AttachReadSeeker("list.txt", strings.NewReader("one\ntwo\n"))

	err = eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := smtp.New(l, &smtp.Options{Addr: ln.Addr().String(), Security: smtp.NoTLS})
		if err != nil {
			return err
		}
		from, err := msg.GetSender(false)
		if err != nil {
			return err
		}
		to, err := msg.GetRecipients()
		if err != nil {
			return err
		}
		c.Send(context.Background(), smtp.Mail{From: from, To: to, Body: msg}).Then(func(r smtp.Receipt, err error) {
			fmt.Println(r.Reply, r.Rejected, err)
		})
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: OK: queued [<eve@elsewhere.example>: 550 5.1.2 not here] <nil>
}
