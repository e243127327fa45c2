package mongoloop_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/onloop/eventloop"
	mongoloop "github.com/onloop/eventloop/drivers/mongo"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

func id(n int) bson.M { return bson.M{"_id": n} }

func TestTheMethodsOfACollection(t *testing.T) {
	inTask(t, newFake(), func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		ctx := task.Context()
		check := func(what string, got any, err error, want string) {
			if s := fmt.Sprint(got, err); s != want {
				t.Errorf("%s: %s, want %s", what, s, want)
			}
		}
		one, err := coll.InsertOne(ctx, user{1, "Ada"}).Await(task)
		check("InsertOne", one.InsertedID, err, "1 <nil>")
		many, err := coll.InsertMany(ctx, []user{{2, "Bob"}, {3, "Cyd"}}).Await(task)
		check("InsertMany", many.InsertedIDs, err, "[2 3] <nil>")
		u, err := coll.FindOne(ctx, id(2)).Await(task)
		check("FindOne", u, err, "{2 Bob} <nil>")
		n, err := coll.CountDocuments(ctx, bson.M{}).Await(task)
		check("CountDocuments", n, err, "3 <nil>")
		up, err := coll.UpdateOne(ctx, id(2), bson.M{"$set": bson.M{"name": "Bo"}}).Await(task)
		check("UpdateOne", up.ModifiedCount, err, "1 <nil>")
		up, err = coll.UpdateMany(ctx, bson.M{}, bson.M{"$set": bson.M{"name": "X"}}).Await(task)
		check("UpdateMany", up.ModifiedCount, err, "3 <nil>")
		up, err = coll.ReplaceOne(ctx, id(3), user{3, "Dee"}).Await(task)
		check("ReplaceOne", up.ModifiedCount, err, "1 <nil>")
		u, err = coll.FindOneAndUpdate(ctx, id(3), bson.M{"$set": bson.M{"name": "Eve"}}).Await(task)
		check("FindOneAndUpdate", u, err, "{3 Dee} <nil>")
		u, err = coll.FindOneAndReplace(ctx, id(3), user{3, "Fay"}).Await(task)
		check("FindOneAndReplace", u, err, "{3 Eve} <nil>")
		u, err = coll.FindOneAndDelete(ctx, id(3)).Await(task)
		check("FindOneAndDelete", u, err, "{3 Fay} <nil>")
		del, err := coll.DeleteOne(ctx, id(1)).Await(task)
		check("DeleteOne", del.DeletedCount, err, "1 <nil>")
		del, err = coll.DeleteMany(ctx, bson.M{}).Await(task)
		check("DeleteMany", del.DeletedCount, err, "1 <nil>")
		_, err = c.Ping(ctx).Await(task)
		check("Ping", nil, err, "<nil> <nil>")
		v, err := mongoloop.Do(ctx, c, func(ctx context.Context, mc *mongo.Client) (int64, error) {
			return mc.Database("app").Collection("users").CountDocuments(ctx, bson.M{"_id": 9})
		}).Await(task)
		check("Do", v, err, "0 <nil>")
		if c.Loop() != task.Loop() || coll.Mongo().Name() != "users" || c.Mongo() == nil {
			t.Error("a wrong loop or collection")
		}
	})
}

