package redis_test

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis"
)

// bothVersions runs f with both versions of the protocol.
func bothVersions(t *testing.T, f func(t *testing.T, task *eventloop.Task, c *redis.Client)) {
	for name, o := range map[string]redis.Options{"RESP3": {}, "RESP2": {RESP2: true}} {
		t.Run(name, func(t *testing.T) {
			onServer(t, o, func(task *eventloop.Task, c *redis.Client) { f(t, task, c) })
		})
	}
}

// want waits for a future and compares its result.
func want[T any](t *testing.T, task *eventloop.Task, f *eventloop.Future[T], want T) {
	t.Helper()
	if got, err := f.Await(task); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

// wantNil waits for a future that has to fail with ErrNil.
func wantNil[T any](t *testing.T, task *eventloop.Task, f *eventloop.Future[T]) {
	t.Helper()
	if got, err := f.Await(task); err != redis.ErrNil {
		t.Errorf("got %v, %v, want ErrNil", got, err)
	}
}

var done = struct{}{}

func ptr(s string) *string { return &s }

func TestCommandsOfStrings(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		wantNil(t, task, c.Get(ctx, "k"))
		want(t, task, c.Set(ctx, "k", "v\r\n\x00"), done)
		want(t, task, c.Get(ctx, "k"), "v\r\n\x00")
		want(t, task, c.SetWith(ctx, "k", 1, redis.SetOptions{IfMissing: true}), false)
		want(t, task, c.SetWith(ctx, "k", 1, redis.SetOptions{IfExists: true, TTL: time.Hour}), true)
		if d, err := c.TTL(ctx, "k").Await(task); err != nil || d <= time.Hour-watchdogTime || d > time.Hour {
			t.Errorf("TTL %v, %v", d, err)
		}
		want(t, task, c.SetWith(ctx, "k", 2, redis.SetOptions{KeepTTL: true}), true)
		if d, err := c.TTL(ctx, "k").Await(task); err != nil || d == redis.NoTTL {
			t.Errorf("TTL %v, %v", d, err)
		}
		want(t, task, c.SetWith(ctx, "k", 2, redis.SetOptions{At: time.Now().Add(time.Hour)}), true)
		want(t, task, c.GetSet(ctx, "k", "new"), "2")
		wantNil(t, task, c.GetSet(ctx, "k2", "new"))
		want(t, task, c.GetEx(ctx, "k", time.Minute), "new")
		want(t, task, c.GetEx(ctx, "k", 0), "new")
		want(t, task, c.TTL(ctx, "k"), redis.NoTTL)
		want(t, task, c.MSet(ctx, "a", 1, "b", "two"), done)
		want(t, task, c.MGet(ctx, "a", "none", "b"), []*string{ptr("1"), nil, ptr("two")})
		want(t, task, c.Append(ctx, "b", "-three"), 9)
		want(t, task, c.StrLen(ctx, "b"), 9)
		want(t, task, c.GetRange(ctx, "b", -5, -1), "three")
		want(t, task, c.Incr(ctx, "a"), 2)
		want(t, task, c.IncrBy(ctx, "a", 40), 42)
		want(t, task, c.Decr(ctx, "a"), 41)
		want(t, task, c.IncrByFloat(ctx, "a", 0.5), 41.5)
		want(t, task, c.GetDel(ctx, "a"), "41.5")
		if _, err := c.Incr(ctx, "b").Await(task); err == nil || err.Error() != "redis: ERR value is not an integer or out of range" {
			t.Errorf("Incr of a text: %v", err)
		}
	})
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		want(t, task, c.Set(ctx, "k", "before"), done)
		at := time.Now().Add(time.Hour)
		for _, o := range []redis.SetOptions{
			{TTL: -1}, {TTL: time.Hour, KeepTTL: true}, {TTL: time.Hour, At: at}, {At: at, KeepTTL: true}, {IfMissing: true, IfExists: true},
		} {
			if ok, err := c.SetWith(ctx, "k", "after", o).Await(task); err == nil || ok {
				t.Errorf("SetWith(%+v): %v, %v", o, ok, err)
			}
		}
		if _, err := c.GetEx(ctx, "k", -1).Await(task); err == nil {
			t.Error("GetEx with a negative time succeeds")
		}
		if _, err := c.XRange(ctx, "s", "-", "+", -1).Await(task); err == nil {
			t.Error("XRange with a negative count succeeds")
		}
		if _, err := c.ZRangeByScore(ctx, "z", 0, 1, -1).Await(task); err == nil {
			t.Error("ZRangeByScore with a negative limit succeeds")
		}
		if _, err := c.GeoSearch(ctx, "g", 0, 0, 1, -1).Await(task); err == nil {
			t.Error("GeoSearch with a negative limit succeeds")
		}
		want(t, task, c.Get(ctx, "k"), "before")
	})
}

