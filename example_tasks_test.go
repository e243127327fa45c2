package eventloop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/onloop/eventloop"
)

// A server in the linear style: a task for each connection.
func ExampleLoop_ListenTask() {
	shout := func(t *eventloop.Task, c *eventloop.Conn) error {
		nc := c.NetConn(t)
		lines := bufio.NewScanner(nc)
		for lines.Scan() {
			if _, err := fmt.Fprintln(nc, strings.ToUpper(lines.Text())); err != nil {
				return err
			}
		}
		return lines.Err()
	}
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ln, err := l.ListenTask("tcp", "127.0.0.1:0", shout, nil)
		if err != nil {
			return err
		}
		go func() { // any client
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				return
			}
			fmt.Fprintln(nc, "hello")
			answer, _ := bufio.NewReader(nc).ReadString('\n')
			fmt.Print(answer)
			nc.Close()
			ln.Close()
		}()
		return nil
	})
	// Output: HELLO
}

// The end of its context ends what a task waits for.
func ExampleTask_Sleep() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		ctx, cancel := context.WithCancelCause(context.Background())
		l.Go(ctx, func(t *eventloop.Task) error {
			fmt.Println(t.Sleep(time.Millisecond))
			l.AfterFunc(time.Millisecond, func() { cancel(errors.New("time to get up")) })
			fmt.Println(t.Sleep(time.Hour))
			return nil
		})
		return nil
	})
	// Output:
	// <nil>
	// time to get up
}

// A long computation lets callbacks run in between.
func ExampleTask_Yield() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			sum := 0
			for i := range 3 {
				sum += i
				l.Post(func() { fmt.Println("a callback, so far", sum) })
				if err := t.Yield(); err != nil {
					return err
				}
			}
			return nil
		})
		return nil
	})
	// Output:
	// a callback, so far 0
	// a callback, so far 1
	// a callback, so far 3
}

// Deadlines work as on any net.Conn, and no other connection waits meanwhile.
func ExampleConn_NetConn_deadline() {
	near, far := net.Pipe()
	defer far.Close()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := l.Adopt(near, nil)
		if err != nil {
			return err
		}
		l.Go(context.Background(), func(t *eventloop.Task) error {
			nc := c.NetConn(t)
			defer nc.Close()
			nc.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			_, err := nc.Read(make([]byte, 100))
			fmt.Println("timeout:", errors.Is(err, eventloop.ErrTimeout))
			return nil
		})
		return nil
	})
	// Output: timeout: true
}

func ExampleConn_NetConn_json() {
	type sum struct{ A, B, Sum int }
	near, far := net.Pipe()
	client := make(chan struct{})
	go func() {
		defer close(client)
		json.NewEncoder(far).Encode(sum{A: 40, B: 2})
		io.Copy(os.Stdout, far)
	}()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		c, err := l.Adopt(near, nil)
		if err != nil {
			return err
		}
		l.Go(context.Background(), func(t *eventloop.Task) error {
			nc := c.NetConn(t)
			defer nc.Close()
			var req sum
			if err := json.NewDecoder(nc).Decode(&req); err != nil {
				return err
			}
			req.Sum = req.A + req.B
			return json.NewEncoder(nc).Encode(req)
		})
		return nil
	})
	<-client
	// Output: {"A":40,"B":2,"Sum":42}
}

// Tasks of a group run side by side; their parent waits for all of them.
func ExampleTaskGroup() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			found := make(map[string]int) // of the loop: no lock
			g := t.Group()
			for i, name := range []string{"one", "two", "three"} {
				g.Go(func(t *eventloop.Task) error {
					if err := t.Sleep(time.Millisecond); err != nil { // a request, say
						return err
					}
					found[name] = i + 1
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			fmt.Println(found)
			return nil
		})
		return nil
	})
	// Output: map[one:1 three:3 two:2]
}

// At most two of the tasks run at a time; Go waits until it can start the next.
func ExampleTaskGroup_SetLimit() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			g := t.Group()
			g.SetLimit(2)
			now, most := 0, 0
			for range 10 {
				g.Go(func(t *eventloop.Task) error {
					now++
					most = max(most, now)
					defer func() { now-- }()
					return t.Sleep(time.Millisecond) // a request, say
				})
			}
			err := g.Wait()
			fmt.Println(most, "at a time")
			return err
		})
		return nil
	})
	// Output: 2 at a time
}

