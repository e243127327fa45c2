package mongoloop_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	mongoloop "github.com/onloop/eventloop/drivers/mongo"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// The rules that all drivers of eventloop keep, D1 to D12. Two do not apply: the operations
// of a client run at the same time, so they have no order (D4), and Work bounds how many
// run, but not how many wait (D5). D10, that nothing is left, is checked by on and TestMain.

// A careful is a document whose encoding waits for the end of the call, and records that it
// ran.
type careful struct {
	called  chan struct{}
	encoded *atomic.Int32
}

func (c careful) MarshalBSON() ([]byte, error) {
	<-c.called
	c.encoded.Add(1)
	return bson.Marshal(bson.M{"_id": int(c.encoded.Load())})
}

func TestD1MethodsNeitherBlockNorRunUserCodeAndMayBeCalledFromAnyGoroutine(t *testing.T) {
	var encoded atomic.Int32
	results := 0
	s := newFake()
	on(t, s, func(l *eventloop.Loop, c *mongoloop.Client, _ *mongoloop.Collection[user]) {
		coll := mongoloop.In[careful](c, "app", "users")
		insert := func() *eventloop.Future[*mongo.InsertOneResult] {
			doc := careful{make(chan struct{}), &encoded}
			defer close(doc.called)
			return coll.InsertOne(background(), doc)
		}
		count := func(_ *mongo.InsertOneResult, err error) {
			if results++; err != nil {
				t.Error(err)
			}
		}
		insert().Then(count) // on the loop
		done := l.Hold()
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				f := insert()
				l.Post(func() { f.Then(count) })
			})
		}
		go func() {
			defer done()
			all.Wait()
		}()
	})
	if n := encoded.Load(); n != 5 || results != 5 {
		t.Errorf("%d documents encoded, %d results, want 5", n, results)
	}
}

func TestD2EveryFutureSettlesOnce(t *testing.T) {
	cause := errors.New("changed my mind")
	for what, test := range map[string]struct {
		answer answer
		during func(l *eventloop.Loop, c *mongoloop.Client, cancel context.CancelCauseFunc) // while the server has the request
		check  func(err error) bool
	}{
		"reply":     {ok, nil, func(err error) bool { return err == nil }},
		"error":     {refuse, nil, func(err error) bool { _, ok := errors.AsType[mongo.CommandError](err); return ok }},
		"lost":      {hangUp, nil, mongo.IsNetworkError},
		"timeout":   {never, nil, mongo.IsTimeout},
		"canceled":  {never, func(_ *eventloop.Loop, _ *mongoloop.Client, cancel context.CancelCauseFunc) { cancel(cause) }, is(cause)},
		"Close":     {never, func(_ *eventloop.Loop, c *mongoloop.Client, _ context.CancelCauseFunc) { c.Close().Ignore() }, func(err error) bool { return err != nil }},
		"loop ends": {never, func(l *eventloop.Loop, _ *mongoloop.Client, _ context.CancelCauseFunc) { l.Stop() }, nil},
	} {
		results := 0
		var f *eventloop.Future[user]
		s := newFake(users(1)...)
		ctx, cancel := context.WithCancelCause(background())
		on(t, s, func(l *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
			s.command = func(name string) answer {
				if name == "find" && test.during != nil {
					l.Post(func() { test.during(l, c, cancel) })
				}
				return test.answer
			}
			ctx := ctx
			if what == "timeout" {
				ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				l.OnExit(cancel)
				f = coll.FindOne(ctx, id(0))
			} else {
				f = coll.FindOne(ctx, id(0))
			}
			f.Then(func(_ user, err error) {
				if results++; test.check == nil || !test.check(err) {
					t.Errorf("%s: %v", what, err)
				}
			})
		})
		cancel(nil)
		want := 1
		if test.check == nil { // callbacks do not run after the end of the loop
			want = 0
		}
		if _, err := f.Result(); results != want || want == 0 && !errors.Is(err, eventloop.ErrLoopClosed) {
			t.Errorf("%s: %d results, want %d; %v", what, results, want, err)
		}
	}
}

func is(target error) func(err error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func TestD3IdleHoldsNothingAndPendingHoldsTheLoop(t *testing.T) {
	s := newFake(users(1)...)
	release := make(chan struct{})
	s.command = func(string) answer {
		<-release
		return ok
	}
	got := false
	on(t, s, func(l *eventloop.Loop, _ *mongoloop.Client, coll *mongoloop.Collection[user]) {
		coll.FindOne(background(), id(0)).Then(func(_ user, err error) { got = err == nil })
		l.AfterFunc(time.Millisecond, func() { close(release) }).Unref()
	})
	if !got { // the idle client then did not hold the loop
		t.Error("the loop did not wait for the operation")
	}
}

// The connection of the canceled operation still gets the reply. No other operation may have
// it.
func TestD6ACanceledOperationFailsAtOnceAndNeverShiftsReplies(t *testing.T) {
	const n = 50
	s := newFake(users(n)...)
	canceled, first := make(chan struct{}), true
	ctx, cancel := context.WithCancelCause(background())
	why := errors.New("why")
	s.command = func(name string) answer {
		if name == "find" && first {
			first = false
			cancel(why)
			<-canceled // the reply comes after the result
		}
		return ok
	}
	inTask(t, s, func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		if _, err := coll.FindOne(ctx, id(0)).Await(task); !errors.Is(err, why) {
			t.Errorf("%v, want the cause", err)
		}
		close(canceled)
		for i := 1; i < n; i++ {
			if u, err := coll.FindOne(task.Context(), id(i)).Await(task); err != nil || u.ID != i {
				t.Errorf("user %d: %v, %v", i, u, err)
			}
		}
	})
}

