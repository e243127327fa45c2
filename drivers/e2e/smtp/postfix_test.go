package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onloop/eventloop/drivers/e2e/internal/child"
)

// postfix is where Debian installs what Postfix runs.
const postfixDaemons = "/usr/lib/postfix/sbin"

// masterCf is what Postfix runs, after the address on which smtpd listens.
const masterCf = ` inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// startPostfix starts Postfix as a child process with its own configuration, queue and
// mailbox. That takes root.
func startPostfix(t *testing.T) *testServer {
	program, err := exec.LookPath("postfix")
	if err != nil {
		program = "/usr/sbin/postfix"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("postfix is not installed: apt-get install postfix")
	}
	owner, err := user.Lookup("postfix")
	if err != nil || os.Getuid() != 0 {
		t.Skip("postfix takes root and its user")
	}
	base := postfixDir(t, owner.Username)
	dir := func(name string) string { return filepath.Join(base, name) }
	cert, key := writeCertificate(t, base)
	addr := reserve(t)

	main := map[string]string{
		"compatibility_level": "3.6", "queue_directory": dir("queue"), "data_directory": dir("data"),
		"daemon_directory": postfixDaemons, "command_directory": filepath.Dir(program), "mail_owner": owner.Username,
		"maillog_file": dir("log"), "maillog_file_prefixes": base,
		"myhostname": "mail.e2e.example", "mydestination": "", "mynetworks": "127.0.0.0/8", "inet_interfaces": "127.0.0.1",
		"inet_protocols": "ipv4", "alias_maps": "", "local_recipient_maps": "",
		"virtual_mailbox_domains": "e2e.example", "virtual_mailbox_maps": "static:all/", "virtual_mailbox_base": dir("mail"),
		"virtual_uid_maps": "static:" + owner.Uid, "virtual_gid_maps": "static:" + owner.Gid, "virtual_minimum_uid": "1",
		"smtpd_recipient_restrictions": "reject_unauth_destination", "smtpd_relay_restrictions": "",
		"smtpd_tls_cert_file": cert, "smtpd_tls_key_file": key, "smtpd_tls_security_level": "encrypt",
		"smtputf8_enable": "yes", "message_size_limit": "10485760", "smtpd_client_connection_count_limit": "0",
	}
	var lines strings.Builder
	for name, value := range main {
		fmt.Fprintf(&lines, "%s = %s\n", name, value)
	}
	for name, text := range map[string]string{"main.cf": lines.String(), "master.cf": addr + masterCf} {
		if err := os.WriteFile(dir(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	server := startChild(t, child.Command(program, "-c", base, "start-fg"))
	t.Cleanup(func() {
		exec.Command(program, "-c", base, "stop").Run()
		if log, err := os.ReadFile(dir("log")); err == nil && t.Failed() {
			t.Logf("%s", log)
		}
	})
	awaitListening(t, server, addr)
	return &testServer{addr: addr, dsn: true, utf8: true, mails: func(t *testing.T) (mails []string) {
		names, err := filepath.Glob(dir("mail/all/new/*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			p, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			mails = append(mails, string(p))
		}
		return mails
	}}
}

// postfixDir returns a directory with what Postfix expects to be there. All of its
// parents can be entered by any user, unlike those of t.TempDir.
func postfixDir(t *testing.T, owner string) string {
	base, err := os.MkdirTemp("", "postfix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	script := `set -e
chmod 755 "$1"
mkdir "$1/queue" "$1/data" "$1/mail"
chown "$2" "$1/data" "$1/mail"
`
	if out, err := exec.Command("sh", "-c", script, "sh", base, owner).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return base
}