// Block is blocking code in the middle of a task. The loop goes on meanwhile.
func ExampleBlock() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			text, err := eventloop.Block(t, func(ctx context.Context) (string, error) {
				time.Sleep(time.Millisecond) // a file or a database, say
				return "read from a slow disk", nil
			})
			fmt.Println(text)
			return err
		})
		return nil
	})
	// Output: read from a slow disk
}

func ExampleFuture_AwaitTimeout() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		answer, resolve := eventloop.NewFuture[int](l)
		l.Go(context.Background(), func(t *eventloop.Task) error {
			_, err := answer.AwaitTimeout(t, time.Millisecond)
			fmt.Println("too late:", errors.Is(err, eventloop.ErrTimeout))
			resolve(42, nil)
			v, err := answer.AwaitTimeout(t, time.Millisecond)
			fmt.Println(v)
			return err
		})
		return nil
	})
	// Output:
	// too late: true
	// 42
}

// Ignore says that a failure to send a value need not be reported.
func ExampleFuture_Ignore() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		news := make(chan string)
		close(news)
		eventloop.SendTo(l, news).Send("hello").Ignore()
		return nil
	})
	fmt.Println("ended without a word")
	// Output: ended without a word
}

// A task waits for code that blocks as for anything else.
func ExampleWork_await() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			text, err := eventloop.Work(t.Context(), l, func(ctx context.Context) (string, error) {
				time.Sleep(time.Millisecond) // blocks, but not the loop
				return "read from a slow disk", nil
			}).Await(t)
			fmt.Println(text)
			return err
		})
		return nil
	})
	// Output: read from a slow disk
}

// Each client has workers of its own, so that a slow one does not hold up the other.
func ExampleNewWorkers() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		archive := eventloop.NewWorkers(l, 1, "archive")
		search := eventloop.NewWorkers(l, 8, "search")
		ctx := context.Background()
		for range 3 {
			eventloop.WorkOn(ctx, archive, func(ctx context.Context) (string, error) {
				time.Sleep(10 * time.Millisecond)
				return "archived", nil
			}).Then(func(v string, err error) { fmt.Println(v) })
		}
		eventloop.WorkOn(ctx, search, func(ctx context.Context) (string, error) {
			return "found", nil
		}).Then(func(v string, err error) { fmt.Println(v, search.Loop() == l) })
		fmt.Println("archive:", archive.Running(), "running,", archive.Waiting(), "waiting")
		return nil
	})
	// Output:
	// archive: 1 running, 2 waiting
	// found true
	// archived
	// archived
	// archived
}

func ExampleWorkOn() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		disk := eventloop.NewWorkers(l, 2, "disk")
		l.Go(context.Background(), func(t *eventloop.Task) error {
			text, err := eventloop.WorkOn(t.Context(), disk, func(ctx context.Context) (string, error) {
				time.Sleep(time.Millisecond) // blocks, but not the loop
				return "read from a slow disk", nil
			}).Await(t)
			fmt.Println(text)
			return err
		})
		return nil
	})
	// Output: read from a slow disk
}

// What was taken from the channel and not delivered is not lost.
func ExampleReceiver_Stop() {
	jobs := make(chan string, 2)
	jobs <- "first"
	jobs <- "second"
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		var r *eventloop.Receiver[string]
		r = eventloop.Receive(l, jobs, func(job string, ok bool) {
			fmt.Println("done:", job)
			left := r.Stop()
			fmt.Println("not done:", len(left)+len(jobs))
		})
		return nil
	})
	// Output:
	// done: first
	// not done: 1
}

// The future of Send is back-pressure for those who want it.
func ExampleSender_Send() {
	results := make(chan int)
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		for n := range results {
			fmt.Println(n)
		}
	}()
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), func(t *eventloop.Task) error {
			s := eventloop.SendTo(l, results)
			for n := range 3 {
				if _, err := s.Send(n).Await(t); err != nil { // one at a time
					return err
				}
			}
			return nil
		})
		return nil
	})
	close(results)
	<-printed
	// Output:
	// 0
	// 1
	// 2
}
