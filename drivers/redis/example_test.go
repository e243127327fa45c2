package redis_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
)

// onRedis runs f on a loop, with a client of a server with an empty database.
func onRedis(f func(l *eventloop.Loop, c *redis.Client)) {
	s, err := sharedServer()
	if err != nil {
		log.Fatal(err)
	}
	err = eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := redis.New(l, &redis.Options{Addr: s.Path})
		if err != nil {
			return err
		}
		c.FlushDB(context.Background()).Ignore()
		f(l, c)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

// inTask runs f in a task, with such a client.
func inTask(f func(t *eventloop.Task, c *redis.Client) error) {
	onRedis(func(l *eventloop.Loop, c *redis.Client) {
		l.Go(context.Background(), func(t *eventloop.Task) error { return f(t, c) }).Then(func(_ struct{}, err error) {
			if err != nil {
				fmt.Println("failed:", err)
			}
		})
	})
}

// show waits for a result and prints it.
func show[T any](t *eventloop.Task, f *eventloop.Future[T]) {
	v, err := f.Await(t)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(v)
}

func Example() {
	server, err := sharedServer() // instead of redis.Options{Addr: "127.0.0.1:6379"}
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	err = eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		c, err := redis.New(l, &redis.Options{Addr: server.Path})
		if err != nil {
			return err
		}
		c.Set(ctx, "greeting", "hello, redis").Ignore()
		c.Get(ctx, "greeting").Then(func(v string, err error) { // both leave in one write
			fmt.Println(v, err)
		})
		return nil // the loop ends when the reply has come
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: hello, redis <nil>
}

func ExampleNew() {
	server, err := sharedServer()
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	err = eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		c, err := redis.New(l, &redis.Options{
			Addr:    server.Addr,
			DB:      1,
			Timeout: 10 * time.Second,
			OnState: func(up bool, err error) { fmt.Println("connected:", up) },
		})
		if err != nil {
			return err
		}
		c.Ping(ctx).Then(func(v string, err error) {
			fmt.Println(v, err)
			c.Close().Then(func(struct{}, error) { fmt.Println("closed", c.Addr() == server.Addr, c.Loop() == l) })
		})
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// connected: true
	// PONG <nil>
	// closed true true
}

func ExampleParseURL() {
	o, err := redis.ParseURL("redis://worker:secret@10.0.0.7:6379/3?timeout=2s&name=jobs")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(o.Addr, o.Username, o.DB, o.Timeout, o.Name)
	// Output: 10.0.0.7:6379 worker 3 2s jobs
}

func ExampleDo() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		type user struct {
			Name string
			Age  int
		}
		ctx := t.Context()
		c.Do(ctx, "HSET", "user:1", "name", "Ada", "age", 36).Ignore()
		show(t, redis.Do[user](ctx, c, "HGETALL", "user:1"))
		show(t, redis.Do[map[string]string](ctx, c, "HGETALL", "user:1"))
		show(t, redis.Do[int](ctx, c, "STRLEN", "missing"))
		show(t, redis.Do[string](ctx, c, "GET", "missing"))
		show(t, redis.Do[*string](ctx, c, "GET", "missing"))
		show(t, redis.Do[[]string](ctx, c, "CONFIG", "GET", "maxmemory"))
		return nil
	})
	// Output:
	// {Ada 36}
	// map[age:36 name:Ada]
	// 0
	// redis: nil
	// <nil>
	// [maxmemory 0]
}

func ExampleAs() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		c.RPush(ctx, "list", 1, 2, 3).Ignore()
		reply, err := c.Do(ctx, "LRANGE", "list", 0, -1).Await(t)
		if err != nil {
			return err
		}
		numbers, err := redis.As[[]int](reply)
		fmt.Println(reply, numbers, err)
		return nil
	})
	// Output: ["1" "2" "3"] [1 2 3] <nil>
}

func ExampleReply() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		r, err := c.Do(t.Context(), "EVAL", "return {1, 'two', false, 4}", 0).Await(t)
		if err != nil {
			return err
		}
		fmt.Println(r.Kind(), r.Len(), r.Err())
		for i, e := range r.All() {
			switch {
			case e.IsNil():
				fmt.Println(i, "nil")
			case e.Kind() == redis.KindInt:
				n, err := e.Int()
				fmt.Println(i, n, err)
			default:
				s, err := e.Text()
				fmt.Println(i, s, err)
			}
		}
		f, _ := r.At(0).Float()
		b, _ := r.At(0).Bool()
		fmt.Println(f, b)
		return nil
	})
	// Output:
	// array 4 <nil>
	// 0 1 <nil>
	// 1 two <nil>
	// 2 nil
	// 3 4 <nil>
	// 1 true
}

func ExampleClient_Send() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		for range 1000 {
			if err := c.Send("INCR", "hits"); err != nil { // no future, no allocation
				return err
			}
		}
		show(t, c.Get(t.Context(), "hits"))
		return nil
	})
	// Output: 1000
}

func ExampleError() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		c.Set(ctx, "k", "text").Ignore()
		_, err := c.Incr(ctx, "k").Await(t)
		if e, ok := errors.AsType[*redis.Error](err); ok {
			fmt.Println(e.Code(), "-", e.Text)
		}
		return nil
	})
	// Output: ERR - ERR value is not an integer or out of range
}

