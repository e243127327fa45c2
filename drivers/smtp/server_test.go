package smtp_test

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net/textproto"
	"strings"

	"github.com/onloop/eventloop"
)

// A server takes mails, for the examples. It refuses recipients at nowhere.example.
// Its connections do not keep the loop alive.
type server struct {
	mails int
	users []string // that have authenticated
}

// listen starts the server on the loop and returns its address.
func (s *server) listen(l *eventloop.Loop) (addr string, err error) {
	ln, err := l.ListenTask("tcp", "127.0.0.1:0", s.serve, nil)
	if err != nil {
		return "", err
	}
	ln.Unref()
	return ln.Addr().String(), nil
}

func (s *server) serve(t *eventloop.Task, c *eventloop.Conn) error {
	t.Unref()
	c.Unref()
	nc := c.NetConn(t)
	in := textproto.NewReader(bufio.NewReader(nc))
	say := func(format string, args ...any) { fmt.Fprintf(nc, format+"\r\n", args...) }
	say("220 mail.example ESMTP")
	recipients := 0
	for {
		line, err := in.ReadLine()
		if err != nil {
			return err
		}
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "EHLO":
			say("250-mail.example\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-DSN\r\n250 AUTH PLAIN LOGIN XOAUTH2")
		case "LHLO":
			say("250-mail.example\r\n250 PIPELINING")
		case "AUTH":
			s.auth(in, rest, say)
		case "MAIL":
			recipients = 0
			say("250 2.1.0 ok")
		case "RCPT":
			if strings.Contains(rest, "nowhere.example") {
				say("550 5.1.2 no such domain")
				break
			}
			recipients++
			say("250 2.1.5 ok")
		case "DATA":
			if recipients == 0 {
				say("554 5.5.1 no recipients")
				break
			}
			say("354 go ahead")
			if _, err := in.ReadDotBytes(); err != nil {
				return err
			}
			s.mails++
			say("250 2.0.0 queued as %d", s.mails)
		case "QUIT":
			say("221 2.0.0 bye")
			return nil
		default:
			say("250 2.0.0 ok")
		}
	}
}

// auth accepts any user with the password "secret".
func (s *server) auth(in *textproto.Reader, args string, say func(string, ...any)) {
	decode := func(s string) string {
		p, _ := base64.StdEncoding.DecodeString(s)
		return string(p)
	}
	ask := func(challenge string) string {
		say("334 %s", base64.StdEncoding.EncodeToString([]byte(challenge)))
		line, _ := in.ReadLine()
		return decode(line)
	}
	mechanism, initial, _ := strings.Cut(args, " ")
	var user, password string
	switch mechanism {
	case "PLAIN":
		parts := strings.Split(decode(initial), "\x00")
		user, password = parts[1], parts[2]
	case "LOGIN":
		user = ask("Username:")
		password = ask("Password:")
	case "XOAUTH2":
		user, password, _ = strings.Cut(strings.TrimPrefix(decode(initial), "user="), "\x01auth=Bearer ")
		password = strings.TrimRight(password, "\x01")
	}
	if password != "secret" {
		say("535 5.7.8 wrong password")
		return
	}
	s.users = append(s.users, mechanism+" "+user)
	say("235 2.7.0 ok")
}
