// Http is a small web application on an event loop: a JSON API, delayed responses,
// server-sent events with a page that shows them, and live statistics of the loop.
//
//	go run ./examples/http -addr 127.0.0.1:8080
//
// Then open http://127.0.0.1:8080/ or try
//
//	curl -d '{"text":"hello"}' http://127.0.0.1:8080/api/notes
//	curl http://127.0.0.1:8080/api/notes
//	curl http://127.0.0.1:8080/api/later?ms=500
//	curl -N http://127.0.0.1:8080/events
//
// Only callbacks of one loop use its state, so it needs no locks. An interrupt (^C)
// ends it gracefully: pending requests get their responses, event streams are closed,
// and then nothing keeps the loop alive.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/onloop/eventloop"
)

//go:embed page.html
var page []byte

// An app is used only on the loop.
type app struct {
	loop    *eventloop.Loop
	server  *eventloop.HTTPServer
	notes   []note
	streams []*eventloop.HTTPResponseWriter
}

type note struct {
	ID   int       `json:"id"`
	Text string    `json:"text"`
	Time time.Time `json:"time"`
}

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "address to listen on")
	flag.Parse()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		return newApp(l, *addr)
	})
	if err != nil {
		log.Fatal(err)
	}
}

// newApp starts the application.
func newApp(l *eventloop.Loop, addr string) error {
	a := &app{loop: l, notes: []note{}}
	s, err := l.ListenHTTP(addr, a.handle, &eventloop.HTTPServerConfig{ResponseTimeout: 30 * time.Second})
	if err != nil {
		return err
	}
	a.server = s
	// Pending requests have ten seconds to finish.
	l.OnShutdown(a.closeStreams)
	if err := l.ShutdownOn(10*time.Second, os.Interrupt); err != nil {
		return err
	}
	l.Every(time.Second, func() { a.broadcast("stats", l.Stats()) })
	fmt.Printf("listening on http://%v/\n", s.Addr())
	return nil
}

// closeStreams ends the event streams, which otherwise last until their clients
// disconnect.
func (a *app) closeStreams() {
	fmt.Println("closing; requests that wait are answered")
	for _, w := range a.streams {
		w.Close()
	}
	a.streams = nil
}

func (a *app) handle(r *eventloop.HTTPRequest) {
	switch r.Path() {
	case "/":
		a.only(r, "GET", func() { respond(r, 200, "text/html; charset=utf-8", page) })
	case "/api/notes":
		if r.Method() == "POST" {
			a.addNote(r)
			return
		}
		a.only(r, "GET", func() { respondJSON(r, 200, a.notes) })
	case "/api/later":
		a.later(r)
	case "/api/stats":
		respondJSON(r, 200, a.loop.Stats())
	case "/events":
		a.only(r, "GET", func() { a.events(r) })
	default:
		respondError(r, 404, errors.New("no such page"))
	}
}

// only runs f if the request has the given method, or HEAD if the method is GET.
func (a *app) only(r *eventloop.HTTPRequest, method string, f func()) {
	if r.Method() == method || r.Method() == "HEAD" && method == "GET" {
		f()
		return
	}
	respondError(r, 405, errors.New("method not allowed"))
}

func (a *app) addNote(r *eventloop.HTTPRequest) {
	var n note
	if err := json.Unmarshal(r.Body(), &n); err != nil {
		respondError(r, 400, err)
		return
	}
	if n.Text == "" {
		respondError(r, 422, errors.New("a note needs a text"))
		return
	}
	n.ID, n.Time = len(a.notes)+1, time.Now()
	a.notes = append(a.notes, n)
	respondJSON(r, 201, n)
	a.broadcast("note", n)
}

// later responds after some time. If the client disconnects first, the timer is stopped.
func (a *app) later(r *eventloop.HTTPRequest) {
	query, _ := url.ParseQuery(r.Query())
	ms, err := strconv.Atoi(query.Get("ms"))
	if err != nil || ms < 0 || ms > 10_000 {
		respondError(r, 400, errors.New("ms is a number from 0 to 10000"))
		return
	}
	start := time.Now()
	t := a.loop.AfterFunc(time.Duration(ms)*time.Millisecond, func() {
		respondJSON(r, 200, map[string]string{"waited": time.Since(start).String()})
	})
	r.OnAbort(func(err error) {
		if errors.Is(err, eventloop.ErrReset) {
			t.Stop()
		}
	})
}

// events sends server-sent events until the client disconnects.
func (a *app) events(r *eventloop.HTTPRequest) {
	w, err := r.RespondStream(200, eventloop.HTTPHeaders{
		{Name: "Content-Type", Value: "text/event-stream"},
		{Name: "Cache-Control", Value: "no-store"},
	})
	if err != nil {
		return // the client has already disconnected
	}
	if r.Method() == "HEAD" {
		w.Close()
		return
	}
	a.streams = append(a.streams, w)
	for _, n := range a.notes {
		send(w, "note", n)
	}
	send(w, "stats", a.loop.Stats())
	r.OnAbort(func(error) {
		a.streams = slices.DeleteFunc(a.streams, func(v *eventloop.HTTPResponseWriter) bool { return v == w })
		w.Close()
	})
}

// broadcast sends an event to every client that listens and keeps up.
func (a *app) broadcast(event string, v any) {
	for _, w := range a.streams {
		if !w.NeedDrain() {
			send(w, event, v)
		}
	}
}

func send(w *eventloop.HTTPResponseWriter, event string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, data) // OnAbort reports failures
}

func respond(r *eventloop.HTTPRequest, status int, contentType string, body []byte) {
	err := r.Respond(status, eventloop.HTTPHeaders{{Name: "Content-Type", Value: contentType}}, body)
	if err != nil && !eventloop.IsInfo(err) {
		log.Print(err)
	}
}

func respondJSON(r *eventloop.HTTPRequest, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		respondError(r, 500, err)
		return
	}
	respond(r, status, "application/json", append(body, '\n'))
}

func respondError(r *eventloop.HTTPRequest, status int, err error) {
	body, _ := json.Marshal(map[string]string{"error": err.Error()})
	respond(r, status, "application/json", append(body, '\n'))
}
