package mongoloop_test

import (
	"bytes"
	"context"
	"fmt"
	"log"

	"github.com/onloop/eventloop"
	mongoloop "github.com/onloop/eventloop/drivers/mongo"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// withUsers runs f in a task, with a client of a server that has a collection of users.
func withUsers(f func(t *eventloop.Task, c *mongoloop.Client, users *mongoloop.Collection[user]) error) {
	server := newFake(users(3)...)
	defer server.close()
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := mongoloop.Connect(l, server.clientOptions())
		if err != nil {
			return err
		}
		l.Go(context.Background(), func(t *eventloop.Task) error {
			return f(t, c, mongoloop.In[user](c, "app", "users"))
		})
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

func Example() {
	server := newFake(bson.D{{Key: "_id", Value: 7}, {Key: "name", Value: "Ada"}})
	defer server.close()
	type User struct {
		ID   int `bson:"_id"`
		Name string
	}
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		c, err := mongoloop.Connect(l, server.clientOptions()) // instead of options.Client().ApplyURI("mongodb://127.0.0.1")
		if err != nil {
			return err
		}
		users := mongoloop.In[User](c, "app", "users")
		users.FindOne(ctx, bson.M{"_id": 7}).Then(func(u User, err error) { fmt.Println(u.Name, err) })
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: Ada <nil>
}

func ExampleConnect() {
	server := newFake()
	defer server.close()
	ctx := context.Background()
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		c, err := mongoloop.Connect(l, server.clientOptions().SetMaxPoolSize(20).SetAppName("shop"))
		if err != nil {
			return err
		}
		c.Ping(ctx).Then(func(_ struct{}, err error) {
			fmt.Println("ping:", err)
			c.Close().Then(func(_ struct{}, err error) { fmt.Println("closed:", err, c.Loop() == l) })
		})
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// ping: <nil>
	// closed: <nil> true
}

func ExampleIn() {
	withUsers(func(t *eventloop.Task, c *mongoloop.Client, _ *mongoloop.Collection[user]) error {
		any := mongoloop.In[bson.M](c, "app", "users") // the same documents as maps
		d, err := any.FindOne(t.Context(), bson.M{"_id": 1}).Await(t)
		fmt.Println(d["name"], err, any.Mongo().Name())
		return nil
	})
	// Output: user1 <nil> users
}

func ExampleCollection_UpdateOne() {
	withUsers(func(t *eventloop.Task, _ *mongoloop.Client, users *mongoloop.Collection[user]) error {
		ctx, rename := t.Context(), func(name string) bson.M { return bson.M{"$set": bson.M{"name": name}} }
		r, err := users.UpdateOne(ctx, bson.M{"_id": 1}, rename("Ada")).Await(t)
		if err != nil {
			return err
		}
		before, err := users.FindOneAndUpdate(ctx, bson.M{"_id": 1}, rename("Bob")).Await(t)
		if err != nil {
			return err
		}
		all, err := users.UpdateMany(ctx, bson.M{}, rename("Cyd")).Await(t)
		if err != nil {
			return err
		}
		fmt.Println(r.ModifiedCount, before.Name, all.ModifiedCount)
		return nil
	})
	// Output: 1 Ada 3
}

func ExampleCollection_InsertOne() {
	withUsers(func(t *eventloop.Task, _ *mongoloop.Client, users *mongoloop.Collection[user]) error {
		ctx := t.Context()
		if _, err := users.InsertOne(ctx, user{10, "Ada"}).Await(t); err != nil {
			return err
		}
		if _, err := users.InsertMany(ctx, []user{{11, "Bob"}, {12, "Cyd"}}).Await(t); err != nil {
			return err
		}
		_, err := users.InsertOne(ctx, user{10, "again"}).Await(t)
		n, _ := users.CountDocuments(ctx, bson.M{}).Await(t)
		fmt.Println(n, mongo.IsDuplicateKeyError(err))
		return nil
	})
	// Output: 6 true
}

func ExampleCollection_ReplaceOne() {
	withUsers(func(t *eventloop.Task, _ *mongoloop.Client, users *mongoloop.Collection[user]) error {
		ctx := t.Context()
		if _, err := users.ReplaceOne(ctx, bson.M{"_id": 1}, user{1, "Ada"}).Await(t); err != nil {
			return err
		}
		before, err := users.FindOneAndReplace(ctx, bson.M{"_id": 1}, user{1, "Bob"}).Await(t)
		fmt.Println(before.Name, err)
		return nil
	})
	// Output: Ada <nil>
}

func ExampleCollection_DeleteOne() {
	withUsers(func(t *eventloop.Task, _ *mongoloop.Client, users *mongoloop.Collection[user]) error {
		ctx := t.Context()
		if _, err := users.DeleteOne(ctx, bson.M{"_id": 0}).Await(t); err != nil {
			return err
		}
		gone, err := users.FindOneAndDelete(ctx, bson.M{"_id": 1}).Await(t)
		if err != nil {
			return err
		}
		rest, err := users.DeleteMany(ctx, bson.M{}).Await(t)
		if err != nil {
			return err
		}
		fmt.Println(gone.Name, rest.DeletedCount)
		return nil
	})
	// Output: user1 1
}

func ExampleCollection_Find() {
	withUsers(func(t *eventloop.Task, c *mongoloop.Client, users *mongoloop.Collection[user]) error {
		var cursor *mongoloop.Cursor
		cursor = users.Find(context.Background(), bson.M{}, func(u user) {
			fmt.Println(u.Name)
			cursor.Pause() // until this one is dealt with
			c.Ping(context.Background()).Then(func(struct{}, error) {
				if u.ID == 1 {
					cursor.Close() // two are enough
				}
				cursor.Resume()
			})
		}, func(err error) { fmt.Println("end:", err) }, options.Find().SetBatchSize(100))
		return nil
	})
	// Output:
	// user0
	// user1
}

func ExampleCollection_All() {
	withUsers(func(t *eventloop.Task, _ *mongoloop.Client, users *mongoloop.Collection[user]) error {
		for u, err := range users.All(t, bson.M{}) { // suspends the task, never the loop
			if err != nil {
				return err
			}
			fmt.Println(u.ID, u.Name)
		}
		return nil
	})
	// Output:
	// 0 user0
	// 1 user1
	// 2 user2
}

func ExampleAggregate() {
	withUsers(func(t *eventloop.Task, _ *mongoloop.Client, users *mongoloop.Collection[user]) error {
		type name struct{ Name string }
		pipeline := mongo.Pipeline{{{Key: "$match", Value: bson.D{{Key: "_id", Value: 2}}}}}
		mongoloop.Aggregate(context.Background(), users, pipeline,
			func(v name) { fmt.Println(v.Name) },
			func(err error) { fmt.Println("end:", err) })
		return nil
	})
	// Output:
	// user2
	// end: <nil>
}

func ExampleAggregateAll() {
	withUsers(func(t *eventloop.Task, _ *mongoloop.Client, users *mongoloop.Collection[user]) error {
		type name struct{ Name string }
		pipeline := mongo.Pipeline{{{Key: "$match", Value: bson.D{{Key: "_id", Value: 2}}}}}
		for v, err := range mongoloop.AggregateAll[name](t, users, pipeline) {
			fmt.Println(v.Name, err)
		}
		return nil
	})
	// Output: user2 <nil>
}

func ExampleDo() {
	withUsers(func(t *eventloop.Task, c *mongoloop.Client, _ *mongoloop.Collection[user]) error {
		n, err := mongoloop.Do(t.Context(), c, func(ctx context.Context, mc *mongo.Client) (int64, error) {
			return mc.Database("app").Collection("users").CountDocuments(ctx, bson.M{"_id": 1})
		}).Await(t)
		fmt.Println(n, err, c.Mongo() != nil)
		return nil
	})
	// Output: 1 <nil> true
}

// A transaction runs in one function, which must not touch what belongs to the loop.
func ExampleDo_transaction() {
	transfer := func(ctx context.Context, c *mongoloop.Client, from, to string, amount int) *eventloop.Future[struct{}] {
		return mongoloop.Do(ctx, c, func(ctx context.Context, mc *mongo.Client) (struct{}, error) {
			session, err := mc.StartSession()
			if err != nil {
				return struct{}{}, err
			}
			defer session.EndSession(ctx)
			accounts := mc.Database("bank").Collection("accounts")
			_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) {
				for id, change := range map[string]int{from: -amount, to: amount} {
					if _, err := accounts.UpdateByID(ctx, id, bson.M{"$inc": bson.M{"balance": change}}); err != nil {
						return nil, err
					}
				}
				return nil, nil
			})
			return struct{}{}, err
		})
	}
	_ = transfer
}

