// Linear runs two servers whose connections are tasks: linear code on one event loop.
// The tasks share their state without a lock, and main is the only goroutine of this
// program.
//
//	go run ./examples/linear -chat 127.0.0.1:7001 -json 127.0.0.1:7002
//
//	nc 127.0.0.1 7001      chat: say your name, then talk; /who, /quit
//	nc 127.0.0.1 7002      a store that speaks JSON:
//	{"op":"set","key":"a","value":[1,2]}
//	{"op":"get","key":"a"}
//	{"op":"wait","key":"b","ms":5000}      replies when b is set
//
// SIGINT closes the listeners and gives the clients three seconds to finish.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/onloop/eventloop"
)

func main() {
	chatAddr := flag.String("chat", "127.0.0.1:7001", "address of the chat `server`")
	jsonAddr := flag.String("json", "127.0.0.1:7002", "address of the JSON `service`")
	flag.Parse()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		for _, s := range []struct {
			name, addr string
			serve      handler
		}{
			{"chat", *chatAddr, newChat().serve},
			{"json", *jsonAddr, newStore(l).serve},
		} {
			addr, err := listen(l, s.addr, s.serve)
			if err != nil {
				return err
			}
			log.Printf("%s on %v", s.name, addr)
		}
		return l.ShutdownOn(3*time.Second, os.Interrupt)
	})
	if err != nil {
		log.Fatal(err)
	}
}

// A handler serves one connection as a task.
type handler func(t *eventloop.Task, c *eventloop.Conn) error

// listen makes each connection to addr a task that runs serve.
func listen(l *eventloop.Loop, addr string, serve handler) (net.Addr, error) {
	ln, err := l.Listen("tcp", addr, &eventloop.ConnConfig{
		MaxBuffered: 1 << 20, // a chatter who does not listen cannot fill the memory
		OnConnect: func(c *eventloop.Conn) {
			l.Go(context.Background(), func(t *eventloop.Task) error {
				defer c.Close()
				return serve(t, c)
			}).Then(func(_ struct{}, err error) {
				if err != nil && !eventloop.IsInfo(err) {
					log.Printf("%v: %v", c.RemoteAddr(), err)
				}
			})
		},
	})
	if err != nil {
		return nil, err
	}
	return ln.Addr(), nil
}

// A chat is a room. Only tasks of the loop use it, so it needs no lock.
type chat struct {
	members map[string]*eventloop.Conn
}

func newChat() *chat { return &chat{members: make(map[string]*eventloop.Conn)} }

func (r *chat) serve(t *eventloop.Task, c *eventloop.Conn) error {
	nc := c.NetConn(t)
	lines := bufio.NewScanner(nc)
	name, err := r.askName(nc, lines)
	if err != nil {
		return err
	}
	r.members[name] = c
	r.say(name, "* "+name+" is here")
	defer func() {
		delete(r.members, name)
		r.say(name, "* "+name+" has left")
	}()
	for lines.Scan() {
		switch line := strings.TrimSpace(lines.Text()); line {
		case "":
		case "/quit":
			return nil
		case "/who":
			fmt.Fprintln(nc, strings.Join(slices.Sorted(maps.Keys(r.members)), ", "))
		default:
			r.say(name, name+": "+line)
		}
	}
	return lines.Err()
}

// askName prompts for a name until the name is free.
func (r *chat) askName(w io.Writer, lines *bufio.Scanner) (string, error) {
	for {
		if _, err := fmt.Fprint(w, "name? "); err != nil {
			return "", err
		}
		if !lines.Scan() {
			return "", firstError(lines.Err(), io.EOF)
		}
		name := strings.TrimSpace(lines.Text())
		if _, taken := r.members[name]; name != "" && !taken {
			return name, nil
		}
	}
}

// firstError returns err, or otherwise if there is none.
func firstError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// say sends line to every member but its author. It never waits: a member that does
// not keep up is disconnected.
func (r *chat) say(from, line string) {
	for name, c := range r.members {
		if name == from {
			continue
		}
		if _, err := c.WriteString(line + "\n"); errors.Is(err, eventloop.ErrBufferFull) {
			c.Abort()
		}
	}
}

// A store keeps values, and the tasks that wait for a value.
type store struct {
	l       *eventloop.Loop
	values  map[string]json.RawMessage
	waiting map[string]*arrival
}

// An arrival is resolved when its key is set.
type arrival struct {
	tasks   int // number of waiting tasks
	value   *eventloop.Future[json.RawMessage]
	resolve func(v json.RawMessage, err error)
}

func newStore(l *eventloop.Loop) *store {
	return &store{l: l, values: make(map[string]json.RawMessage), waiting: make(map[string]*arrival)}
}

type request struct {
	Op    string          `json:"op"`
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
	Ms    int             `json:"ms"`
}

type response struct {
	Value json.RawMessage `json:"value,omitempty"`
	Error string          `json:"error,omitempty"`
}

func (s *store) serve(t *eventloop.Task, c *eventloop.Conn) error {
	nc := c.NetConn(t)
	in, out := json.NewDecoder(nc), json.NewEncoder(nc)
	for {
		nc.SetReadDeadline(time.Now().Add(time.Minute))
		var req request
		if err := in.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			out.Encode(response{Error: err.Error()})
			return err
		}
		var resp response
		if v, err := s.do(t, req); err != nil {
			resp.Error = err.Error()
		} else {
			resp.Value = v
		}
		if err := out.Encode(resp); err != nil {
			return err
		}
	}
}

func (s *store) do(t *eventloop.Task, req request) (json.RawMessage, error) {
	switch v, ok := s.values[req.Key]; {
	case req.Op == "set":
		s.set(req.Key, req.Value)
		return req.Value, nil
	case req.Op == "get" && !ok:
		return nil, errors.New("no such key")
	case req.Op == "get", req.Op == "wait" && ok:
		return v, nil
	case req.Op == "wait":
		return s.wait(t, req.Key, time.Duration(req.Ms)*time.Millisecond)
	}
	return nil, fmt.Errorf("unknown op %q", req.Op)
}

func (s *store) set(key string, v json.RawMessage) {
	s.values[key] = v
	if a := s.waiting[key]; a != nil {
		delete(s.waiting, key)
		a.resolve(v, nil)
	}
}

// wait suspends the task until key is set, for at most d.
func (s *store) wait(t *eventloop.Task, key string, d time.Duration) (json.RawMessage, error) {
	a := s.waiting[key]
	if a == nil {
		a = &arrival{}
		a.value, a.resolve = eventloop.NewFuture[json.RawMessage](s.l)
		a.value.Unref() // waiting for a value does not keep the loop alive
		s.waiting[key] = a
	}
	a.tasks++
	defer func() {
		if a.tasks--; a.tasks == 0 && s.waiting[key] == a {
			delete(s.waiting, key)
			a.resolve(nil, nil)
		}
	}()
	late, resolve := eventloop.NewFuture[json.RawMessage](s.l)
	timer := s.l.AfterFunc(d, func() { resolve(nil, errors.New("it was not set")) })
	defer resolve(nil, nil)
	defer timer.Stop()
	return eventloop.Race(s.l, a.value, late).Await(t)
}
