package redis

import (
	"context"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A Scored is a member of a sorted set with its score.
type Scored struct {
	Member string
	Score  float64
}

// ZAdd adds members to a sorted set, or changes their scores, and returns the number of new
// members.
func (x *Commands) ZAdd(ctx context.Context, key string, members ...Scored) *eventloop.Future[int64] {
	args := make([]any, 0, 2*len(members))
	for _, m := range members {
		args = append(args, m.Score, m.Member)
	}
	return run(ctx, x, toInt, "ZADD", key, args)
}

// ZIncrBy adds to the score of a member and returns the new score.
func (x *Commands) ZIncrBy(ctx context.Context, key string, by float64, member string) *eventloop.Future[float64] {
	return run(ctx, x, toFloat, "ZINCRBY", key, by, member)
}

// ZRem removes members from a sorted set and returns the number of removed members.
func (x *Commands) ZRem(ctx context.Context, key string, members ...string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "ZREM", key, members)
}

// ZScore returns the score of a member, or fails with [ErrNil].
func (x *Commands) ZScore(ctx context.Context, key, member string) *eventloop.Future[float64] {
	return run(ctx, x, toFloat, "ZSCORE", key, member)
}

// ZRank returns the rank of a member: its position in the order of scores, counted from 0. If
// there is no such member, it fails with [ErrNil].
func (x *Commands) ZRank(ctx context.Context, key, member string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "ZRANK", key, member)
}

// ZCard returns the number of members of a sorted set.
func (x *Commands) ZCard(ctx context.Context, key string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "ZCARD", key)
}

// ZCount returns the number of members with scores from min to max, both included.
func (x *Commands) ZCount(ctx context.Context, key string, min, max float64) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "ZCOUNT", key, min, max)
}

// ZRange returns the members with ranks from start to stop, both included, in the order of
// scores. Negative numbers count from the end.
func (x *Commands) ZRange(ctx context.Context, key string, start, stop int64) *eventloop.Future[[]Scored] {
	return run(ctx, x, toScored, "ZRANGE", key, start, stop, "WITHSCORES")
}

// ZRevRange is like ZRange, from the highest score to the lowest.
func (x *Commands) ZRevRange(ctx context.Context, key string, start, stop int64) *eventloop.Future[[]Scored] {
	return run(ctx, x, toScored, "ZRANGE", key, start, stop, "REV", "WITHSCORES")
}

// ZRangeByScore returns the members with scores from min to max, both included. It returns at
// most limit members, or all if limit is 0. The bounds may be infinite.
func (x *Commands) ZRangeByScore(ctx context.Context, key string, min, max float64, limit int) *eventloop.Future[[]Scored] {
	if limit < 0 {
		return invalid[[]Scored](x, errNegative("ZRangeByScore", limit))
	}
	if limit > 0 {
		return run(ctx, x, toScored, "ZRANGE", key, min, max, "BYSCORE", "LIMIT", 0, limit, "WITHSCORES")
	}
	return run(ctx, x, toScored, "ZRANGE", key, min, max, "BYSCORE", "WITHSCORES")
}

// ZRemRangeByScore removes the members with scores from min to max, both included, and
// returns the number of removed members.
func (x *Commands) ZRemRangeByScore(ctx context.Context, key string, min, max float64) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "ZREMRANGEBYSCORE", key, min, max)
}

// ZPopMin removes and returns the count members with the lowest scores.
func (x *Commands) ZPopMin(ctx context.Context, key string, count int) *eventloop.Future[[]Scored] {
	return run(ctx, x, toScored, "ZPOPMIN", key, count)
}

// ZPopMax removes and returns the count members with the highest scores.
func (x *Commands) ZPopMax(ctx context.Context, key string, count int) *eventloop.Future[[]Scored] {
	return run(ctx, x, toScored, "ZPOPMAX", key, count)
}

// toScored decodes members and scores, which are pairs in version 3 of the protocol, and
// alternate in version 2.
func toScored(v resp.Value) (all []Scored, err error) {
	err = pairs(v, func(member, score resp.Value) error {
		m, err := toString(member)
		if err != nil {
			return err
		}
		s, err := toFloat(score)
		all = append(all, Scored{m, s})
		return err
	})
	return all, err
}

func toStringMap(v resp.Value) (map[string]string, error) {
	m := make(map[string]string, len(v.Elems)/2)
	err := pairs(v, func(key, value resp.Value) error {
		k, err := toString(key)
		if err != nil {
			return err
		}
		m[k], err = toString(value)
		return err
	})
	return m, err
}
