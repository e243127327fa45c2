package mongoloop_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	mongoloop "github.com/onloop/eventloop/drivers/mongo"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// watchdogTime is when something that should have ended is taken to hang.
const watchdogTime = 2 * time.Minute

func background() context.Context { return context.Background() }

// A user is a document of the tests.
type user struct {
	ID   int    `bson:"_id"`
	Name string `bson:"name"`
}

// A fake is a server that speaks as much of the protocol of MongoDB as the tests need. It
// has one collection. Filters select by _id or take all.
type fake struct {
	ln      net.Listener
	command func(name string) answer // of a test; nil: as ok

	mu      sync.Mutex
	docs    []bson.D
	cursors map[int64][]bson.D
	seen    []string // commands, without those of the connection
	conns   map[net.Conn]bool
	wg      sync.WaitGroup
}

// An answer is what a fake does with a command.
type answer int

const (
	ok       answer = iota
	hangUp          // close the connection
	never           // no answer
	refuse          // as MongoDB refuses wrong credentials
	nonsense        // as to a saslStart, with a payload that means nothing
	garbage         // bytes that are no message
	huge            // the head of a message of 2 GB
)

func newFake(docs ...bson.D) *fake {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s := &fake{ln: ln, docs: docs, cursors: map[int64][]bson.D{}, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.add(c)
		}
	})
	return s
}

// add serves a connection.
func (s *fake) add(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = true
	s.wg.Go(func() { s.serve(c) })
}

// close ends the server and its connections.
func (s *fake) close() {
	s.ln.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *fake) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *fake) openCursors() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.cursors)
}

func (s *fake) commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

func (s *fake) serve(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	for {
		var head [16]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.LittleEndian.Uint32(head[:])-16)
		if _, err := io.ReadFull(c, body); err != nil {
			return
		}
		cmd, docs := parse(body)
		reply, what := s.answer(cmd, docs)
		switch what {
		case hangUp:
			return
		case never:
			continue
		case garbage:
			c.Write([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))
			return
		case huge:
			c.Write([]byte("\xff\xff\xff\x7f............"))
			continue
		}
		out, err := bson.Marshal(reply)
		if err != nil {
			panic(err)
		}
		msg := binary.LittleEndian.AppendUint32(nil, uint32(16+5+len(out)))
		msg = append(msg, 1, 0, 0, 0)
		msg = append(msg, head[4:8]...)
		msg = binary.LittleEndian.AppendUint32(msg, 2013)
		msg = append(msg, 0, 0, 0, 0, 0)
		if _, err := c.Write(append(msg, out...)); err != nil {
			return
		}
	}
}

// parse returns the command of an OP_MSG, and the documents of its sequence.
func parse(body []byte) (cmd bson.D, docs []bson.D) {
	body = body[4:]
	for len(body) > 0 {
		kind := body[0]
		body = body[1:]
		size := binary.LittleEndian.Uint32(body)
		section := body[:size]
		body = body[size:]
		if kind == 0 {
			mustUnmarshal(section, &cmd)
			continue
		}
		section = section[4:]
		section = section[slices.Index(section, 0)+1:]
		for len(section) > 0 {
			n := binary.LittleEndian.Uint32(section)
			var d bson.D
			mustUnmarshal(section[:n], &d)
			docs = append(docs, d)
			section = section[n:]
		}
	}
	return cmd, docs
}

func mustUnmarshal(b []byte, v any) {
	if err := bson.Unmarshal(b, v); err != nil {
		panic(err)
	}
}

func get(d bson.D, name string) any {
	for _, e := range d {
		if e.Key == name {
			return e.Value
		}
	}
	return nil
}

// matches reports whether a document has the _id of a filter, if the filter has one.
func matches(filter any, d bson.D) bool {
	f, _ := filter.(bson.D)
	id := get(f, "_id")
	return id == nil || fmt.Sprint(id) == fmt.Sprint(get(d, "_id"))
}