func TestErrorsAreThoseOfTheOfficialClient(t *testing.T) {
	s := newFake(append(users(1), bson.D{{Key: "_id", Value: 5}, {Key: "name", Value: 7}})...)
	inTask(t, s, func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		ctx := task.Context()
		_, err := coll.FindOne(ctx, id(9)).Await(task)
		e, typed := errors.AsType[*mongoloop.Error](err)
		if !errors.Is(err, mongo.ErrNoDocuments) || !typed || e.Op != "FindOne" || e.Collection != "app.users" {
			t.Errorf("no document: %v", err)
		}
		if _, err = coll.InsertOne(ctx, user{0, "again"}).Await(task); !mongo.IsDuplicateKeyError(err) {
			t.Errorf("duplicate: %v", err)
		}
		many, err := coll.InsertMany(ctx, []user{{6, "new"}, {0, "again"}}).Await(task)
		if bulk, ok := errors.AsType[mongo.BulkWriteException](err); !ok || len(bulk.WriteErrors) != 1 || len(many.InsertedIDs) == 0 {
			t.Errorf("bulk: %v, %v", many, err)
		}
		u, err := coll.FindOne(ctx, id(5)).Await(task)
		if d, ok := errors.AsType[*mongoloop.DecodeError](err); !ok || d.Document.Lookup("_id").AsInt64() != 5 || u != (user{}) {
			t.Errorf("not a user: %v, %v", u, err)
		}
		_, err = mongoloop.Do(ctx, c, func(ctx context.Context, mc *mongo.Client) (int, error) {
			return 0, mc.Database("app").RunCommand(ctx, bson.D{{Key: "nonsense", Value: 1}}).Err()
		}).Await(task)
		if ce, ok := errors.AsType[mongo.CommandError](err); !ok || ce.Code != 59 {
			t.Errorf("nonsense: %v", err)
		}
	})
}

func TestAServerThatVanishesIsANetworkError(t *testing.T) {
	s := newFake(users(1)...)
	s.command = func(name string) answer {
		if name == "find" {
			return hangUp
		}
		return ok
	}
	inTask(t, s, func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		if _, err := coll.FindOne(task.Context(), id(0)).Await(task); !mongo.IsNetworkError(err) {
			t.Errorf("%v, want a network error", err)
		}
		if _, err := c.Ping(task.Context()).Await(task); err != nil {
			t.Errorf("the client does not recover: %v", err)
		}
	})
}

// withCredentials runs f in a task, with a client that has to say who it is.
func withCredentials(t *testing.T, s *fake, mechanism string, f func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user])) {
	t.Helper()
	inTask(t, s, func(task *eventloop.Task, _ *mongoloop.Client, _ *mongoloop.Collection[user]) {
		o := s.clientOptions().SetRetryReads(true).SetRetryWrites(true).
			SetAuth(options.Credential{AuthMechanism: mechanism, Username: "ada", Password: "wrong"})
		c, err := mongoloop.Connect(task.Loop(), o)
		if err != nil {
			t.Error(err)
			return
		}
		f(task, c, mongoloop.In[user](c, "app", "users"))
	})
}

func onSASL(what answer) func(name string) answer {
	return func(name string) answer {
		if name == "saslStart" {
			return what
		}
		return ok
	}
}

// Each operation has a client of its own: one that comes while the pool is cleared does not
// try the credentials.
func TestWrongCredentialsFailEachOperation(t *testing.T) {
	type collection = *mongoloop.Collection[user]
	operations := map[string]func(task *eventloop.Task, c *mongoloop.Client, coll collection) error{
		"Ping": func(task *eventloop.Task, c *mongoloop.Client, _ collection) error {
			_, err := c.Ping(task.Context()).Await(task)
			return err
		},
		"FindOne": func(task *eventloop.Task, _ *mongoloop.Client, coll collection) error {
			_, err := coll.FindOne(task.Context(), id(0)).Await(task)
			return err
		},
		"InsertOne": func(task *eventloop.Task, _ *mongoloop.Client, coll collection) error {
			_, err := coll.InsertOne(task.Context(), user{1, "Ada"}).Await(task)
			return err
		},
		"Find": func(task *eventloop.Task, _ *mongoloop.Client, coll collection) error {
			f, resolve := eventloop.NewFuture[int](task.Loop())
			coll.Find(task.Context(), bson.M{}, func(user) { t.Error("a document") }, func(err error) { resolve(0, err) })
			_, err := f.Await(task)
			return err
		},
		"All": func(task *eventloop.Task, _ *mongoloop.Client, coll collection) (last error) {
			for _, err := range coll.All(task, bson.M{}) {
				last = errors.Join(last, err)
			}
			return last
		},
	}
	for _, mechanism := range []string{"", "SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN"} {
		for op, f := range operations {
			s := newFake(users(1)...)
			s.command = onSASL(refuse)
			withCredentials(t, s, mechanism, func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
				err := f(task, c, coll)
				if ce, ok := errors.AsType[mongo.CommandError](err); !ok || ce.Code != 18 || ce.Name != "AuthenticationFailed" {
					t.Errorf("%q, %s: %v", mechanism, op, err)
				}
				e, typed := errors.AsType[*mongoloop.Error](err)
				if op != "Ping" && (!typed || e.Op != op || e.Collection != "app.users") {
					t.Errorf("%q, %s: %v", mechanism, op, err)
				}
			})
			if seen := s.commands(); !slices.Equal(seen, []string{"saslStart"}) {
				t.Errorf("%q, %s: the server got %v", mechanism, op, seen)
			}
		}
	}
}

