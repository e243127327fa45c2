// Package mongo tests drivers/mongo with FerretDB as server.
package mongo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/e2e/internal/child"
	mongoloop "github.com/onloop/eventloop/drivers/mongo"
	"github.com/onloop/eventloop/internal/leaktest"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/goleak"
)

// watchdog is when something that should have ended is taken to hang.
const watchdog = 2 * time.Minute

// ferret is the server that the tests share which do it no harm.
var ferret = sync.OnceValues(startFerret)

// startFerret starts a server with a directory of its own.
func startFerret() (*child.Server, error) {
	program, err := child.Build("ferretdb", ".")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(dirs, "ferretdb")
	if err != nil {
		return nil, err
	}
	return child.Start(program, func(addr string) []string { return []string{addr, dir} })
}

var dirs string // of the servers

func TestMain(m *testing.M) {
	var err error
	if dirs, err = os.MkdirTemp("", "e2e-mongo"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if s, err := ferret(); err == nil {
		s.Stop()
	}
	os.RemoveAll(dirs)
	os.Exit(code)
}

// An order is a document of the tests.
type order struct {
	ID    int     `bson:"_id"`
	User  string  `bson:"user"`
	Total float64 `bson:"total"`
}

// on runs f in a task with a client of a server, whose collection is empty. The loop has to
// end by itself, and to leave no goroutine.
func on(t *testing.T, addr string, f func(task *eventloop.Task, c *mongoloop.Client, orders *mongoloop.Collection[order])) {
	t.Helper()
	ignore := goleak.IgnoreCurrent() // those of the shared server
	ctx, cancel := context.WithTimeoutCause(t.Context(), watchdog, errors.New("the test hangs"))
	defer cancel()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		o := options.Client().ApplyURI("mongodb://" + addr).SetServerSelectionTimeout(watchdog)
		c, err := mongoloop.Connect(l, o)
		if err != nil {
			return err
		}
		l.Go(ctx, func(task *eventloop.Task) error {
			orders := mongoloop.In[order](c, "shop", t.Name())
			if _, err := orders.DeleteMany(ctx, bson.M{}).Await(task); err != nil {
				t.Error(err)
				return nil
			}
			f(task, c, orders)
			return nil
		}).Ignore()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := leaktest.Find(ignore); err != nil {
		t.Error(err)
	}
}

// onFerret is on with the shared server.
func onFerret(t *testing.T, f func(task *eventloop.Task, c *mongoloop.Client, orders *mongoloop.Collection[order])) {
	t.Helper()
	s, err := ferret()
	if err != nil {
		t.Fatal(err)
	}
	on(t, s.Addr, f)
}

// some returns n orders.
func some(n int) (list []order) {
	for i := range n {
		list = append(list, order{i, fmt.Sprint("user", i%3), float64(i)})
	}
	return list
}

// insert inserts n orders.
func insert(t *testing.T, task *eventloop.Task, orders *mongoloop.Collection[order], n int) {
	if _, err := orders.InsertMany(task.Context(), some(n)).Await(task); err != nil {
		t.Fatal(err)
	}
}

func id(n int) bson.M { return bson.M{"_id": n} }

func TestEveryOperation(t *testing.T) {
	onFerret(t, func(task *eventloop.Task, c *mongoloop.Client, orders *mongoloop.Collection[order]) {
		ctx := task.Context()
		check := func(what string, got any, err error, want string) {
			t.Helper()
			if s := fmt.Sprint(got, err); s != want {
				t.Errorf("%s: %s, want %s", what, s, want)
			}
		}
		one, err := orders.InsertOne(ctx, order{1, "ann", 10}).Await(task)
		check("InsertOne", one.InsertedID, err, "1 <nil>")
		many, err := orders.InsertMany(ctx, []order{{2, "bob", 20}, {3, "ann", 30}}).Await(task)
		check("InsertMany", many.InsertedIDs, err, "[2 3] <nil>")
		v, err := orders.FindOne(ctx, bson.M{"user": "ann"}, options.FindOne().SetSort(bson.M{"total": -1})).Await(task)
		check("FindOne", v, err, "{3 ann 30} <nil>")
		n, err := orders.CountDocuments(ctx, bson.M{"user": "ann"}).Await(task)
		check("CountDocuments", n, err, "2 <nil>")
		up, err := orders.UpdateOne(ctx, id(2), bson.M{"$inc": bson.M{"total": 1.0}}).Await(task)
		check("UpdateOne", up.ModifiedCount, err, "1 <nil>")
		up, err = orders.UpdateMany(ctx, bson.M{"user": "ann"}, bson.M{"$set": bson.M{"user": "eve"}}).Await(task)
		check("UpdateMany", up.ModifiedCount, err, "2 <nil>")
		up, err = orders.ReplaceOne(ctx, id(3), order{3, "dan", 3}).Await(task)
		check("ReplaceOne", up.ModifiedCount, err, "1 <nil>")
		v, err = orders.FindOneAndUpdate(ctx, id(3), bson.M{"$set": bson.M{"total": 4.0}},
			options.FindOneAndUpdate().SetReturnDocument(options.After)).Await(task)
		check("FindOneAndUpdate", v, err, "{3 dan 4} <nil>")
		v, err = orders.FindOneAndReplace(ctx, id(3), order{3, "fay", 5}).Await(task)
		check("FindOneAndReplace", v, err, "{3 dan 4} <nil>")
		v, err = orders.FindOneAndDelete(ctx, id(3)).Await(task)
		check("FindOneAndDelete", v, err, "{3 fay 5} <nil>")
		del, err := orders.DeleteOne(ctx, id(2)).Await(task)
		check("DeleteOne", del.DeletedCount, err, "1 <nil>")
		del, err = orders.DeleteMany(ctx, bson.M{}).Await(task)
		check("DeleteMany", del.DeletedCount, err, "1 <nil>")
		_, err = c.Ping(ctx).Await(task)
		check("Ping", nil, err, "<nil> <nil>")
	})
}

func TestACursorDeliversAllDocumentsInOrder(t *testing.T) {
	const n = 5000
	onFerret(t, func(task *eventloop.Task, c *mongoloop.Client, orders *mongoloop.Collection[order]) {
		insert(t, task, orders, n)
		o := options.Find().SetSort(bson.M{"_id": 1}).SetBatchSize(100)
		next, pauses := 0, 0
		end, resolve := eventloop.NewFuture[int](task.Loop())
		var cursor *mongoloop.Cursor
		cursor = orders.Find(task.Context(), bson.M{}, func(v order) {
			if v.ID != next {
				t.Errorf("order %d, want %d", v.ID, next)
			}
			if next++; next%1000 == 0 { // back-pressure
				pauses++
				cursor.Pause()
				task.Loop().AfterFunc(10*time.Millisecond, cursor.Resume)
			}
		}, func(err error) { resolve(next, err) }, o)
		if got, err := end.Await(task); got != n || err != nil || pauses != n/1000 {
			t.Errorf("%d documents, %d pauses, %v", got, pauses, err)
		}
		next = 0
		for v, err := range orders.All(task, bson.M{}, o) {
			if err != nil || v.ID != next {
				t.Fatalf("order %d, want %d, %v", v.ID, next, err)
			}
			if next++; next == n/2 {
				break // closes the cursor
			}
		}
	})
}

func TestAnAggregateHasATypeOfItsOwn(t *testing.T) {
	type sum struct {
		User  string  `bson:"_id"`
		Total float64 `bson:"total"`
	}
	onFerret(t, func(task *eventloop.Task, c *mongoloop.Client, orders *mongoloop.Collection[order]) {
		insert(t, task, orders, 9)
		pipeline := []bson.M{
			{"$group": bson.M{"_id": "$user", "total": bson.M{"$sum": "$total"}}},
			{"$sort": bson.M{"_id": 1}},
		}
		var got []sum
		for v, err := range mongoloop.AggregateAll[sum](task, orders, pipeline) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, v)
		}
		if s := fmt.Sprint(got); s != "[{user0 9} {user1 12} {user2 15}]" {
			t.Error(s)
		}
	})
}