func (s *fake) answer(cmd bson.D, docs []bson.D) (bson.D, answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fine := bson.D{{Key: "ok", Value: 1}}
	switch name := cmd[0].Key; name {
	case "hello", "isMaster":
		return bson.D{{Key: "ok", Value: 1}, {Key: "isWritablePrimary", Value: true}, {Key: "helloOk", Value: true}, {Key: "minWireVersion", Value: 0},
			{Key: "maxWireVersion", Value: 21}, {Key: "maxBsonObjectSize", Value: 16 << 20}, {Key: "maxMessageSizeBytes", Value: 48_000_000},
			{Key: "maxWriteBatchSize", Value: 100_000}}, ok
	case "endSessions":
		return fine, ok
	default:
		s.seen = append(s.seen, name)
		if s.command != nil {
			switch what := s.command(name); what {
			case refuse:
				return bson.D{{Key: "ok", Value: 0}, {Key: "code", Value: 18}, {Key: "codeName", Value: "AuthenticationFailed"}, {Key: "errmsg", Value: "Authentication failed."}}, ok
			case nonsense:
				return append(fine, bson.E{Key: "conversationId", Value: 1}, bson.E{Key: "payload", Value: []byte("?")}, bson.E{Key: "done", Value: false}), ok
			case hangUp, never, garbage, huge:
				return nil, what
			}
		}
	}
	switch cmd[0].Key {
	case "insert":
		var failed bson.A
		n := 0
		for i, d := range docs {
			if slices.ContainsFunc(s.docs, func(have bson.D) bool { return fmt.Sprint(get(have, "_id")) == fmt.Sprint(get(d, "_id")) }) {
				failed = append(failed, bson.D{{Key: "index", Value: i}, {Key: "code", Value: 11000}, {Key: "errmsg", Value: "E11000 duplicate key"}})
				break
			}
			s.docs = append(s.docs, d)
			n++
		}
		reply := append(fine, bson.E{Key: "n", Value: n})
		if failed != nil {
			reply = append(reply, bson.E{Key: "writeErrors", Value: failed})
		}
		return reply, ok
	case "find", "aggregate":
		filter := get(cmd, "filter")
		if pipeline, _ := get(cmd, "pipeline").(bson.A); len(pipeline) > 0 {
			filter = get(pipeline[0].(bson.D), "$match")
		}
		var found []bson.D
		for _, d := range s.docs {
			if matches(filter, d) {
				found = append(found, d)
			}
		}
		if pipeline, _ := get(cmd, "pipeline").(bson.A); len(pipeline) == 2 { // a count
			found = []bson.D{{{Key: "_id", Value: 1}, {Key: "n", Value: len(found)}}}
		}
		size, _ := get(cmd, "batchSize").(int32)
		if o, isDoc := get(cmd, "cursor").(bson.D); isDoc {
			size, _ = get(o, "batchSize").(int32)
		}
		if _, one := get(cmd, "limit").(int64); one {
			found, size = found[:min(1, len(found))], 0
		}
		return s.batch(found, size, "firstBatch", int64(len(s.cursors)+1)), ok
	case "getMore":
		id := cmd[0].Value.(int64)
		size, _ := get(cmd, "batchSize").(int32)
		rest := s.cursors[id]
		delete(s.cursors, id)
		return s.batch(rest, size, "nextBatch", id), ok
	case "killCursors":
		for _, id := range get(cmd, "cursors").(bson.A) {
			delete(s.cursors, id.(int64))
		}
		return fine, ok
	case "update", "delete", "findAndModify":
		return s.change(cmd, docs), ok
	case "ping":
		return fine, ok
	}
	return bson.D{{Key: "ok", Value: 0}, {Key: "code", Value: 59}, {Key: "codeName", Value: "CommandNotFound"}, {Key: "errmsg", Value: "no such command"}}, ok
}