func TestWrongCredentialsFailOperationsThatRunAtATime(t *testing.T) {
	const n = 32
	s := newFake(users(1)...)
	s.command = onSASL(refuse)
	refused, other := 0, 0
	withCredentials(t, s, "", func(_ *eventloop.Task, _ *mongoloop.Client, coll *mongoloop.Collection[user]) {
		for range n {
			coll.FindOne(background(), id(0)).Then(func(_ user, err error) {
				e, typed := errors.AsType[*mongoloop.Error](err)
				ce, _ := errors.AsType[mongo.CommandError](err)
				switch {
				case !typed || e.Op != "FindOne" || !strings.Contains(err.Error(), "AuthenticationFailed"):
					t.Error(err)
				case ce.Code == 18:
					refused++
				default: // the pool is cleared
					other++
				}
			})
		}
	})
	if refused == 0 || refused+other != n {
		t.Errorf("%d refused, %d others", refused, other)
	}
}

func TestAServerThatDoesNotFinishAuthentication(t *testing.T) {
	cause := errors.New("enough")
	for what, is := range map[answer]func(err error) bool{
		hangUp:   mongo.IsNetworkError,
		nonsense: func(err error) bool { return strings.Contains(err.Error(), "SCRAM-SHA-256") },
		never:    func(err error) bool { return errors.Is(err, cause) && errors.Is(err, context.Canceled) },
	} {
		s := newFake(users(1)...)
		ctx, cancel := context.WithCancelCause(background())
		s.command = func(name string) answer {
			if name == "saslStart" && what == never {
				cancel(cause)
			}
			return onSASL(what)(name)
		}
		withCredentials(t, s, "SCRAM-SHA-256", func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
			_, err := coll.FindOne(ctx, id(0)).Await(task)
			if e, typed := errors.AsType[*mongoloop.Error](err); !typed || e.Op != "FindOne" || !is(err) {
				t.Errorf("%d: %v", what, err)
			}
		})
		cancel(nil)
	}
}

func TestTheEndOfTheLoopEndsAuthentication(t *testing.T) {
	s := newFake(users(1)...)
	var f *eventloop.Future[user]
	stop := make(chan func(), 1)
	s.command = func(name string) answer {
		if name == "saslStart" {
			(<-stop)()
		}
		return onSASL(never)(name)
	}
	on(t, s, func(l *eventloop.Loop, _ *mongoloop.Client, _ *mongoloop.Collection[user]) {
		stop <- l.Stop
		c, err := mongoloop.Connect(l, s.clientOptions().SetAuth(options.Credential{Username: "ada", Password: "wrong"}))
		if err != nil {
			t.Error(err)
			return
		}
		f = mongoloop.In[user](c, "app", "users").FindOne(background(), id(0))
	})
	if _, err := f.Result(); !errors.Is(err, eventloop.ErrLoopClosed) {
		t.Errorf("%v, want ErrLoopClosed", err)
	}
}

func TestACanceledOperationFailsWithTheCause(t *testing.T) {
	s := newFake(users(1)...)
	ctx, cancel := context.WithCancelCause(background())
	cause := errors.New("changed my mind")
	s.command = func(name string) answer {
		if name == "find" {
			cancel(cause)
			return never
		}
		return ok
	}
	inTask(t, s, func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		if _, err := coll.FindOne(ctx, id(0)).Await(task); !errors.Is(err, cause) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want the cause", err)
		}
		if _, err := coll.FindOne(ctx, id(0)).Await(task); err != cause { // like the error of WorkOn
			t.Errorf("%v, want the cause alone", err)
		}
	})
}

