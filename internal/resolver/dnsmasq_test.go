package resolver

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// startDNSMasq runs an independent name server on the loopback interface.
func startDNSMasq(t *testing.T) (addr string) {
	t.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/dnsmasq")
	}
	if err != nil {
		t.Skip("dnsmasq is not installed; on Debian: apt-get install dnsmasq-base")
	}
	many := ""
	for i := range 200 {
		many += fmt.Sprintf("198.51.100.%d many.test\n", i+1)
	}
	hosts := writeFile(t, "hosts", "192.0.2.1 a.test\n2001:db8::1 a.test\n192.0.2.4 four.test\n"+many)
	for range 5 { // another process may take the port before dnsmasq does
		if addr, ok := tryDNSMasq(t, path, hosts); ok {
			return addr
		}
	}
	t.Fatal("dnsmasq does not start")
	return ""
}

// tryDNSMasq runs the server on a port that was free just before. It returns false if
// the server ends before it listens.
func tryDNSMasq(t *testing.T, path, hosts string) (addr string, ok bool) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := c.LocalAddr().(*net.UDPAddr).Port
	c.Close()
	conf := writeFile(t, "dnsmasq.conf", fmt.Sprintf(`
port=%d
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
addn-hosts=%s
local=/test/
local=/in-addr.arpa/
local=/ip6.arpa/
cname=alias.test,a.test
mx-host=a.test,mail.test,10
txt-record=a.test,"some text"
srv-host=_x._tcp.test,a.test,80
local-ttl=60
`, port, hosts))
	var log strings.Builder
	cmd := exec.Command(path, "--keep-in-foreground", "--conf-file="+conf, "--user=", "--group=", "--pid-file=", "--log-facility=-")
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	addr = fmt.Sprintf("127.0.0.1:%d", port)
	running := false
	waitFor(t, func() bool {
		select {
		case <-ended:
			t.Logf("dnsmasq: %s", &log)
			return true
		default:
		}
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			running = true
			c.Close()
		}
		return running
	})
	return addr, running
}

func TestLookupsWorkWithARealServer(t *testing.T) {
	addr := startDNSMasq(t)
	for _, use0x20 := range []bool{false, true} {
		cfg := testConfig(t, addr)
		cfg.Use0x20 = use0x20
		cfg.Search = []string{"test"}
		r := newResolver(t, cfg)
		wantAddrs(t, r, "ip4", "a.test", "192.0.2.1")
		wantAddrs(t, r, "ip6", "a", "2001:db8::1")
		wantAddrs(t, r, "ip4", "alias.test.", "192.0.2.1")
		wantAddrs(t, r, "ip", "four", "192.0.2.4")
		if addrs, err := r.LookupNetIP(t.Context(), "ip", "many.test"); len(addrs) != 200 || err != nil {
			t.Errorf("many.test has %d addresses, %v; want 200", len(addrs), err)
		}
		_, err := lookup(t, r, "ip6", "four.test")
		wantError(t, err, "four.test", "notfound nodata")
		_, err = lookup(t, r, "ip", "none.test")
		wantError(t, err, "none.test", "notfound")
		names, err := r.LookupAddr(t.Context(), netip.MustParseAddr("192.0.2.4"))
		if err != nil || !slices.Equal(names, []string{"four.test."}) {
			t.Errorf("LookupAddr = %q, %v", names, err)
		}
		for qtype, want := range map[uint16]string{
			dns.TypeMX:  "a.test.\t60\tIN\tMX\t10 mail.test.",
			dns.TypeTXT: "a.test.\t60\tIN\tTXT\t\"some text\"",
		} {
			m, err := r.Query(t.Context(), "a.test", qtype)
			if err != nil || len(m.Answer) != 1 || m.Answer[0].String() != want {
				t.Errorf("Query(%s) = %v, %v, want %s", dns.TypeToString[qtype], m, err, want)
			}
		}
	}
}
