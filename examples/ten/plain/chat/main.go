// Chat passes lines on between clients. The first line of a client is its name. A
// client that does not read is cut off, and one whose line is too long.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

const maxLine, maxPending = 1024, 1 << 20

type client struct {
	conn    net.Conn
	wake    chan struct{} // wakes the writer; one slot
	mu      sync.Mutex    // guards pending
	pending []byte
}

// send queues a line, and reports whether there was room.
func (c *client) send(line string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending)+len(line) > maxPending {
		return false
	}
	c.pending = append(c.pending, line...)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return true
}

// write is the goroutine that sends what is queued.
func (c *client) write() {
	for range c.wake {
		c.mu.Lock()
		p := c.pending
		c.pending = nil
		c.mu.Unlock()
		if _, err := c.conn.Write(p); err != nil {
			return
		}
	}
}

type room struct {
	mu      sync.Mutex
	members map[string]*client
}

// join returns false if the name is taken.
func (r *room) join(name string, c *client) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.members[name] != nil {
		return false
	}
	r.members[name] = c
	return true
}

func (r *room) leave(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.members, name)
}

// tell sends a line to all but one.
func (r *room) tell(from, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, c := range r.members {
		if name != from && !c.send(line+"\n") {
			c.conn.Close()
		}
	}
}

// serve is the goroutine of a client.
func (r *room) serve(conn net.Conn) error {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, maxLine)
	name, err := readLine(in)
	if err != nil {
		return err
	}
	c := &client{conn: conn, wake: make(chan struct{}, 1)}
	if !r.join(name, c) {
		_, err := io.WriteString(conn, "taken\n")
		return err
	}
	var writer sync.WaitGroup
	writer.Go(c.write)
	c.send("welcome\n")
	r.tell(name, "* "+name+" joined")
	defer func() {
		r.leave(name)
		close(c.wake)
		r.tell(name, "* "+name+" left")
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		writer.Wait()
	}()
	for {
		line, err := readLine(in)
		if err != nil {
			return err
		}
		r.tell(name, name+": "+line)
	}
}

func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	return strings.TrimSpace(string(line)), err
}

func main() {
	ln, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", ln.Addr())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { ln.Close() })
	r := &room{members: make(map[string]*client)}
	var clients sync.WaitGroup
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		clients.Go(func() {
			err := r.serve(conn)
			if err != io.EOF && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) {
				log.Printf("%v: %v", conn.RemoteAddr(), err)
			}
		})
	}
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		log.Fatal("clients were cut off")
	}
}