func TestTheEndOfTheLoopEndsOperations(t *testing.T) {
	s := newFake(users(1)...)
	var l *eventloop.Loop
	s.command = func(name string) answer {
		l.Stop()
		return never
	}
	var f *eventloop.Future[user]
	on(t, s, func(loop *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		l = loop
		f = coll.FindOne(background(), id(0))
	})
	if _, err := f.Result(); !errors.Is(err, eventloop.ErrLoopClosed) {
		t.Errorf("%v, want ErrLoopClosed", err)
	}
}

func TestAnIdleClientHoldsNothing(t *testing.T) {
	on(t, newFake(), func(*eventloop.Loop, *mongoloop.Client, *mongoloop.Collection[user]) {})
}

func TestAClientConnectsBeforeRun(t *testing.T) {
	s := newFake(users(1)...)
	defer s.close()
	l := eventloop.New(nil)
	c, err := mongoloop.Connect(l, s.clientOptions())
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	l.Post(func() {
		mongoloop.In[user](c, "app", "users").FindOne(background(), id(0)).Then(func(u user, err error) {
			if got++; err != nil || u.Name != "user0" {
				t.Errorf("%v, %v", u, err)
			}
		})
	})
	if err := l.Run(t.Context()); err != nil || got != 1 {
		t.Errorf("%v, %d results", err, got)
	}
	if _, err := mongoloop.Connect(l, s.clientOptions()); !errors.Is(err, eventloop.ErrLoopClosed) {
		t.Errorf("after the end: %v, want ErrLoopClosed", err)
	}
}

func TestCloseDisconnects(t *testing.T) {
	inTask(t, newFake(), func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		if _, err := c.Ping(task.Context()).Await(task); err != nil {
			t.Error(err)
		}
		if _, err := c.Close().Await(task); err != nil {
			t.Error(err)
		}
		if _, err := coll.FindOne(task.Context(), id(0)).Await(task); !errors.Is(err, mongo.ErrClientDisconnected) {
			t.Errorf("%v, want ErrClientDisconnected", err)
		}
		if _, err := c.Close().Await(task); !errors.Is(err, mongo.ErrClientDisconnected) {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestAFailedCloseThatNothingHandlesIsReported(t *testing.T) {
	s := newFake()
	defer s.close()
	var events []error
	cfg := &eventloop.Config{EventHandler: func(err error) { events = append(events, err) }}
	err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
		c, err := mongoloop.Connect(l, s.clientOptions())
		if err != nil {
			return err
		}
		c.Close().Then(func(struct{}, error) { c.Close() })
		return nil
	})
	if err != nil || len(events) != 1 || !errors.Is(events[0], mongo.ErrClientDisconnected) {
		t.Errorf("%v, events: %v", err, events)
	}
}

// A loop that goes on, with clients that come and go.
func TestAClosedClientIsForgotten(t *testing.T) {
	s := newFake()
	inTask(t, s, func(task *eventloop.Task, _ *mongoloop.Client, _ *mongoloop.Collection[user]) {
		var clients []weak.Pointer[mongoloop.Client]
		for range 10 {
			c, err := mongoloop.Connect(task.Loop(), s.clientOptions())
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := c.Ping(task.Context()).Await(task); err != nil {
				t.Error(err)
			}
			if _, err := c.Close().Await(task); err != nil {
				t.Error(err)
			}
			clients = append(clients, weak.Make(c))
		}
		left := func() (n int) {
			runtime.GC()
			for _, p := range clients {
				if p.Value() != nil {
					n++
				}
			}
			return n
		}
		for end := time.Now().Add(watchdogTime); left() > 0; task.Sleep(10 * time.Millisecond) { // workers stay for a moment
			if time.Now().After(end) {
				t.Errorf("%d of %d clients are left", left(), len(clients))
				return
			}
		}
	})
}

func TestCloseBeforeRunDisconnects(t *testing.T) {
	s := newFake()
	defer s.close()
	l := eventloop.New(nil)
	c, err := mongoloop.Connect(l, s.clientOptions())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Close().Result(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := c.Close().Result(); !errors.Is(err, mongo.ErrClientDisconnected) {
		t.Errorf("second Close: %v", err)
	}
	for h := range l.Handles() {
		t.Errorf("%v is left", h)
	}
	// The loop never runs: that nothing else is left is what goleak checks.
}

func TestCloseAtTheEndOfTheLoop(t *testing.T) {
	for _, what := range []string{"Stop before", "Stop after", "in an exit callback"} {
		var f *eventloop.Future[struct{}]
		on(t, newFake(), func(l *eventloop.Loop, c *mongoloop.Client, _ *mongoloop.Collection[user]) {
			c.Ping(background()).Then(func(struct{}, error) {
				switch what {
				case "Stop before":
					l.Stop()
					f = c.Close()
				case "Stop after":
					f = c.Close()
					l.Stop()
				default:
					l.OnExit(func() { f = c.Close() })
				}
			})
		})
		if _, err := f.Result(); !errors.Is(err, eventloop.ErrLoopClosed) {
			t.Errorf("%s: %v, want ErrLoopClosed", what, err)
		}
	}
}

func TestWrongOptionsAreAnError(t *testing.T) {
	eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
		if _, err := mongoloop.Connect(l, options.Client().ApplyURI("mongo://x")); err == nil {
			t.Error("no error")
		}
		return nil
	})
}

