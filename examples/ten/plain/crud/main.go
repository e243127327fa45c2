// Crud is a web service of items: GET and POST /items, GET, PUT and DELETE /items/ID.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

type item struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
}

type store struct {
	mu    sync.Mutex
	items map[int]item
	last  int
}

func (s *store) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	byID := func(a, b item) int { return cmp.Compare(a.ID, b.ID) }
	items := slices.AppendSeq([]item{}, maps.Values(s.items)) // "[]" if there are none
	slices.SortFunc(items, byID)
	s.mu.Unlock()
	respond(w, 200, items)
}

func (s *store) create(w http.ResponseWriter, r *http.Request) {
	it, ok := decode(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	s.last++
	it.ID = s.last
	s.items[it.ID] = it
	s.mu.Unlock()
	respond(w, 201, it)
}

func (s *store) get(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.Atoi(r.PathValue("id"))
	s.mu.Lock()
	it, found := s.items[id]
	s.mu.Unlock()
	if !found {
		http.Error(w, "no such item", 404)
		return
	}
	respond(w, 200, it)
}

func (s *store) replace(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.Atoi(r.PathValue("id"))
	it, ok := decode(w, r)
	if !ok {
		return
	}
	it.ID = id
	s.mu.Lock()
	_, found := s.items[id]
	if found {
		s.items[id] = it
	}
	s.mu.Unlock()
	if !found {
		http.Error(w, "no such item", 404)
		return
	}
	respond(w, 200, it)
}

func (s *store) remove(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.Atoi(r.PathValue("id"))
	s.mu.Lock()
	_, found := s.items[id]
	delete(s.items, id)
	s.mu.Unlock()
	if !found {
		http.Error(w, "no such item", 404)
		return
	}
	w.WriteHeader(204)
}

func decode(w http.ResponseWriter, r *http.Request) (it item, ok bool) {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&it)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	case err != nil || it.Name == "":
		http.Error(w, "not an item", 400)
	default:
		return it, true
	}
	return it, false
}

func respond(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func main() {
	s := &store{items: make(map[int]item)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items", s.list)
	mux.HandleFunc("POST /items", s.create)
	mux.HandleFunc("GET /items/{id}", s.get)
	mux.HandleFunc("PUT /items/{id}", s.replace)
	mux.HandleFunc("DELETE /items/{id}", s.remove)
	ln, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", ln.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute}
	ended := make(chan error)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		ended <- server.Shutdown(ctx)
	}()
	if err := server.Serve(ln); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
}