// A change stream is read by a function that posts each event to the loop, and waits until
// it is dealt with there.
func ExampleDo_changeStream() {
	watch := func(ctx context.Context, c *mongoloop.Client, onEvent func(event bson.M)) *eventloop.Future[struct{}] {
		return mongoloop.Do(ctx, c, func(ctx context.Context, mc *mongo.Client) (struct{}, error) {
			stream, err := mc.Database("app").Collection("users").Watch(ctx, mongo.Pipeline{})
			if err != nil {
				return struct{}{}, err
			}
			defer stream.Close(context.WithoutCancel(ctx))
			for stream.Next(ctx) {
				var event bson.M
				if err := stream.Decode(&event); err != nil {
					return struct{}{}, err
				}
				deliver := func() (struct{}, error) { onEvent(event); return struct{}{}, nil }
				if _, err := eventloop.Call(ctx, c.Loop(), deliver); err != nil {
					return struct{}{}, err
				}
			}
			return struct{}{}, stream.Err()
		})
	}
	_ = watch
}

// A file of GridFS is stored by a function that reads what the loop writes.
func ExampleDo_gridFS() {
	store := func(ctx context.Context, c *mongoloop.Client, name string) (*eventloop.PipeWriter, *eventloop.Future[bson.ObjectID]) {
		body, r := eventloop.NewPipe(c.Loop(), 0)
		return body, mongoloop.Do(ctx, c, func(ctx context.Context, mc *mongo.Client) (bson.ObjectID, error) {
			defer r.Close()
			return mc.Database("app").GridFSBucket().UploadFromStream(ctx, name, r)
		})
	}
	load := func(ctx context.Context, c *mongoloop.Client, name string) *eventloop.Future[string] {
		return mongoloop.Do(ctx, c, func(ctx context.Context, mc *mongo.Client) (string, error) {
			var buf bytes.Buffer
			_, err := mc.Database("app").GridFSBucket().DownloadToStreamByName(ctx, name, &buf)
			return buf.String(), err
		})
	}
	_, _ = store, load
}