func TestTheLongestTimeDoesNotExpireAtOnce(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		want(t, task, c.Set(ctx, "k", "v"), done)
		want(t, task, c.Expire(ctx, "k", math.MaxInt64), true)
		want(t, task, c.Get(ctx, "k"), "v")
	})
}

func TestAnArgumentOfAWrongTypeIsNamed(t *testing.T) {
	onServer(t, redis.Options{}, func(task *eventloop.Task, c *redis.Client) {
		_, err := c.LPush(task.Context(), "k", 1, []any{time.Time{}}).Await(task)
		if err == nil || !strings.Contains(err.Error(), "time.Time") {
			t.Errorf("got %v, want the type", err)
		}
	})
}

func TestCommandsOfKeys(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		c.MSet(ctx, "a", 1, "b", 2, "c", 3).Await(task)
		want(t, task, c.Exists(ctx, "a", "b", "none"), 2)
		want(t, task, c.Type(ctx, "a"), "string")
		want(t, task, c.Type(ctx, "none"), "none")
		want(t, task, c.Rename(ctx, "a", "z"), done)
		want(t, task, c.Copy(ctx, "z", "y", false), true)
		want(t, task, c.Copy(ctx, "z", "y", false), false)
		want(t, task, c.Copy(ctx, "b", "y", true), true)
		want(t, task, c.Expire(ctx, "y", time.Hour), true)
		want(t, task, c.Expire(ctx, "none", time.Hour), false)
		want(t, task, c.Persist(ctx, "y"), true)
		want(t, task, c.ExpireAt(ctx, "y", time.Now().Add(time.Hour)), true)
		wantNil(t, task, c.TTL(ctx, "none"))
		want(t, task, c.DBSize(ctx), 4)
		want(t, task, c.Del(ctx, "y", "z", "none"), 2)
		want(t, task, c.Unlink(ctx, "b"), 1)
	})
}

func TestCommandsOfHashes(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		want(t, task, c.HSet(ctx, "h", "name", "Ada", "age", 36), 2)
		want(t, task, c.HGet(ctx, "h", "name"), "Ada")
		wantNil(t, task, c.HGet(ctx, "h", "none"))
		want(t, task, c.HSetNX(ctx, "h", "name", "Bob"), false)
		want(t, task, c.HGetAll(ctx, "h"), map[string]string{"name": "Ada", "age": "36"})
		want(t, task, c.HGetAll(ctx, "none"), map[string]string{})
		want(t, task, c.HMGet(ctx, "h", "age", "none"), []*string{ptr("36"), nil})
		want(t, task, c.HExists(ctx, "h", "age"), true)
		want(t, task, c.HLen(ctx, "h"), 2)
		want(t, task, c.HIncrBy(ctx, "h", "age", 1), 37)
		type person struct {
			Name string
			Age  int `redis:"age"`
			City *string
		}
		want(t, task, redis.Do[person](ctx, c, "HGETALL", "h"), person{Name: "Ada", Age: 37})
		want(t, task, redis.Do[map[string]any](ctx, c, "HGETALL", "h"), map[string]any{"name": "Ada", "age": "37"})
		var fields []redis.Field
		for f, err := range c.HScan(task, "h", redis.ScanOptions{Match: "a*"}) {
			if err != nil {
				t.Error(err)
			}
			fields = append(fields, f)
		}
		if !slices.Equal(fields, []redis.Field{{Name: "age", Value: "37"}}) {
			t.Errorf("HScan: %v", fields)
		}
		want(t, task, c.HDel(ctx, "h", "age", "none"), 1)
		want(t, task, c.HKeys(ctx, "h"), []string{"name"})
	})
}

