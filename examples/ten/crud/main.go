// Crud is a web service of items: GET and POST /items, GET, PUT and DELETE /items/ID.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/onloop/eventloop"
)

type item struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
}

type store struct { // of the loop: no lock
	items map[int]item
	last  int
}

func (s *store) handle(r *eventloop.HTTPRequest) {
	path, isItem := strings.CutPrefix(r.Path(), "/items/")
	id, _ := strconv.Atoi(path)
	it, found := s.items[id]
	switch route := r.Method() + " " + r.Path(); {
	case route == "GET /items":
		byID := func(a, b item) int { return cmp.Compare(a.ID, b.ID) }
		items := slices.AppendSeq([]item{}, maps.Values(s.items)) // "[]" if there are none
		slices.SortFunc(items, byID)
		r.RespondJSON(200, items)
	case route == "POST /items":
		s.put(r, s.last+1, 201)
	case r.Path() == "/items" || found && !slices.Contains([]string{"GET", "PUT", "DELETE"}, r.Method()):
		r.RespondText(405, "method not allowed\n")
	case !isItem || !found:
		r.RespondText(404, "no such item\n")
	case r.Method() == "GET":
		r.RespondJSON(200, it)
	case r.Method() == "PUT":
		s.put(r, id, 200)
	default:
		delete(s.items, id)
		r.Respond(204, nil, nil)
	}
}

func (s *store) put(r *eventloop.HTTPRequest, id, status int) {
	var it item
	if err := json.Unmarshal(r.Body(), &it); err != nil || it.Name == "" {
		r.RespondText(400, "not an item\n")
		return
	}
	it.ID = id
	s.items[id] = it
	s.last = max(s.last, id)
	r.RespondJSON(status, it)
}

func main() {
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		s := &store{items: make(map[int]item)}
		server, err := l.ListenHTTP(os.Args[1], s.handle, &eventloop.HTTPServerConfig{MaxBodyBytes: 1 << 16})
		if err != nil {
			return err
		}
		fmt.Println("listening on", server.Addr())
		return l.ShutdownOn(2*time.Second, syscall.SIGTERM)
	})
	if err != nil {
		log.Fatal(err)
	}
}