func ExampleClient_Abort() {
	onRedis(func(l *eventloop.Loop, c *redis.Client) {
		c.Ping(context.Background()).Then(func(_ string, err error) {
			fmt.Println(errors.Is(err, net.ErrClosed))
		})
		c.Abort()
	})
	// Output: true
}

func ExampleClient_Tx() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		tx := c.Tx()
		n := tx.Incr(ctx, "visits")
		tx.SAdd(ctx, "visitors", "Ada")
		replies, err := tx.Exec(ctx).Await(t)
		fmt.Println(replies, err)
		show(t, n)

		tx = c.Tx()
		tx.Incr(ctx, "visits")
		tx.Discard() // it is not sent
		show(t, c.Get(ctx, "visits"))
		return nil
	})
	// Output:
	// [1 1] <nil>
	// 1
	// 1
}

func ExampleClient_Watch() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		c.Set(t.Context(), "stock", 3).Await(t) // Watch has a connection of its own
		// Take two, if there are two; again, if another client takes some meanwhile.
		err := c.Watch(t, []string{"stock"}, func(s *redis.Session, tx *redis.Tx) error {
			n, err := redis.Do[int](t.Context(), s, "GET", "stock").Await(t)
			if err != nil {
				return err
			}
			if n < 2 {
				return errors.New("sold out")
			}
			tx.Set(t.Context(), "stock", n-2)
			return nil
		})
		fmt.Println(err)
		show(t, c.Get(t.Context(), "stock"))
		return nil
	})
	// Output:
	// <nil>
	// 1
}

func ExampleClient_Session() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		s := c.Session()
		defer s.Close()
		s.Watch(ctx, "k").Await(t)
		c.Set(ctx, "k", "changed").Await(t) // another connection
		tx := s.Tx()
		tx.Set(ctx, "k", "mine")
		_, err := tx.Exec(ctx).Await(t)
		fmt.Println(errors.Is(err, redis.ErrConflict))
		show(t, s.Get(ctx, "k"))
		show(t, s.Unwatch(ctx))
		return nil
	})
	// Output:
	// true
	// changed
	// {}
}

func ExampleNewScript() {
	take := redis.NewScript(`
		local n = tonumber(redis.call('GET', KEYS[1]) or '0')
		if n < tonumber(ARGV[1]) then return false end
		return redis.call('DECRBY', KEYS[1], ARGV[1])`)
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		c.Set(ctx, "stock", 3).Ignore()
		take.Load(ctx, c).Ignore() // so that Run keeps its place among other commands
		show(t, take.Run(ctx, c, []string{"stock"}, 2))
		show(t, take.Run(ctx, c, []string{"stock"}, 2))
		show(t, redis.NewScript("return redis.call('GET', KEYS[1])").RunReadOnly(ctx, c, []string{"stock"}))
		fmt.Println(len(take.Hash()))
		return nil
	})
	// Output:
	// 1
	// nil
	// "1"
	// 40
}

func ExampleCommands_Scan() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		c.MSet(ctx, "a:1", 1, "a:2", 2, "b:1", 3).Ignore()
		c.HSet(ctx, "h", "f", "v").Ignore()
		c.SAdd(ctx, "s", "m").Ignore()
		c.ZAdd(ctx, "z", redis.Scored{Member: "m", Score: 1}).Ignore()
		n := 0
		for _, err := range c.Scan(t, redis.ScanOptions{Match: "a:*"}) { // the loop goes on meanwhile
			if err != nil {
				return err
			}
			n++
		}
		fmt.Println(n, "keys")
		for f, err := range c.HScan(t, "h", redis.ScanOptions{}) {
			fmt.Println(f.Name, f.Value, err)
		}
		for m, err := range c.SScan(t, "s", redis.ScanOptions{}) {
			fmt.Println(m, err)
		}
		for m, err := range c.ZScan(t, "z", redis.ScanOptions{}) {
			fmt.Println(m.Member, m.Score, err)
		}
		return nil
	})
	// Output:
	// 2 keys
	// f v <nil>
	// m <nil>
	// m 1 <nil>
}

func ExampleClient_BLPop() {
	onRedis(func(l *eventloop.Loop, c *redis.Client) {
		ctx := context.Background()
		c.BLPop(ctx, time.Minute, "jobs").Then(func(p redis.Popped, err error) { // has a connection of its own
			fmt.Println(p.Key, p.Value, err)
		})
		c.RPush(ctx, "jobs", "job 1").Ignore()
	})
	// Output: jobs job 1 <nil>
}

func ExampleClient_BRPop() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		c.RPush(ctx, "list", "a", "b").Await(t)
		c.ZAdd(ctx, "set", redis.Scored{Member: "m", Score: 1}).Await(t)
		show(t, c.BLMove(ctx, time.Second, "list", "other", redis.Left, redis.Right))
		show(t, c.BRPop(ctx, time.Second, "list"))
		show(t, c.BZPopMin(ctx, time.Second, "set"))
		show(t, c.BRPop(ctx, 10*time.Millisecond, "list"))
		return nil
	})
	// Output:
	// a
	// {list b}
	// {set {m 1}}
	// redis: nil
}