// batch answers with the first documents and keeps the rest for a getMore.
func (s *fake) batch(docs []bson.D, size int32, name string, id int64) bson.D {
	n := len(docs)
	if size > 0 {
		n = min(n, int(size))
	}
	first := bson.A{}
	for _, d := range docs[:n] {
		first = append(first, d)
	}
	if n == len(docs) {
		id = 0
	} else {
		s.cursors[id] = docs[n:]
	}
	return bson.D{{Key: "ok", Value: 1}, {Key: "cursor", Value: bson.D{{Key: "id", Value: id}, {Key: "ns", Value: "app.users"}, {Key: name, Value: first}}}}
}

// change does an update or a replacement, a delete, or a findAndModify.
func (s *fake) change(cmd bson.D, docs []bson.D) bson.D {
	filter, update, remove, many := get(cmd, "query"), get(cmd, "update"), get(cmd, "remove") == true, false
	if len(docs) > 0 {
		filter, update, many = get(docs[0], "q"), get(docs[0], "u"), get(docs[0], "multi") == true
		if limit, isDelete := get(docs[0], "limit").(int32); isDelete {
			remove, many = true, limit == 0
		}
	}
	var before any
	var kept []bson.D
	n := 0
	for _, d := range s.docs {
		if !matches(filter, d) || n > 0 && !many {
			kept = append(kept, d)
			continue
		}
		if n++; n == 1 {
			before = d
		}
		if !remove {
			kept = append(kept, updated(d, update.(bson.D)))
		}
	}
	s.docs = kept
	if cmd[0].Key == "findAndModify" {
		return bson.D{{Key: "ok", Value: 1}, {Key: "value", Value: before}}
	}
	return bson.D{{Key: "ok", Value: 1}, {Key: "n", Value: n}, {Key: "nModified", Value: n}}
}

func updated(d, update bson.D) bson.D {
	set, isUpdate := get(update, "$set").(bson.D)
	if !isUpdate {
		return append(bson.D{{Key: "_id", Value: get(d, "_id")}}, slices.DeleteFunc(slices.Clone(update), func(e bson.E) bool { return e.Key == "_id" })...)
	}
	d = slices.Clone(d)
	for _, e := range set {
		for i := range d {
			if d[i].Key == e.Key {
				d[i].Value = e.Value
			}
		}
	}
	return d
}

// users returns n documents.
func users(n int) (all []bson.D) {
	for i := range n {
		all = append(all, bson.D{{Key: "_id", Value: i}, {Key: "name", Value: fmt.Sprint("user", i)}})
	}
	return all
}

// clientOptions are for a client of the server. With a stable API, all commands are OP_MSG.
func (s *fake) clientOptions() *options.ClientOptions {
	return options.Client().ApplyURI("mongodb://" + s.ln.Addr().String()).SetServerAPIOptions(options.ServerAPI(options.ServerAPIVersion1)).
		SetRetryReads(false).SetRetryWrites(false).SetServerSelectionTimeout(watchdogTime)
}

// on runs f on a loop, with a client and a collection of the server, and fails if the loop
// does not end, or leaves connections.
func on(t *testing.T, s *fake, f func(l *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user])) {
	t.Helper()
	defer s.close()
	ctx, cancel := context.WithTimeoutCause(t.Context(), watchdogTime, errors.New("the loop hangs"))
	defer cancel()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		c, err := mongoloop.Connect(l, s.clientOptions())
		if err != nil {
			return err
		}
		f(l, c, mongoloop.In[user](c, "app", "users"))
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(watchdogTime); s.open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d connections are left", s.open())
			return
		}
	}
}

// inTask runs f in a task, with such a client.
func inTask(t *testing.T, s *fake, f func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user])) {
	t.Helper()
	ended := false
	on(t, s, func(l *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		l.Go(background(), func(task *eventloop.Task) error {
			f(task, c, coll)
			ended = true
			return nil
		})
	})
	if !ended {
		t.Error("the task did not end")
	}
}