// The package repeats nothing. What the official client repeats is an option of it.
func TestD7AnInsertWhoseReplyIsLostIsNotRepeated(t *testing.T) {
	s := newFake()
	s.command = func(string) answer { return hangUp }
	inTask(t, s, func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		if _, err := coll.InsertOne(task.Context(), user{ID: 1}).Await(task); !mongo.IsNetworkError(err) {
			t.Errorf("%v, want a network error", err)
		}
	})
	if got := s.commands(); !slices.Equal(got, []string{"insert"}) {
		t.Errorf("commands: %q", got)
	}
}

func TestD8TheNextOperationReconnects(t *testing.T) {
	s := newFake(users(1)...)
	lost := 0
	s.command = func(string) answer {
		if lost++; lost <= 3 {
			return hangUp
		}
		return ok
	}
	inTask(t, s, func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		for i := range 4 {
			if _, err := coll.FindOne(task.Context(), id(0)).Await(task); (err == nil) != (i == 3) {
				t.Errorf("operation %d: %v", i, err)
			}
		}
	})
}

func TestD9GarbageAndOversizeEndTheConnectionAndNotTheLoop(t *testing.T) {
	for _, what := range []answer{garbage, huge} {
		s := newFake(users(1)...)
		bad := what
		s.command = func(string) answer {
			defer func() { bad = ok }()
			return bad
		}
		inTask(t, s, func(task *eventloop.Task, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
			_, err := coll.FindOne(task.Context(), id(0)).Await(task)
			if e, ok := errors.AsType[*mongoloop.Error](err); !ok || e.Op != "FindOne" || e.Collection != "app.users" {
				t.Errorf("answer %d: %v", what, err)
			}
			if u, err := coll.FindOne(task.Context(), id(0)).Await(task); err != nil || u.Name != "user0" {
				t.Errorf("after answer %d: %v, %v", what, u, err)
			}
		})
	}
}

func TestD11HandlesSayKindAddressAndPending(t *testing.T) {
	s := newFake(users(1)...)
	ctx, cancel := context.WithCancel(background())
	on(t, s, func(l *eventloop.Loop, c *mongoloop.Client, coll *mongoloop.Collection[user]) {
		var shown []string
		s.command = func(string) answer {
			l.Post(func() {
				for h := range l.Handles() {
					ref := " false"
					if h.Ref {
						ref = " true"
					}
					shown = append(shown, h.Kind+" "+h.Name+ref)
				}
				cancel()
			})
			return never
		}
		coll.FindOne(ctx, id(0)).Then(func(user, error) {
			client, operation := "mongo client of "+s.ln.Addr().String()+" false", "work mongo: github.com/onloop/eventloop/drivers/mongo.(*Collection[...]).FindOne"
			if !slices.Contains(shown, client) || !slices.ContainsFunc(shown, func(h string) bool { return strings.HasPrefix(h, operation) && strings.HasSuffix(h, " true") }) {
				t.Errorf("handles: %q", shown)
			}
		})
	})
}

// A pipeDialer connects to the fake by net.Pipe.
type pipeDialer struct{ s *fake }

func (d pipeDialer) DialContext(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	d.s.add(theirs)
	return ours, nil
}

func TestD12TheClientWorksInABubbleOverNetPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fake{docs: users(3), cursors: map[int64][]bson.D{}, conns: map[net.Conn]bool{}}
		start, got := time.Now(), 0
		err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
			o := options.Client().ApplyURI("mongodb://mongo.example").SetServerAPIOptions(options.ServerAPI(options.ServerAPIVersion1))
			c, err := mongoloop.Connect(l, o.SetDialer(pipeDialer{s}))
			if err != nil {
				return err
			}
			coll := mongoloop.In[user](c, "app", "users")
			l.Go(t.Context(), func(task *eventloop.Task) error {
				for u, err := range coll.All(task, bson.M{}, options.Find().SetBatchSize(1)) {
					if err != nil || u.ID != got {
						t.Errorf("%v, %v", u, err)
					}
					got++
					task.Sleep(time.Hour)
				}
				_, err := c.Close().Await(task)
				return err
			})
			return nil
		})
		if took := time.Since(start); err != nil || got != 3 || took < 3*time.Hour || took > 3*time.Hour+time.Minute {
			t.Errorf("%v, %d documents after %v", err, got, took)
		}
		s.wg.Wait()
	})
}
