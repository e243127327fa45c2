// Redis sends the commands that it reads, a line each, to a Redis server, all at once on
// one connection, and prints the replies in order. A reply has a second to come.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const maxBulk = 1 << 20

type reply struct {
	text string
	err  error
}

// A client sends the commands of any number of goroutines on one connection.
type client struct {
	conn net.Conn

	mu      sync.Mutex // guards the following, and the order on the connection
	out     *bufio.Writer
	waiting []chan reply // of the commands that were sent, in order
	err     error        // of the connection
}

func dial(address string) (*client, error) {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return nil, err
	}
	k := &client{conn: conn, out: bufio.NewWriter(conn)}
	go k.receive()
	return k, nil
}

// do sends a command and returns a channel of its reply.
func (k *client) do(words ...string) <-chan reply {
	ch := make(chan reply, 1)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		ch <- reply{err: k.err}
		return ch
	}
	k.waiting = append(k.waiting, ch)
	fmt.Fprintf(k.out, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(k.out, "$%d\r\n%s\r\n", len(word), word)
	}
	k.out.Flush() // an error comes from reading, too
	return ch
}

// receive is a goroutine that hands replies to those who wait for them.
func (k *client) receive() {
	in := bufio.NewReader(k.conn)
	for {
		text, err := read(in)
		k.mu.Lock()
		if err == nil && len(k.waiting) == 0 {
			err = errors.New("a reply to nothing")
		}
		if err != nil {
			k.err = err
			for _, ch := range k.waiting {
				ch <- reply{err: err}
			}
			k.mu.Unlock()
			return
		}
		ch := k.waiting[0]
		k.waiting = k.waiting[1:]
		k.mu.Unlock()
		ch <- reply{text: text}
	}
}

// read reads a reply, as redis-cli prints it.
func read(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	line = strings.TrimSuffix(line, "\r\n")
	if err != nil || line == "" {
		return "", errors.Join(err, errors.New("no reply"))
	}
	n, numErr := strconv.Atoi(line[1:])
	switch kind := line[0]; {
	case kind == '+', kind == '-', kind == ':':
		return line[1:], nil
	case numErr != nil || n > maxBulk || kind != '$' && kind != '*':
		return "", fmt.Errorf("malformed reply %q", line)
	case n < 0:
		return "(nil)", nil
	case kind == '$':
		b := make([]byte, n+len("\r\n"))
		_, err := io.ReadFull(in, b)
		return string(b[:n]), err
	}
	var elements []string
	for range n {
		element, err := read(in)
		if err != nil {
			return "", err
		}
		elements = append(elements, element)
	}
	return strings.Join(elements, "\n"), nil
}

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	k, err := dial(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var replies []<-chan reply
	for line := range strings.Lines(string(input)) {
		replies = append(replies, k.do(strings.Fields(line)...))
	}
	for _, ch := range replies {
		select {
		case r := <-ch:
			if r.err != nil {
				log.Fatal(r.err)
			}
			fmt.Println(r.text)
		case <-time.After(time.Second):
			log.Fatal("timeout")
		}
	}
	k.conn.Close()
}
