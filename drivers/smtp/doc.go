// Package smtp sends mail by SMTP and LMTP from an event loop.
//
// A [Client] sends mails to one server, usually the submission server of a provider, over
// a small pool of sessions. [Client.Send] returns a future of the server's receipt:
//
//	func main() {
//		err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
//			c, err := smtp.New(l, &smtp.Options{Addr: "mail.example.com:587", Auth: smtp.Password("ann", "secret")})
//			if err != nil {
//				return err
//			}
//			msg := []byte("From: ann@example.com\r\nTo: bob@example.org\r\nSubject: hello\r\n\r\nHello, Bob.\r\n")
//			c.Send(context.Background(), smtp.Mail{From: "ann@example.com", To: []string{"bob@example.org"}, Body: msg}).
//				Then(func(r smtp.Receipt, err error) { fmt.Println(r.Reply, err) })
//			return nil
//		})
//		if err != nil {
//			log.Fatal(err)
//		}
//	}
//
// The package does not compose messages. Any io.WriterTo is a body, such as the *Msg of
// github.com/wneessen/go-mail, which has headers, attachments and templates.
//
// # Sessions
//
// The client connects when there is a mail to send, and keeps up to [Options].MaxConns
// sessions. A session sends one mail at a time, and ends with QUIT after MaxMessages
// mails, or when it was idle for IdleTimeout. With PIPELINING (RFC 2920) the commands of
// a mail leave in one write, so a mail takes two round trips, however many recipients it
// has. While more mails wait than there are sessions, the commands of the next mail leave
// together with the end of the one before, and a mail takes one round trip, if its body
// is a []byte of at most 64 KB. Without PIPELINING each command waits for the reply to
// the one before.
//
// Pending mails keep the loop alive. Idle sessions do not: when a program has nothing
// else to do, it ends, and its sessions with it, without QUIT. [Client.Close] and
// [eventloop.Loop.Shutdown] send QUIT.
//
// # Extensions
//
// The client uses what the server offers: STARTTLS (RFC 3207), AUTH (RFC 4954), PIPELINING
// (RFC 2920), SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8 (RFC 6531),
// ENHANCEDSTATUSCODES (RFC 2034), DSN (RFC 3461), REQUIRETLS (RFC 8689). A mail that needs
// an extension that the server does not offer fails, with an error that matches
// [errors.ErrUnsupported], before anything of it is sent.
//
// # Security
//
// STARTTLS is required by default, and the certificate is verified. What the server said
// before STARTTLS does not count, and bytes that follow its reply in the clear end the
// connection. Passwords are not sent in the clear, except to this host. Addresses and
// all other parameters of commands are checked for what could end the command or add a
// parameter. In bodies, CR and LF alone become CRLF, so that no server can take a part
// of a body for commands.
//
// # Failures
//
// A mail is sent again, once, if the connection was lost before the end of the mail was
// sent, as often happens to a session that was idle. It is never sent again when it may
// have been delivered: the error then matches [ErrUncertain]. [Client.Send] lists the
// errors.
package smtp
