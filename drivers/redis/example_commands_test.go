package redis_test

import (
	"fmt"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
)

func ExampleCommands_strings() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		show(t, c.Set(ctx, "k", "v"))
		show(t, c.Get(ctx, "k"))
		show(t, c.SetWith(ctx, "k", "w", redis.SetOptions{IfMissing: true, TTL: time.Hour}))
		show(t, c.GetSet(ctx, "k", "x"))
		show(t, c.GetEx(ctx, "k", time.Hour))
		show(t, c.GetDel(ctx, "k"))
		show(t, c.Get(ctx, "k"))
		show(t, c.MSet(ctx, "a", 1, "b", 2))
		values, _ := c.MGet(ctx, "a", "missing", "b").Await(t)
		fmt.Println(*values[0], values[1], *values[2])
		show(t, c.Incr(ctx, "a"))
		show(t, c.IncrBy(ctx, "a", 10))
		show(t, c.Decr(ctx, "a"))
		show(t, c.IncrByFloat(ctx, "a", 0.5))
		show(t, c.Append(ctx, "b", "345"))
		show(t, c.GetRange(ctx, "b", 1, -1))
		show(t, c.StrLen(ctx, "b"))
		return nil
	})
	// Output:
	// {}
	// v
	// false
	// v
	// x
	// x
	// redis: nil
	// {}
	// 1 <nil> 2
	// 2
	// 12
	// 11
	// 11.5
	// 4
	// 345
	// 4
}

func ExampleCommands_keys() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		c.MSet(ctx, "a", 1, "b", 2).Ignore()
		show(t, c.Exists(ctx, "a", "b", "c"))
		show(t, c.Expire(ctx, "a", time.Hour))
		show(t, c.ExpireAt(ctx, "a", time.Now().Add(2*time.Hour)))
		show(t, c.Persist(ctx, "a"))
		show(t, c.TTL(ctx, "a"))
		show(t, c.Type(ctx, "a"))
		show(t, c.Rename(ctx, "a", "c"))
		show(t, c.Copy(ctx, "c", "d", false))
		show(t, c.Del(ctx, "c"))
		show(t, c.Unlink(ctx, "d"))
		show(t, c.DBSize(ctx))
		return nil
	})
	// Output:
	// 2
	// true
	// true
	// true
	// -1ns
	// string
	// {}
	// true
	// 1
	// 1
	// 1
}

func ExampleCommands_hashes() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		show(t, c.HSet(ctx, "h", "name", "Ada", "age", 36))
		show(t, c.HGet(ctx, "h", "name"))
		show(t, c.HGetAll(ctx, "h"))
		show(t, c.HSetNX(ctx, "h", "name", "Bob"))
		values, _ := c.HMGet(ctx, "h", "name", "missing").Await(t)
		fmt.Println(*values[0], values[1])
		show(t, c.HIncrBy(ctx, "h", "age", 1))
		show(t, c.HExists(ctx, "h", "age"))
		show(t, c.HDel(ctx, "h", "age"))
		show(t, c.HKeys(ctx, "h"))
		show(t, c.HLen(ctx, "h"))
		return nil
	})
	// Output:
	// 2
	// Ada
	// map[age:36 name:Ada]
	// false
	// Ada <nil>
	// 37
	// true
	// 1
	// [name]
	// 1
}

func ExampleCommands_lists() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		show(t, c.RPush(ctx, "l", "b", "c", "d"))
		show(t, c.LPush(ctx, "l", "a"))
		show(t, c.LRange(ctx, "l", 0, -1))
		show(t, c.LIndex(ctx, "l", -1))
		show(t, c.LSet(ctx, "l", 0, "A"))
		show(t, c.LPop(ctx, "l"))
		show(t, c.RPop(ctx, "l"))
		show(t, c.LMove(ctx, "l", "m", redis.Left, redis.Right))
		show(t, c.LRem(ctx, "l", 0, "c"))
		show(t, c.LTrim(ctx, "m", 0, 0))
		show(t, c.LLen(ctx, "m"))
		return nil
	})
	// Output:
	// 3
	// 4
	// [a b c d]
	// d
	// {}
	// A
	// d
	// b
	// 1
	// {}
	// 1
}

func ExampleCommands_sets() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		show(t, c.SAdd(ctx, "s", "a"))
		show(t, c.SAdd(ctx, "r", "a", "b"))
		show(t, c.SIsMember(ctx, "s", "a"))
		show(t, c.SInter(ctx, "s", "r"))
		show(t, c.SDiff(ctx, "r", "s"))
		union, _ := c.SUnion(ctx, "s", "r").Await(t)
		fmt.Println(len(union))
		show(t, c.SRem(ctx, "r", "b"))
		show(t, c.SMembers(ctx, "r"))
		show(t, c.SPop(ctx, "r"))
		show(t, c.SCard(ctx, "r"))
		return nil
	})
	// Output:
	// 1
	// 2
	// true
	// [a]
	// [b]
	// 2
	// 1
	// [a]
	// a
	// 0
}