func TestACursorGivesAllDocuments(t *testing.T) {
	for _, n := range []int{0, 1, 9, 10, 11, 100} {
		var ids []int
		ends := 0
		s := newFake(users(n)...)
		on(t, s, func(l *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
			coll.Find(background(), bson.M{}, func(u user) { ids = append(ids, u.ID) }, func(err error) {
				if ends++; err != nil {
					t.Error(err)
				}
			}, options.Find().SetBatchSize(10))
		})
		if len(ids) != n || !slices.IsSorted(ids) || ends != 1 || s.openCursors() != 0 {
			t.Errorf("%d: %v, ended %d times", n, ids, ends)
		}
	}
}

func TestPauseHoldsUpTheCursor(t *testing.T) {
	got := 0
	s := newFake(users(25)...)
	on(t, s, func(l *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		var cur *mongoloop.Cursor
		cur = coll.Find(background(), bson.M{}, func(u user) {
			got++
			cur.Pause()
			at, requests := got, len(s.commands())
			c.Ping(background()).Then(func(struct{}, error) { // some time later
				if more := len(s.commands()) - requests; got != at || more != 1 {
					t.Errorf("in a pause: %d documents, %d commands", got-at, more)
				}
				cur.Resume()
			})
		}, func(err error) {
			if err != nil {
				t.Error(err)
			}
		}, options.Find().SetBatchSize(10))
	})
	if got != 25 {
		t.Errorf("%d documents", got)
	}
}

func TestCloseEndsACursorAndThatOfTheServer(t *testing.T) {
	got := 0
	s := newFake(users(25)...)
	on(t, s, func(l *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		var cur *mongoloop.Cursor
		cur = coll.Find(background(), bson.M{}, func(u user) {
			if got++; got == 3 {
				cur.Close()
				cur.Close()
			}
		}, func(err error) { t.Errorf("ended with %v", err) }, options.Find().SetBatchSize(10))
		cur.Unref()
		cur.Ref()
	})
	if got != 3 || s.openCursors() != 0 || !slices.Contains(s.commands(), "killCursors") {
		t.Errorf("%d documents, %d cursors, %v", got, s.openCursors(), s.commands())
	}
}

