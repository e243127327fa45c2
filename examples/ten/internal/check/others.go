package check

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

type item struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
}

// Crud checks a web service of items.
func Crud(t *testing.T) {
	s := serve(t)
	client := &http.Client{Timeout: watchdog}
	do := func(method, path, body string, status int) string {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+s.addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != status {
			t.Errorf("%s %s: %d %q (%v), want %d", method, path, res.StatusCode, got, err, status)
		}
		if kind := res.Header.Get("Content-Type"); status/100 == 2 && status != 204 && kind != "application/json" {
			t.Errorf("%s %s: type %q", method, path, kind)
		}
		return string(got)
	}
	want := func(got string, items ...item) {
		t.Helper()
		var list []item
		if len(items) == 1 && !strings.HasPrefix(got, "[") {
			got = "[" + got + "]"
		}
		if err := json.Unmarshal([]byte(got), &list); err != nil || !slices.Equal(list, items) {
			t.Errorf("received %s (%v), want %v", got, err, items)
		}
	}
	do("GET", "/items/1", "", 404)
	if got := strings.TrimSpace(do("GET", "/items", "", 200)); got != "[]" {
		t.Errorf("without items the list is %s", got)
	}
	want(do("POST", "/items", `{"name":"cup"}`, 201), item{1, "cup"})
	want(do("POST", "/items", `{"name":"pot","id":77}`, 201), item{2, "pot"})
	want(do("GET", "/items/2", "", 200), item{2, "pot"})
	want(do("GET", "/items", "", 200), item{1, "cup"}, item{2, "pot"})
	want(do("PUT", "/items/1", `{"name":"mug"}`, 200), item{1, "mug"})
	want(do("GET", "/items/1", "", 200), item{1, "mug"})
	do("DELETE", "/items/1", "", 204)
	do("DELETE", "/items/1", "", 404)
	do("PUT", "/items/1", `{"name":"mug"}`, 404)
	want(do("POST", "/items", `{"name":"jar"}`, 201), item{3, "jar"})
	want(do("GET", "/items", "", 200), item{2, "pot"}, item{3, "jar"})
	do("POST", "/items", `{`, 400)
	do("POST", "/items", `{}`, 400)
	do("PUT", "/items/2", `null`, 400)
	do("POST", "/items", `{"name":"`+strings.Repeat("x", 1<<17)+`"}`, 413)
	do("DELETE", "/items", "", 405)
	do("POST", "/items/2", `{"name":"x"}`, 405)
	do("GET", "/items/x", "", 404)
	do("GET", "/nothing", "", 404)
	client.CloseIdleConnections()
	s.end()
}

// Fetch checks a program that gets URLs.
func Fetch(t *testing.T) {
	var arrived, now atomic.Int32
	var together sync.WaitGroup // the first eight
	together.Add(8)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n > 8 {
			t.Errorf("%d requests at a time, want at most 8", n)
		}
		defer now.Add(-1)
		switch size, err := strconv.Atoi(r.URL.Path[1:]); {
		case r.URL.Path == "/hang":
			<-r.Context().Done()
		case r.URL.Path == "/cut":
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("part"))
		case err != nil:
			http.NotFound(w, r)
		default:
			if arrived.Add(1) <= 8 {
				together.Done()
				together.Wait()
			}
			w.Write(bytes.Repeat([]byte("x"), size))
		}
	}))
	defer web.Close()
	var input, want strings.Builder
	for i := range 50 {
		fmt.Fprintf(&input, "%s/%d\n", web.URL, 100*i)
		fmt.Fprintf(&want, "%s/%d: 200, %d bytes\n", web.URL, 100*i, 100*i)
	}
	if got, ok := run(t, input.String()); got != want.String() || !ok {
		t.Errorf("success %v; output:\n%swant:\n%s", ok, got, &want)
	}
	if got, ok := run(t, web.URL+"/none\n"); got != web.URL+"/none: 404, 19 bytes\n" || !ok {
		t.Errorf("success %v; output: %s", ok, got)
	}
	for _, bad := range []string{web.URL + "/hang", web.URL + "/cut", "http://127.0.0.1:1/"} {
		got, ok := run(t, web.URL+"/10\n"+bad+"\n"+web.URL+"/20\n")
		lines := strings.Split(got, "\n")
		if ok || len(lines) != 4 || lines[0] != web.URL+"/10: 200, 10 bytes" || !strings.HasPrefix(lines[1], bad+": ") ||
			lines[2] != web.URL+"/20: 200, 20 bytes" {
			t.Errorf("with %s: success %v; output:\n%s", bad, ok, got)
		}
	}
}

