package smtpwire

import (
	"strings"
	"testing"
)

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{AppendHello(nil, "EHLO", "[192.0.2.1]"), "EHLO [192.0.2.1]"},
		{AppendMail(nil, "", MailParams{}), "MAIL FROM:<>"},
		{AppendMail(nil, "a@x", MailParams{Size: 12, EightBit: true, UTF8: true, RequireTLS: true}),
			"MAIL FROM:<a@x> SIZE=12 BODY=8BITMIME SMTPUTF8 REQUIRETLS"},
		{AppendMail(nil, "a@x", MailParams{Return: "FULL", EnvelopeID: "id+1=2 3"}),
			"MAIL FROM:<a@x> RET=FULL ENVID=id+2B1+3D2+203"},
		{AppendRcpt(nil, "b@y", RcptParams{}), "RCPT TO:<b@y>"},
		{AppendRcpt(nil, "b@y", RcptParams{Notify: "SUCCESS,FAILURE", Original: "c+d@z"}),
			"RCPT TO:<b@y> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c+2Bd@z"},
		{AppendRcpt(nil, "b@y", RcptParams{Original: "dörte@z"}), `RCPT TO:<b@y> ORCPT=utf-8;d\x{F6}rte@z`},
		{AppendAuth(nil, "LOGIN", nil), "AUTH LOGIN"},
		{AppendAuth(nil, "EXTERNAL", []byte{}), "AUTH EXTERNAL ="},
		{AppendAuth(nil, "PLAIN", []byte("\x00u\x00p")), "AUTH PLAIN AHUAcA=="},
		{AppendResponse(nil, []byte("user")), "dXNlcg=="},
		{AppendResponse(nil, nil), ""},
	} {
		if string(c.got) != c.want+"\r\n" {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestParametersAreChecked(t *testing.T) {
	for _, id := range []string{"a\r\nb", "a\x00", "ä", strings.Repeat("x", 101), "\x7f"} {
		if CheckEnvelopeID(id) == nil {
			t.Errorf("envelope identifier %q was accepted", id)
		}
	}
	if err := CheckEnvelopeID(strings.Repeat(" ~", 50)); err != nil {
		t.Error(err)
	}
	for _, m := range []string{"", "plain", "A B", "A\r\n", strings.Repeat("A", 21)} {
		if CheckMechanism(m) == nil {
			t.Errorf("mechanism %q was accepted", m)
		}
	}
	if err := CheckMechanism("SCRAM-SHA-256_X"); err != nil {
		t.Error(err)
	}
	for _, n := range [][]string{{"NEVER", "DELAY"}, {"success"}, {"DELAY\r\n"}, {""}} {
		if CheckNotify(n) == nil {
			t.Errorf("notifications %q were accepted", n)
		}
	}
	for _, n := range [][]string{nil, {"NEVER"}, {"SUCCESS", "FAILURE", "DELAY"}} {
		if err := CheckNotify(n); err != nil {
			t.Error(err)
		}
	}
}

func TestChallenges(t *testing.T) {
	if c, err := Challenge(&Reply{Code: 334, Lines: []string{"VXNlcm5hbWU6"}}); err != nil || string(c) != "Username:" {
		t.Errorf("got %q, %v", c, err)
	}
	if c, err := Challenge(&Reply{Code: 334, Lines: []string{""}}); err != nil || len(c) != 0 {
		t.Errorf("got %q, %v", c, err)
	}
	if _, err := Challenge(&Reply{Code: 334, Lines: []string{"not base64"}}); err == nil {
		t.Error("a challenge that is not base64 was accepted")
	}
}
