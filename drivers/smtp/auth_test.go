package smtp

import (
	"errors"
	"strings"
	"testing"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

func TestAuthentication(t *testing.T) {
	custom := func(offered []string) (string, func([]byte) ([]byte, error), error) {
		n := 0
		return "X-COUNT", func(challenge []byte) ([]byte, error) {
			n++
			return []byte{byte('0' + n)}, nil
		}, nil
	}
	for _, c := range []struct {
		name   string
		auth   Auth
		offers string
		script []looptest.Step
	}{
		{"PLAIN", Plain("user", "pass"), "AUTH PLAIN LOGIN", say("AUTH PLAIN AHVzZXIAcGFzcw==", "235 2.7.0 ok")},
		{"LOGIN", Login("user", "pass"), "AUTH PLAIN LOGIN", say("AUTH LOGIN", "334 VXNlcm5hbWU6", "dXNlcg==", "334 UGFzc3dvcmQ6", "cGFzcw==", "235 ok")},
		{"LOGIN with empty challenges", Login("user", "pass"), "AUTH LOGIN", say("AUTH LOGIN", "334 ", "dXNlcg==", "334", "cGFzcw==", "235 ok")},
		{"Password with PLAIN", Password("user", "pass"), "AUTH LOGIN PLAIN", say("AUTH PLAIN AHVzZXIAcGFzcw==", "235 ok")},
		{"Password without PLAIN", Password("user", "pass"), "AUTH LOGIN CRAM-MD5", say("AUTH LOGIN", "334 VXNlcm5hbWU6", "dXNlcg==", "334 UGFzc3dvcmQ6", "cGFzcw==", "235 ok")},
		{"another mechanism", custom, "AUTH X-COUNT", say("AUTH X-COUNT MQ==", "334 eA==", "Mg==", "334 eA==", "Mw==", "235 ok")},
	} {
		t.Run(c.name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				client := newClient(t, l, n, func(o *Options) { o.Auth, o.PlaintextAuth = c.auth, true })
				sent(t, client.Send(t.Context(), mail()), func(Receipt) { client.Close() })
				return n.Script(server, steps(greet("PIPELINING", c.offers), c.script, accept(), bye)...)
			})
		})
	}
}

func TestAFailedAuthenticationFailsTheMailsThatWait(t *testing.T) {
	noMore := errors.New("no more")
	for _, c := range []struct {
		name   string
		auth   Auth
		offers string
		script []looptest.Step
		want   error
	}{
		{"refused", Plain("u", "p"), "AUTH PLAIN", say("AUTH PLAIN *", "535 5.7.8 wrong"), nil},
		{"not offered", Plain("u", "p"), "PIPELINING", nil, nil},
		{"other mechanisms", Plain("u", "p"), "AUTH GSSAPI", nil, nil},
		{"NUL in the password", Plain("u", "p\x00"), "AUTH PLAIN", nil, nil},
		{"too many challenges", Plain("u", "p"), "AUTH PLAIN", say("AUTH PLAIN *", "334 eA==", "*", "501 canceled"), nil},
		{"an invalid mechanism", func([]string) (string, func([]byte) ([]byte, error), error) { return "X\r\nQUIT", nil, nil }, "AUTH X", nil, nil},
		{"no function", func([]string) (string, func([]byte) ([]byte, error), error) { return "X", nil, nil }, "AUTH X", nil, nil},
		{"an error of the mechanism", func([]string) (string, func([]byte) ([]byte, error), error) {
			return "X", func([]byte) ([]byte, error) { return nil, noMore }, nil
		}, "AUTH X", nil, noMore},
	} {
		t.Run(c.name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				client := newClient(t, l, n, func(o *Options) { o.Auth, o.PlaintextAuth, o.MaxConns = c.auth, true, 1 })
				for range 2 {
					f := fails(t, client.Send(t.Context(), mail()), ErrAuth)
					if c.want != nil {
						fails(t, f, c.want)
					}
					f.Then(func(_ Receipt, err error) {
						var e *Error
						if c.name == "refused" && (!errors.As(err, &e) || e.Code != 535 || e.Enhanced != "5.7.8") {
							t.Errorf("got %v, want the reply", err)
						}
						if client.Pending() == 0 {
							client.Close()
						}
					})
				}
				return n.Script(server, steps(greet(c.offers), c.script, aborted)...)
			})
		})
	}
}