// DNS checks a program that looks names up.
func DNS(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(answer)}
	go server.ActivateAndServe()
	defer server.Shutdown()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, servers := range []string{pc.LocalAddr().String(), silent.LocalAddr().String() + "," + pc.LocalAddr().String()} {
		got, ok := run(t, "", servers, "one.test.", "two.test.", "one.test.")
		if want := "one.test.: [192.0.2.1]\ntwo.test.: [192.0.2.2]\none.test.: [192.0.2.1]\n"; got != want || !ok {
			t.Errorf("success %v; output:\n%s", ok, got)
		}
	}
	got, ok := run(t, "", pc.LocalAddr().String(), "one.test.", "none.test.")
	if first, rest, _ := strings.Cut(got, "\n"); ok || first != "one.test.: [192.0.2.1]" || !strings.HasPrefix(rest, "none.test.: ") {
		t.Errorf("success %v; output:\n%s", ok, got)
	}
	if got, ok := run(t, "", silent.LocalAddr().String(), "one.test."); ok || !strings.HasPrefix(got, "one.test.: ") {
		t.Errorf("without an answer: success %v; output:\n%s", ok, got)
	}
}

func answer(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	switch q.Question[0].Name {
	case "one.test.":
		rr, _ := dns.NewRR("one.test. 60 A 192.0.2.1")
		m.Answer = append(m.Answer, rr)
	case "two.test.":
		rr, _ := dns.NewRR("two.test. 60 A 192.0.2.2")
		m.Answer = append(m.Answer, rr)
	default:
		m.Rcode = dns.RcodeNameError
	}
	w.WriteMsg(m)
}

// Redis checks a client of Redis.
func Redis(t *testing.T) {
	for _, v := range []struct {
		name    string
		input   string
		want    []string // the commands that the server gets
		replies string   // sent when all are there
		output  string
		ok      bool
	}{
		{"one", "PING\n", []string{"PING"}, "+PONG\r\n", "PONG\n", true},
		{"many at once", "SET a 1\nGET a\nGET b\nINCR a\nKEYS *\nFLY\n",
			[]string{"SET a 1", "GET a", "GET b", "INCR a", "KEYS *", "FLY"},
			"+OK\r\n$1\r\n1\r\n$-1\r\n:2\r\n*2\r\n$1\r\na\r\n*1\r\n:7\r\n-ERR unknown command\r\n",
			"OK\n1\n(nil)\n2\na\n7\nERR unknown command\n", true},
		{"a bulk with line ends", "GET x\n", []string{"GET x"}, "$6\r\na\r\nb\r\n\r\n", "a\r\nb\r\n\n", true},
		{"no reply", "PING\n", []string{"PING"}, "", "", false},
		{"half a reply", "PING\nPING\n", []string{"PING", "PING"}, "+PONG\r\n$10\r\nhalf", "PONG\n", false},
		{"malformed", "PING\n", []string{"PING"}, "?what\r\n", "", false},
		{"too long", "GET x\n", []string{"GET x"}, "$99999999999\r\n", "", false},
		{"nothing to do", "", nil, "", "", true},
	} {
		t.Run(v.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			served := make(chan []string, 1)
			go func() { served <- serveRedis(ln, len(v.want), v.replies) }()
			got, ok := run(t, v.input, ln.Addr().String())
			ln.Close() // a client that has nothing to do need not have come
			if got != v.output || ok != v.ok {
				t.Errorf("output %q, success %v; want %q, %v", got, ok, v.output, v.ok)
			}
			if got := <-served; !slices.Equal(got, v.want) {
				t.Errorf("the server was sent %q, want %q", got, v.want)
			}
		})
	}
	if out, ok := run(t, "PING\n", "127.0.0.1:1"); ok || out != "" {
		t.Errorf("without a server: output %q, success %v", out, ok)
	}
}

// serveRedis reads n commands, replies, and waits until the client leaves.
func serveRedis(ln net.Listener, n int, replies string) (commands []string) {
	nc, err := ln.Accept()
	if err != nil {
		return nil
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(watchdog))
	in := bufio.NewReader(nc)
	number := func() (n int) {
		line, _ := in.ReadString('\n')
		n, _ = strconv.Atoi(strings.TrimSpace(strings.TrimLeft(line, "*$")))
		return n
	}
	for range n {
		var words []string
		for range number() {
			b := make([]byte, number()+2)
			io.ReadFull(in, b)
			words = append(words, string(b[:len(b)-2]))
		}
		commands = append(commands, strings.Join(words, " "))
	}
	io.WriteString(nc, replies)
	io.Copy(io.Discard, in)
	return commands
}
