// Websocket is a chat room on an event loop: browsers connect with WebSocket, and every
// message goes to all members.
//
//	go run . -addr 127.0.0.1:8080
//
// Then open http://127.0.0.1:8080/ in two windows, or join from a terminal (client.go),
// where each line of the input is a message:
//
//	go run . -join 'ws://127.0.0.1:8080/chat?name=ann'
//
// Only callbacks of one loop use the room and its members, so they need no locks and no
// goroutine per member. This file contains the room. websocket.go contains the protocol,
// from HTTPRequest.Upgrade on, and you may copy it. The example is a separate module
// because of its codec, on which eventloop does not depend.
//
// An interrupt (^C) ends it gracefully: the members get a close frame that says that the
// server is going away. When they have responded, nothing keeps the loop alive.
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
	pingEvery  = 30 * time.Second // so that proxies do not close the connection as idle
)

// A room is used only on the loop.
type room struct {
	loop    *eventloop.Loop
	members map[*socket]string // their names
	guests  int                // number of clients that joined without a name
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

// name returns the name that the client of r has chosen with ?name=..., or a new one.
func (m *room) name(r *eventloop.HTTPRequest) string {
	query, _ := url.ParseQuery(r.Query())
	letters := []rune(query.Get("name")) // the conversion makes it valid UTF-8
	if len(letters) == 0 {
		m.guests++
		return fmt.Sprint("guest ", m.guests)
	}
	return string(letters[:min(len(letters), maxName)])
}

// say sends a line to every member.
func (m *room) say(line string) { m.tell(textFrame(line)) }

// tell sends a frame to every member. The set of members does not change during the call: a
// member that is cut off because of the frame leaves in a later turn, with onClose.
func (m *room) tell(frame []byte) {
	for s := range m.members {
		s.send(frame)
	}
}

// close ends the room. Shutdown has already closed the server and the interval of the
// pings. The connections end when their clients respond, or are cut off when the grace
// period is over.
func (m *room) close() {
	fmt.Println("closing; members told:", len(m.members))
	m.closing = true
	for s := range m.members {
		s.end(ws.StatusGoingAway, "the server is going away")
	}
}