func TestCommandsOfLists(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		want(t, task, c.RPush(ctx, "l", "b", "c", "d"), 3)
		want(t, task, c.LPush(ctx, "l", "a"), 4)
		want(t, task, c.LRange(ctx, "l", 0, -1), []string{"a", "b", "c", "d"})
		want(t, task, c.LRange(ctx, "none", 0, -1), []string{})
		want(t, task, c.LIndex(ctx, "l", -1), "d")
		wantNil(t, task, c.LIndex(ctx, "l", 9))
		want(t, task, c.LSet(ctx, "l", 0, "A"), done)
		want(t, task, c.LPop(ctx, "l"), "A")
		want(t, task, c.RPop(ctx, "l"), "d")
		wantNil(t, task, c.RPop(ctx, "none"))
		want(t, task, c.LMove(ctx, "l", "m", redis.Left, redis.Right), "b")
		want(t, task, c.BLMove(ctx, time.Second, "m", "l", redis.Left, redis.Right), "b")
		want(t, task, c.LRem(ctx, "l", 0, "b"), 1)
		want(t, task, c.LTrim(ctx, "l", 0, 0), done)
		want(t, task, c.LLen(ctx, "l"), 1)
		want(t, task, c.BLPop(ctx, time.Second, "none", "l"), redis.Popped{Key: "l", Value: "c"})
		wantNil(t, task, c.BLPop(ctx, time.Millisecond, "l"))
	})
}

func TestCommandsOfSets(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		sorted := func(f *eventloop.Future[[]string]) []string {
			s, err := f.Await(task)
			if err != nil {
				t.Error(err)
			}
			slices.Sort(s)
			return s
		}
		want(t, task, c.SAdd(ctx, "s", "a", "b", "c"), 3)
		want(t, task, c.SAdd(ctx, "r", "b", "c", "d"), 3)
		want(t, task, c.SIsMember(ctx, "s", "a"), true)
		want(t, task, c.SCard(ctx, "s"), 3)
		for i, tt := range []struct{ got, want []string }{
			{sorted(c.SMembers(ctx, "s")), []string{"a", "b", "c"}},
			{sorted(c.SInter(ctx, "s", "r")), []string{"b", "c"}},
			{sorted(c.SUnion(ctx, "s", "r")), []string{"a", "b", "c", "d"}},
			{sorted(c.SDiff(ctx, "s", "r")), []string{"a"}},
		} {
			if !slices.Equal(tt.got, tt.want) {
				t.Errorf("%d: got %q, want %q", i, tt.got, tt.want)
			}
		}
		var members []string
		for m, err := range c.SScan(task, "s", redis.ScanOptions{}) {
			if err != nil {
				t.Error(err)
			}
			members = append(members, m)
		}
		if slices.Sort(members); !slices.Equal(members, []string{"a", "b", "c"}) {
			t.Errorf("SScan: %q", members)
		}
		want(t, task, c.SRem(ctx, "s", "a", "b"), 2)
		want(t, task, c.SPop(ctx, "s"), "c")
		wantNil(t, task, c.SPop(ctx, "s"))
	})
}