func TestManyOperationsRunAtATime(t *testing.T) {
	const n = 200
	onFerret(t, func(task *eventloop.Task, c *mongoloop.Client, orders *mongoloop.Collection[order]) {
		var inserts []*eventloop.Future[*mongo.InsertOneResult]
		for _, v := range some(n) {
			inserts = append(inserts, orders.InsertOne(task.Context(), v))
		}
		for _, f := range inserts {
			if _, err := f.Await(task); err != nil {
				t.Error(err)
			}
		}
		if got, err := orders.CountDocuments(task.Context(), bson.M{}).Await(task); got != n || err != nil {
			t.Errorf("%d documents, want %d, %v", got, n, err)
		}
	})
}

func TestErrorsOfTheServerAreTyped(t *testing.T) {
	onFerret(t, func(task *eventloop.Task, c *mongoloop.Client, orders *mongoloop.Collection[order]) {
		ctx := task.Context()
		insert(t, task, orders, 3)
		_, err := orders.InsertOne(ctx, order{ID: 1}).Await(task)
		if e, ok := errors.AsType[*mongoloop.Error](err); !ok || e.Op != "InsertOne" || !mongo.IsDuplicateKeyError(err) {
			t.Errorf("a second order 1: %v", err)
		}
		missing := mongoloop.In[order](c, "shop", "missing")
		if _, err := missing.FindOne(ctx, id(1)).Await(task); !errors.Is(err, mongo.ErrNoDocuments) {
			t.Errorf("a collection that is not there: %v", err)
		}
		type other struct {
			User int `bson:"user"`
		}
		if _, err := mongoloop.In[other](c, "shop", t.Name()).FindOne(ctx, id(1)).Await(task); err == nil {
			t.Error("a text became a number")
		} else if _, ok := errors.AsType[*mongoloop.DecodeError](err); !ok {
			t.Errorf("%v, want a DecodeError", err)
		}
		var last error
		for _, err := range orders.All(task, bson.M{"$nonsense": 1}) {
			last = err
		}
		if _, ok := errors.AsType[mongo.ServerError](last); !ok {
			t.Errorf("a filter that the server does not know: %v", last)
		}
	})
}

func TestAServerThatVanishesInTheMiddleOfACursor(t *testing.T) {
	s, err := startFerret()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	on(t, s.Addr, func(task *eventloop.Task, c *mongoloop.Client, orders *mongoloop.Collection[order]) {
		insert(t, task, orders, 1000)
		got := 0
		var last error
		for _, err := range orders.All(task, bson.M{}, options.Find().SetBatchSize(100)) {
			if err != nil {
				last = err
				break
			}
			if got++; got == 150 {
				s.Kill()
			}
		}
		if e, ok := errors.AsType[*mongoloop.Error](last); !ok || e.Op != "All" || got != 200 {
			t.Errorf("%d documents, then %v; want two batches and an error", got, last)
		}
		if err := s.Restart(); err != nil {
			t.Error(err)
			return
		}
		if _, err := orders.InsertOne(task.Context(), order{ID: 1000}).Await(task); err != nil {
			t.Errorf("when the server is back: %v", err)
		}
	})
}