// Some servers repeat a command that they do not understand.
func TestAnErrorOfTheAuthenticationDoesNotShowThePassword(t *testing.T) {
	const user, password, both = "dXNlcg==", "aGlkZGVu", "AHVzZXIAaGlkZGVu"
	for name, c := range map[string]struct {
		auth   Auth
		script []looptest.Step
	}{
		"PLAIN":     {Plain("user", "hidden"), say("AUTH PLAIN "+both, "501 Syntax error in 'AUTH PLAIN "+both+"'")},
		"lines":     {Plain("user", "hidden"), say("AUTH PLAIN "+both, "501-What is\r\n501 "+both+"?")},
		"LOGIN":     {Login("user", "hidden"), say("AUTH LOGIN", "334 eA==", user, "334 eA==", password, "500 5.5.2 "+password)},
		"malformed": {Plain("user", "hidden"), say("AUTH PLAIN "+both, "AUTH PLAIN "+both)},
	} {
		t.Run(name, func(t *testing.T) {
			protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
				client := newClient(t, l, n, func(o *Options) { o.Auth, o.PlaintextAuth = c.auth, true })
				client.Send(t.Context(), mail()).Then(func(_ Receipt, err error) {
					for _, secret := range []string{"hidden", user, password, both} {
						if err == nil || strings.Contains(err.Error(), secret) {
							t.Errorf("got %v, want an error without %q", err, secret)
						}
					}
					if isTransient(err) {
						t.Errorf("%v is transient", err)
					}
					client.Close()
				})
				return n.Script(server, steps(greet("AUTH PLAIN LOGIN"), c.script, []looptest.Step{drain})...)
			})
		})
	}
}

func TestPasswordsAreNotSentInTheClear(t *testing.T) {
	for _, security := range []Security{NoTLS, Opportunistic} {
		protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
			c := newClient(t, l, n, func(o *Options) { o.Security, o.Auth = security, Password("u", "p") })
			fails(t, c.Send(t.Context(), mail()), ErrAuth).Then(func(Receipt, error) { c.Close() })
			return n.Script(server, steps(greet("AUTH PLAIN LOGIN"), aborted)...)
		})
	}
	for _, c := range []struct {
		network, addr string
		local         bool
	}{
		{"tcp", "localhost:25", true}, {"tcp", "LocalHost:25", true}, {"tcp", "127.0.0.1:25", true}, {"tcp", "127.1.2.3:25", true},
		{"tcp", "[::1]:25", true}, {"tcp", "[::ffff:127.0.0.1]:25", true}, {"unix", "/run/smtp", true},
		{"tcp", "localhost.example.com:25", false}, {"tcp", "192.0.2.1:25", false}, {"tcp", "127.0.0.1.example.com:25", false},
	} {
		if o := (Options{Network: c.network, Addr: c.addr}); o.isLocal() != c.local {
			t.Errorf("%s %s: local is %v", c.network, c.addr, !c.local)
		}
	}
}

func TestPasswordsMayBeSentInTheClearToThisHost(t *testing.T) {
	protocolTest(t, func(t *testing.T, l *eventloop.Loop, n *looptest.Net) error {
		c := newClient(t, l, n, func(o *Options) { o.Addr, o.Auth = "localhost:25", Password("u", "p") })
		sent(t, c.Send(t.Context(), mail()), func(Receipt) { c.Close() })
		return n.Script("localhost:25", steps(greet("PIPELINING", "AUTH PLAIN"), say("AUTH PLAIN AHUAcA==", "235 ok"), accept(), bye)...)
	})
}