func TestCommandsOfSortedSets(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		a, b, d := redis.Scored{Member: "a", Score: 1}, redis.Scored{Member: "b", Score: 2.5}, redis.Scored{Member: "d", Score: math.Inf(1)}
		want(t, task, c.ZAdd(ctx, "z", a, b, d), 3)
		want(t, task, c.ZScore(ctx, "z", "b"), 2.5)
		wantNil(t, task, c.ZScore(ctx, "z", "none"))
		want(t, task, c.ZScore(ctx, "z", "d"), math.Inf(1))
		want(t, task, c.ZRank(ctx, "z", "b"), 1)
		wantNil(t, task, c.ZRank(ctx, "z", "none"))
		want(t, task, c.ZCard(ctx, "z"), 3)
		want(t, task, c.ZCount(ctx, "z", 1, 3), 2)
		want(t, task, c.ZRange(ctx, "z", 0, -1), []redis.Scored{a, b, d})
		want(t, task, c.ZRevRange(ctx, "z", 0, 0), []redis.Scored{d})
		want(t, task, c.ZRangeByScore(ctx, "z", 2, math.Inf(1), 0), []redis.Scored{b, d})
		want(t, task, c.ZRangeByScore(ctx, "z", math.Inf(-1), 3, 1), []redis.Scored{a})
		want(t, task, redis.Do[map[string]float64](ctx, c, "ZRANGE", "z", 0, 1, "WITHSCORES"), map[string]float64{"a": 1, "b": 2.5})
		want(t, task, c.ZIncrBy(ctx, "z", 0.5, "b"), 3)
		var found []redis.Scored
		for m, err := range c.ZScan(task, "z", redis.ScanOptions{Match: "b"}) {
			if err != nil {
				t.Error(err)
			}
			found = append(found, m)
		}
		if !slices.Equal(found, []redis.Scored{{Member: "b", Score: 3}}) {
			t.Errorf("ZScan: %v", found)
		}
		want(t, task, c.ZRem(ctx, "z", "d"), 1)
		want(t, task, c.ZPopMin(ctx, "z", 1), []redis.Scored{a})
		want(t, task, c.ZPopMax(ctx, "z", 5), []redis.Scored{{Member: "b", Score: 3}})
		want(t, task, c.ZRange(ctx, "z", 0, -1), nil)
		c.ZAdd(ctx, "z", a, b).Await(task)
		want(t, task, c.ZRemRangeByScore(ctx, "z", 0, 2), 1)
		want(t, task, c.BZPopMin(ctx, time.Second, "z"), redis.PoppedScored{Key: "z", Scored: b})
		wantNil(t, task, c.BZPopMin(ctx, time.Millisecond, "z"))
	})
}

func TestCommandsOfStreams(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		id, err := c.XAdd(ctx, "s", "name", "Ada", "n", 1).Await(task)
		if err != nil {
			t.Fatal(err)
		}
		first := redis.Entry{ID: id, Fields: []redis.Field{{Name: "name", Value: "Ada"}, {Name: "n", Value: "1"}}}
		if first.Get("n") != "1" || first.Get("none") != "" {
			t.Error("Get")
		}
		id2, _ := c.XAddMax(ctx, "s", 100, "n", 2).Await(task)
		second := redis.Entry{ID: id2, Fields: []redis.Field{{Name: "n", Value: "2"}}}
		want(t, task, c.XLen(ctx, "s"), 2)
		want(t, task, c.XRange(ctx, "s", "-", "+", 0), []redis.Entry{first, second})
		want(t, task, c.XRange(ctx, "s", "-", "+", 1), []redis.Entry{first})
		want(t, task, c.XRead(ctx, "s", id, 10, 0), []redis.Entry{second})
		wantNil(t, task, c.XRead(ctx, "s", id2, 10, 0))
		wantNil(t, task, c.XRead(ctx, "s", "$", 10, time.Millisecond))
		want(t, task, c.XGroupCreate(ctx, "s", "g", "0"), true)
		want(t, task, c.XGroupCreate(ctx, "s", "g", "0"), false)
		want(t, task, c.XReadGroup(ctx, "s", "g", "me", 1, 0), []redis.Entry{first})
		want(t, task, c.XReadGroup(ctx, "s", "g", "me", 1, time.Second), []redis.Entry{second})
		wantNil(t, task, c.XReadGroup(ctx, "s", "g", "me", 1, time.Millisecond))
		want(t, task, c.XAck(ctx, "s", "g", id), 1)
		want(t, task, c.XAutoClaim(ctx, "s", "g", "other", 0, "0-0", 10), redis.Claim{Next: "0-0", Entries: []redis.Entry{second}})
		want(t, task, c.XDel(ctx, "s", id), 1)
		want(t, task, c.XGroupDestroy(ctx, "s", "g"), true)
	})
}