func TestWhatEndsACursor(t *testing.T) {
	cause := errors.New("enough")
	for _, what := range []string{"decode", "vanish", "cancel", "stop"} {
		docs := users(25)
		if what == "decode" {
			docs[14] = bson.D{{Key: "_id", Value: 14}, {Key: "name", Value: 7}}
		}
		s := newFake(docs...)
		got, want := 0, map[string]int{"decode": 14, "vanish": 10, "cancel": 10, "stop": 3}[what]
		var ends []error
		ctx, cancel := context.WithCancelCause(background())
		s.command = func(name string) answer {
			switch {
			case what == "vanish" && name == "getMore":
				return hangUp
			case what == "cancel" && name == "getMore":
				cancel(cause)
				return never
			}
			return ok
		}
		on(t, s, func(l *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
			coll.Find(ctx, bson.M{}, func(u user) {
				if got++; what == "stop" && got == 3 {
					l.Stop()
				}
			}, func(err error) { ends = append(ends, err) }, options.Find().SetBatchSize(10))
		})
		cancel(nil)
		good := len(ends) == 1
		switch what {
		case "decode":
			d, isDecode := errors.AsType[*mongoloop.DecodeError](errors.Join(ends...))
			good = good && isDecode && d.Document.Lookup("_id").AsInt64() == 14
		case "vanish":
			good = good && mongo.IsNetworkError(ends[0])
		case "cancel":
			good = good && errors.Is(ends[0], cause)
		case "stop":
			good = len(ends) == 0
		}
		if got != want || !good {
			t.Errorf("%s: %d documents, ended with %v", what, got, ends)
		}
	}
}

func TestFindBeforeRunBeginsWithIt(t *testing.T) {
	s := newFake(users(3)...)
	defer s.close()
	l := eventloop.New(nil)
	c, err := mongoloop.Connect(l, s.clientOptions())
	if err != nil {
		t.Fatal(err)
	}
	got, ends := 0, 0
	mongoloop.In[user](c, "app", "users").Find(background(), bson.M{}, func(user) { got++ }, func(err error) {
		if ends++; err != nil {
			t.Error(err)
		}
	})
	if err := l.Run(t.Context()); err != nil || got != 3 || ends != 1 {
		t.Errorf("%v; %d documents, ended %d times", err, got, ends)
	}
}

func TestFindAfterTheEndOfTheLoopCallsNothing(t *testing.T) {
	for _, when := range []string{"exit callback", "after Run"} {
		s := newFake(users(3)...)
		calls := 0
		find := func(coll *mongoloop.Collection[user]) {
			cur := coll.Find(background(), bson.M{}, func(user) { calls++ }, func(error) { calls++ })
			cur.Pause()
			cur.Resume()
			cur.Ref()
			cur.Unref()
			cur.Close()
		}
		var coll *mongoloop.Collection[user]
		on(t, s, func(l *eventloop.Loop, _ *mongoloop.Client, c *mongoloop.Collection[user]) {
			coll = c
			if when == "exit callback" {
				l.OnExit(func() { find(c) })
			}
		})
		if when == "after Run" {
			find(coll)
		}
		if calls != 0 || len(s.commands()) != 0 {
			t.Errorf("%s: %d calls, %v", when, calls, s.commands())
		}
	}
}

func TestAPanicInACallbackDoesNotEndACursor(t *testing.T) {
	s := newFake(users(25)...)
	defer s.close()
	got, panics, events := 0, 0, 0
	var ends []error
	cfg := &eventloop.Config{CatchPanics: true, EventHandler: func(err error) {
		if events++; errors.As(err, new(*eventloop.PanicError)) {
			panics++
		}
	}}
	err := eventloop.Run(t.Context(), cfg, func(l *eventloop.Loop) error {
		c, err := mongoloop.Connect(l, s.clientOptions())
		if err != nil {
			return err
		}
		mongoloop.In[user](c, "app", "users").Find(background(), bson.M{}, func(user) {
			got++
			panic("in onDocument")
		}, func(err error) {
			ends = append(ends, err)
			panic("in onEnd")
		}, options.Find().SetBatchSize(10))
		return nil
	})
	if err != nil || got != 25 || len(ends) != 1 || ends[0] != nil || panics != 26 || events != 26 {
		t.Errorf("%v; %d documents, ended with %v, %d panics in %d events", err, got, ends, panics, events)
	}
}

// A bomb is a document whose number 14 panics when it is decoded.
type bomb struct{ ID int }

func (b *bomb) UnmarshalBSON(doc []byte) error {
	if b.ID = int(bson.Raw(doc).Lookup("_id").AsInt64()); b.ID == 14 {
		panic("boom")
	}
	return nil
}

