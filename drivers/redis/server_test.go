package redis_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop/looptest"
)

// A fake is a server of Redis for the protocol tests, over a network in memory.
type fake struct {
	t *testing.T

	mu    sync.Mutex
	conns int
	store map[string]string
	seen  []string // the commands of all connections, but those of handshakes

	// hello answers HELLO. Nil: version 3.
	hello func(p *peer, args []string) string

	// command answers the others, or returns false for what a server would answer.
	command func(p *peer, args []string) (reply string, ok bool)
}

// A peer is a connection of a fake.
type peer struct {
	*fake
	number int // 1, 2, ...
	count  int // of commands after the handshake
	conn   net.Conn
	in     *bufio.Reader
	ready  bool // a command other than those of the handshake has come
	proto  int
}

// What a fake does instead of answering.
const (
	hangUp  = "hang up"
	silence = ""
)

const addr = "redis:6379"

// serveFake starts f on a network, at addr.
func serveFake(t *testing.T, n *looptest.Net, f *fake) *fake {
	t.Helper()
	f.t, f.store = t, make(map[string]string)
	if err := n.Script(addr, f.serve); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fake) serve(c net.Conn, in *bufio.Reader) error {
	f.mu.Lock()
	f.conns++
	p := &peer{fake: f, number: f.conns, conn: c, in: in, proto: 2}
	f.mu.Unlock()
	for {
		args, err := readCommand(in)
		if err != nil {
			return nil // the client has closed
		}
		reply := p.reply(args)
		if reply == hangUp {
			return nil
		}
		if _, err := io.WriteString(c, reply); err != nil {
			return nil
		}
	}
}

// after answers a command later. The other connections go on meanwhile.
func (p *peer) after(d time.Duration, reply string) (string, bool) {
	p.mu.Unlock()
	time.Sleep(d)
	p.mu.Lock()
	return reply, true
}

func (p *peer) reply(args []string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch args[0] {
	case "HELLO":
		if p.hello != nil {
			return p.hello(p, args)
		}
		p.proto = 3
		return "%2\r\n+server\r\n+redis\r\n+proto\r\n:3\r\n"
	case "AUTH", "SELECT":
		if p.ready {
			p.t.Errorf("%q comes after other commands", args)
		}
		if p.command != nil {
			if reply, ok := p.command(p, args); ok {
				return reply
			}
		}
		return "+OK\r\n"
	case "CLIENT":
		return "+OK\r\n"
	}
	p.ready = true
	p.count++
	p.seen = append(p.seen, strings.Join(args, " "))
	if p.command != nil {
		if reply, ok := p.command(p, args); ok {
			return reply
		}
	}
	return p.execute(args)
}

// execute is a very small Redis.
func (f *fake) execute(args []string) string {
	switch args[0] {
	case "PING":
		return "+PONG\r\n"
	case "ECHO":
		return bulk(args[1])
	case "SET":
		f.store[args[1]] = args[2]
		return "+OK\r\n"
	case "GET":
		v, ok := f.store[args[1]]
		if !ok {
			return "$-1\r\n"
		}
		return bulk(v)
	case "INCR":
		n, err := strconv.Atoi("0" + f.store[args[1]])
		if err != nil {
			return "-ERR value is not an integer or out of range\r\n"
		}
		f.store[args[1]] = strconv.Itoa(n + 1)
		return fmt.Sprintf(":%d\r\n", n+1)
	}
	return fmt.Sprintf("-ERR unknown command '%s'\r\n", args[0])
}

func (f *fake) commandsSeen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.seen...)
}

func (f *fake) connsSeen() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

// readCommand reads a command as clients send them.
func readCommand(in *bufio.Reader) ([]string, error) {
	n, err := readLength(in, '*')
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		size, err := readLength(in, '$')
		if err != nil {
			return nil, err
		}
		buf := make([]byte, size+2)
		if _, err := io.ReadFull(in, buf); err != nil {
			return nil, err
		}
		args[i] = string(buf[:size])
	}
	return args, nil
}

func readLength(in *bufio.Reader, t byte) (int, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != t {
		return 0, fmt.Errorf("got %q, want a length after %c", line, t)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}