func TestOtherCommands(t *testing.T) {
	bothVersions(t, func(t *testing.T, task *eventloop.Task, c *redis.Client) {
		ctx := task.Context()
		want(t, task, c.Ping(ctx), "PONG")
		want(t, task, c.PFAdd(ctx, "p", "a", "b", "c"), true)
		want(t, task, c.PFAdd(ctx, "q", "d"), true)
		want(t, task, c.PFMerge(ctx, "p", "q"), done)
		want(t, task, c.PFCount(ctx, "p"), 4)
		want(t, task, c.GeoAdd(ctx, "g", redis.Place{Name: "Palermo", Longitude: 13.361389, Latitude: 38.115556},
			redis.Place{Name: "Catania", Longitude: 15.087269, Latitude: 37.502669}), 2)
		if d, err := c.GeoDist(ctx, "g", "Palermo", "Catania").Await(task); err != nil || math.Round(d) != 166274 {
			t.Errorf("GeoDist: %v, %v", d, err)
		}
		wantNil(t, task, c.GeoDist(ctx, "g", "Palermo", "none"))
		near, err := c.GeoSearch(ctx, "g", 15, 37, 100_000, 5).Await(task)
		if err != nil || len(near) != 1 || near[0].Name != "Catania" || math.Round(near[0].Distance) != 56441 || math.Abs(near[0].Longitude-15.087) > 0.001 {
			t.Errorf("GeoSearch: %+v, %v", near, err)
		}
		want(t, task, c.Publish(ctx, "silent", "x"), 0)
		want(t, task, c.SPublish(ctx, "silent", "x"), 0)
		if now, err := c.Time(ctx).Await(task); err != nil || time.Since(now).Abs() > time.Hour {
			t.Errorf("Time: %v, %v", now, err)
		}
		if info, err := c.Info(ctx, "server").Await(task); err != nil || len(info) < 100 {
			t.Errorf("Info: %q, %v", info, err)
		}
		if info, err := c.Info(ctx, "").Await(task); err != nil || len(info) < 100 {
			t.Errorf("Info: %q, %v", info, err)
		}
		want(t, task, c.ConfigSet(ctx, "slowlog-max-len", 64), done)
		want(t, task, c.ConfigGet(ctx, "slowlog-max-*"), map[string]string{"slowlog-max-len": "64"})
		for i := range 100 {
			c.Set(ctx, "key"+string(rune('a'+i%26))+string(rune('a'+i/26)), i).Ignore()
		}
		found := make(map[string]bool)
		for key, err := range c.Scan(task, redis.ScanOptions{Match: "key*", Type: "string", Count: 7}) {
			if err != nil {
				t.Error(err)
			}
			found[key] = true
		}
		if len(found) != 100 {
			t.Errorf("Scan found %d keys, want 100", len(found))
		}
		if info, err := redis.Do[redis.Reply](ctx, c, "COMMAND", "COUNT").Await(task); err != nil || info.Kind() != redis.KindInt {
			t.Errorf("COMMAND COUNT: %v, %v", info, err)
		}
	})
}