func TestAPanicInDecodingEndsACursor(t *testing.T) {
	s := newFake(users(25)...)
	inTask(t, s, func(task *eventloop.Task, c *mongoloop.Client, _ *mongoloop.Collection[user]) {
		coll := mongoloop.In[bomb](c, "app", "users")
		isPanic := func(err error) bool {
			pe, ok := errors.AsType[*eventloop.PanicError](err)
			return ok && pe.Value == "boom"
		}
		got := 0
		f, resolve := eventloop.NewFuture[int](task.Loop())
		coll.Find(background(), bson.M{}, func(b bomb) { got++ }, func(err error) { resolve(got, err) }, options.Find().SetBatchSize(10))
		if _, err := f.Await(task); !isPanic(err) || !errors.As(err, new(*mongoloop.Error)) || got != 10 {
			t.Errorf("Find: %d documents, %v", got, err)
		}
		got = 0
		var last error
		for _, err := range coll.All(task, bson.M{}, options.Find().SetBatchSize(10)) {
			if last = err; err == nil {
				got++
			}
		}
		if !isPanic(last) || got != 10 {
			t.Errorf("All: %d documents, %v", got, last)
		}
		if _, err := coll.FindOne(task.Context(), id(14)).Await(task); !isPanic(err) {
			t.Errorf("FindOne: %v", err)
		}
	})
	if s.openCursors() != 0 {
		t.Errorf("%d cursors are left", s.openCursors())
	}
}

func TestDocumentsInATask(t *testing.T) {
	for _, limit := range []int{100, 12} {
		s := newFake(users(25)...)
		inTask(t, s, func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
			got := 0
			for u, err := range coll.All(task, bson.M{}, options.Find().SetBatchSize(10)) {
				if err != nil || u.ID != got {
					t.Errorf("%v, %v", u, err)
				}
				if got++; got == limit {
					break
				}
			}
			if got != min(limit, 25) {
				t.Errorf("%d documents", got)
			}
		})
		if s.openCursors() != 0 {
			t.Errorf("%d: %d cursors are left", limit, s.openCursors())
		}
	}
}

func TestAnErrorIsTheLastElementInATask(t *testing.T) {
	docs := users(25)
	docs[14] = bson.D{{Key: "_id", Value: 14}, {Key: "name", Value: 7}}
	inTask(t, newFake(docs...), func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		got, errs := 0, 0
		for _, err := range coll.All(task, bson.M{}, options.Find().SetBatchSize(10)) {
			if _, ok := errors.AsType[*mongoloop.DecodeError](err); ok {
				errs++
				continue
			}
			got++
		}
		if got != 14 || errs != 1 {
			t.Errorf("%d documents, %d errors", got, errs)
		}
	})
}

func TestAggregateHasATypeOfItsOwn(t *testing.T) {
	type name struct{ Name string }
	pipeline := mongo.Pipeline{{{Key: "$match", Value: bson.D{{Key: "_id", Value: 2}}}}}
	inTask(t, newFake(users(5)...), func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		n := 0
		for v, err := range mongoloop.AggregateAll[name](task, coll, pipeline) {
			if n++; err != nil || v.Name != "user2" {
				t.Errorf("%v, %v", v, err)
			}
		}
		f, resolve := eventloop.NewFuture[int](task.Loop())
		mongoloop.Aggregate(background(), coll, pipeline, func(v name) { n++ }, func(err error) { resolve(n, err) })
		if n, err := f.Await(task); n != 2 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}

func TestHandlesShowACursor(t *testing.T) {
	s := newFake(users(1)...)
	on(t, s, func(l *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		coll.Find(background(), bson.M{}, func(u user) {
			var shown []string
			for h := range l.Handles() {
				shown = append(shown, h.Kind+" "+h.Name)
			}
			if !slices.Contains(shown, "mongo Find in app.users, 1 pending") || !slices.Contains(shown, "mongo client of "+s.ln.Addr().String()) {
				t.Errorf("handles: %q", shown)
			}
		}, func(error) {})
	})
}
