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
// The package does not compose messages. It accepts any io.WriterTo as a body, such as
// the *Msg of github.com/wneessen/go-mail, which has headers, attachments and templates.
//
// # Sessions
//
// The client connects when there is a mail to send, and keeps up to [Options].MaxConns
// sessions. A session sends one mail at a time, and ends with QUIT after MaxMessages
// mails, or after it has been idle for IdleTimeout. With PIPELINING (RFC 2920) the client
// sends all commands of a mail in one write, so a mail takes two round trips, however many
// recipients it has. While more mails wait than there are sessions, the client sends the
// commands of the next mail together with the end of the previous one. A mail then takes
// one round trip, if its body is a []byte of at most 64 KB. Without PIPELINING each
// command waits for the reply to the previous one.
//
// Pending mails keep the loop alive. Idle sessions do not: a program that has nothing else
// to do ends, and its sessions end without QUIT. [Client.Close] and
// [eventloop.Loop.Shutdown] send QUIT.
//
// # Extensions
//
// The client uses these extensions if the server offers them: STARTTLS (RFC 3207), AUTH
// (RFC 4954), PIPELINING (RFC 2920), SIZE (RFC 1870), 8BITMIME (RFC 6152), SMTPUTF8
// (RFC 6531), ENHANCEDSTATUSCODES (RFC 2034), DSN (RFC 3461), REQUIRETLS (RFC 8689). If a
// mail needs an extension that the server does not offer, the mail fails before any of it
// is sent, with an error that matches [errors.ErrUnsupported].
//
// # Security
//
// STARTTLS is required by default, and the certificate is verified. The client discards
// the extensions that the server offered before STARTTLS, and closes the connection if
// plaintext bytes follow the reply to STARTTLS. It does not send passwords in
// plaintext, except to a server on the same host. It rejects addresses and other
// parameters that could end a command or add a parameter. In bodies, a bare CR or LF
// becomes CRLF, so that no server can mistake a part of a body for commands.
//
// # Failures
//
// If the connection is lost before the end of a mail is sent, which is common for a
// session that was idle, the client sends the mail again, once. It never sends a mail
// again that may have been delivered: the error then matches [ErrUncertain].
// [Client.Send] lists the errors.
package smtp