func ExampleCommands_sortedSets() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		show(t, c.ZAdd(ctx, "z", redis.Scored{Member: "Ada", Score: 30}, redis.Scored{Member: "Bob", Score: 10}, redis.Scored{Member: "Eve", Score: 20}))
		show(t, c.ZRange(ctx, "z", 0, -1))
		show(t, c.ZRevRange(ctx, "z", 0, 0))
		show(t, c.ZRangeByScore(ctx, "z", 15, 100, 1))
		show(t, c.ZIncrBy(ctx, "z", 5, "Bob"))
		show(t, c.ZScore(ctx, "z", "Bob"))
		show(t, c.ZRank(ctx, "z", "Bob"))
		show(t, c.ZCount(ctx, "z", 0, 25))
		show(t, c.ZRem(ctx, "z", "Eve"))
		show(t, c.ZPopMin(ctx, "z", 1))
		show(t, c.ZPopMax(ctx, "z", 1))
		show(t, c.ZRemRangeByScore(ctx, "z", 0, 100))
		show(t, c.ZCard(ctx, "z"))
		return nil
	})
	// Output:
	// 3
	// [{Bob 10} {Eve 20} {Ada 30}]
	// [{Ada 30}]
	// [{Eve 20}]
	// 15
	// 15
	// 0
	// 2
	// 1
	// [{Bob 15}]
	// [{Ada 30}]
	// 0
	// 0
}

func ExampleCommands_streams() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		id, err := c.XAdd(ctx, "s", "n", 1).Await(t)
		if err != nil {
			return err
		}
		c.XAddMax(ctx, "s", 1000, "n", 2).Ignore()
		show(t, c.XLen(ctx, "s"))
		entries, err := c.XRange(ctx, "s", "-", "+", 1).Await(t)
		fmt.Println(entries[0].ID == id, entries[0].Get("n"), err)
		newer, err := c.XRead(ctx, "s", id, 10, time.Second).Await(t)
		fmt.Println(newer[0].Get("n"), err)

		show(t, c.XGroupCreate(ctx, "s", "group", "0"))
		mine, err := c.XReadGroup(ctx, "s", "group", "me", 1, 0).Await(t)
		fmt.Println(mine[0].Get("n"), err)
		claim, err := c.XAutoClaim(ctx, "s", "group", "other", 0, "0-0", 10).Await(t)
		fmt.Println(claim.Entries[0].Get("n"), err)
		show(t, c.XAck(ctx, "s", "group", id))
		show(t, c.XDel(ctx, "s", id))
		show(t, c.XGroupDestroy(ctx, "s", "group"))
		return nil
	})
	// Output:
	// 2
	// true 1 <nil>
	// 2 <nil>
	// true
	// 1 <nil>
	// 1 <nil>
	// 1
	// 1
	// true
}

func ExampleCommands_others() {
	inTask(func(t *eventloop.Task, c *redis.Client) error {
		ctx := t.Context()
		show(t, c.PFAdd(ctx, "visitors", "Ada", "Bob"))
		show(t, c.PFMerge(ctx, "all", "visitors"))
		show(t, c.PFCount(ctx, "all"))
		show(t, c.GeoAdd(ctx, "geo", redis.Place{Name: "Palermo", Longitude: 13.361389, Latitude: 38.115556},
			redis.Place{Name: "Catania", Longitude: 15.087269, Latitude: 37.502669}))
		m, _ := c.GeoDist(ctx, "geo", "Palermo", "Catania").Await(t)
		fmt.Printf("%.0f km\n", m/1000)
		near, _ := c.GeoSearch(ctx, "geo", 15, 37, 100_000, 1).Await(t)
		fmt.Println(near[0].Name)
		show(t, c.ConfigSet(ctx, "slowlog-max-len", 64))
		show(t, c.ConfigGet(ctx, "slowlog-max-len"))
		now, err := c.Time(ctx).Await(t)
		fmt.Println(time.Since(now).Abs() < time.Hour, err)
		info, err := c.Info(ctx, "server").Await(t)
		fmt.Println(len(info) > 0, err)
		show(t, c.FlushDB(ctx))
		return nil
	})
	// Output:
	// true
	// {}
	// 2
	// 2
	// 166 km
	// Catania
	// {}
	// map[slowlog-max-len:64]
	// true <nil>
	// true <nil>
	// {}
}
