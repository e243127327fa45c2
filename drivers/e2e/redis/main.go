// Command redis measures drivers/redis beside other clients of Redis.
package main

import (
	"fmt"
	"strings"

	redigo "github.com/gomodule/redigo/redis"

	"github.com/onloop/eventloop/drivers/e2e/internal/bench"
)

const (
	key     = "bench:64"
	bigKey  = "bench:1M"
	channel = "bench"
)

func main() {
	bench.Main(workloads(), startServer)
}

func workloads() []bench.Workload {
	var all []bench.Workload
	for _, n := range []int{1, 16, 64, 512} {
		all = append(all, bench.Workload{Name: fmt.Sprintf("get64-%d", n), Rivals: []bench.Rival{
			{Name: "eventloop", Run: loopGet(key, n)},
			{Name: "eventloop-tasks", Run: loopGetTasks(key, n)},
			{Name: "rueidis", Run: rueidisGet(key, n, 0)},
			{Name: "rueidis-delay", Run: rueidisGet(key, n, 20)},
			{Name: "go-redis", Run: goRedisGet(key, n)},
			{Name: "go-redis-auto", Run: goRedisAuto(n)},
			{Name: "go-redis-async", Run: goRedisAsync(n, false)},
			{Name: "go-redis-async-fd", Run: goRedisAsync(n, true)},
			{Name: "redigo-by-hand", Run: redigoGet(key, n)},
		}})
	}
	return append(all,
		bench.Workload{Name: "get1M", Rivals: []bench.Rival{
			{Name: "eventloop", Run: loopGet(bigKey, 1)},
			{Name: "rueidis", Run: rueidisGet(bigKey, 1, 0)},
			{Name: "go-redis", Run: goRedisGet(bigKey, 1)},
			{Name: "redigo", Run: redigoGet(bigKey, 1)},
		}},
		bench.Workload{Name: "pubsub", Unit: "messages", Rivals: []bench.Rival{
			{Name: "eventloop", Run: loopSubscribe},
			{Name: "rueidis", Run: rueidisSubscribe},
			{Name: "go-redis", Run: goRedisSubscribe},
			{Name: "redigo", Run: redigoSubscribe},
		}},
	)
}

// fill sets the keys that are read.
func fill(addr string) error {
	c, err := redigo.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Do("MSET", key, strings.Repeat("x", 64), bigKey, strings.Repeat("x", 1<<20))
	return err
}

// publish has the server send messages of 64 B to the channel, for as long as fewer
// than 20,000 were not received. A script makes them, so that the publisher takes no
// time of the subscriber. It returns how many the server has delivered: none before the
// subscriber is there.
func publish(addr string, received func() int64) error {
	c, err := redigo.Dial("tcp", addr)
	if err != nil {
		return err
	}
	const batch = 1000
	script := redigo.NewScript(0, fmt.Sprintf("local n = 0 for i = 1, %d do n = n + redis.call('PUBLISH', '%s', ARGV[1]) end return n", batch, channel))
	text := strings.Repeat("x", 64)
	for sent := int64(0); ; {
		for sent-received() > 20*batch {
			pause()
		}
		n, err := redigo.Int64(script.Do(c, text))
		if err != nil {
			return err
		}
		if sent += n; n == 0 {
			pause()
		}
	}
}
