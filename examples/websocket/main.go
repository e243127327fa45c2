// Websocket is a chat room on an event loop: browsers come in by WebSocket, and
// what one says all hear.
//
//	go run . -addr 127.0.0.1:8080
//
// Then open http://127.0.0.1:8080/ in two windows, or be a member in a terminal
// (client.go), where each line of the input is said:
//
//	go run . -join 'ws://127.0.0.1:8080/chat?name=ann'
//
// The room and its members are used by callbacks of one loop, so there is no lock
// in it, and no goroutine for a member. This file is the room; websocket.go is the
// protocol, from HTTPRequest.Upgrade on, which you may take along. It is a module
// of its own for the sake of its codec, which eventloop does not depend on.
//
// An interrupt (^C) ends it gracefully: the members are told that the server is
// going away, and when they have answered nothing keeps the loop alive.
package main

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"time"

	"github.com/gobwas/ws"
	"github.com/onloop/eventloop"
)

//go:embed page.html
var page []byte

const (
	maxMembers = 1000
	maxName    = 20               // letters
	pingEvery  = 30 * time.Second // keeps proxies from taking the connection for dead
)

// A room is used on the loop only.
type room struct {
	loop    *eventloop.Loop
	members map[*socket]string // their names
	guests  int                // who came without a name
	closing bool
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	url := flag.String("join", "", "URL of a room to be a member of, instead of being one")
	flag.Parse()
	if *url != "" {
		if err := member(*url, os.Stdin, os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	}
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		m := newRoom(l)
		s, err := l.ListenHTTP(*addr, m.handle, nil)
		if err != nil {
			return err
		}
		if err := l.ShutdownOn(2*closeTimeout, os.Interrupt); err != nil {
			return err
		}
		fmt.Printf("chat server on %v\n", s.Addr())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

func newRoom(l *eventloop.Loop) *room {
	m := &room{loop: l, members: make(map[*socket]string)}
	l.OnShutdown(m.close)
	l.Every(pingEvery, func() { m.tell(ws.CompiledPing) })
	return m
}

func (m *room) handle(r *eventloop.HTTPRequest) {
	switch r.Path() {
	case "/":
		r.Respond(200, eventloop.HTTPHeaders{{Name: "Content-Type", Value: "text/html; charset=utf-8"}}, page)
	case "/chat":
		m.enter(r)
	default:
		refuse(r, 404, "no such page")
	}
}

// enter makes the client of r a member.
func (m *room) enter(r *eventloop.HTTPRequest) {
	if m.closing || len(m.members) >= maxMembers {
		refuse(r, 503, "the room is full, or closing")
		return
	}
	s := upgrade(r)
	if s == nil {
		return
	}
	name := m.name(r)
	s.onText = func(text string) { m.say(name + ": " + text) }
	s.onClose = func() {
		delete(m.members, s)
		m.say("* " + name + " has left")
	}
	m.members[s] = name
	m.say("* " + name + " is here")
}

// name returns what the client of r wants to be called: ?name=...
func (m *room) name(r *eventloop.HTTPRequest) string {
	query, _ := url.ParseQuery(r.Query())
	letters := []rune(query.Get("name")) // and so valid UTF-8
	if len(letters) == 0 {
		m.guests++
		return fmt.Sprint("guest ", m.guests)
	}
	return string(letters[:min(len(letters), maxName)])
}

// say sends a line to every member.
func (m *room) say(line string) { m.tell(textFrame(line)) }

// tell sends a frame to every member. The set of members does not change meanwhile: a
// member that is cut off because of it leaves in a later turn, with onClose.
func (m *room) tell(frame []byte) {
	for s := range m.members {
		s.send(frame)
	}
}

// close ends the room. Shutdown has closed the server and the pings; the connections
// end by themselves when their clients answer, or are cut off when the grace period
// is over.
func (m *room) close() {
	fmt.Println("closing; members told:", len(m.members))
	m.closing = true
	for s := range m.members {
		s.end(ws.StatusGoingAway, "the server is going away")
	}
}
