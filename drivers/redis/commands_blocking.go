package redis

import (
	"context"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A Popped is an element with the key from which it was taken.
type Popped struct{ Key, Value string }

// BLPop takes the first element of the first of the lists that has one. If none has one
// it waits for up to wait, or without end if wait is negative or 0; then it fails with
// [ErrNil].
//
// If ctx ends while it waits, an element that was taken at the same moment may be lost:
// the error matches [ErrUncertain].
func (c *Client) BLPop(ctx context.Context, wait time.Duration, keys ...string) *eventloop.Future[Popped] {
	return do(ctx, &c.Commands, toPopped, "BLPOP", keys, seconds(wait))
}

// BRPop is BLPop for last elements.
func (c *Client) BRPop(ctx context.Context, wait time.Duration, keys ...string) *eventloop.Future[Popped] {
	return do(ctx, &c.Commands, toPopped, "BRPOP", keys, seconds(wait))
}

// BLMove is LMove that waits as BLPop does.
func (c *Client) BLMove(ctx context.Context, wait time.Duration, from, to string, take, put Side) *eventloop.Future[string] {
	return do(ctx, &c.Commands, toString, "BLMOVE", from, to, string(take), string(put), seconds(wait))
}

// A PoppedScored is a member of a sorted set with the key from which it was taken.
type PoppedScored struct {
	Key string
	Scored
}

// BZPopMin takes the member with the lowest score of the first of the sorted sets that
// has one. It waits as BLPop does.
func (c *Client) BZPopMin(ctx context.Context, wait time.Duration, keys ...string) *eventloop.Future[PoppedScored] {
	return do(ctx, &c.Commands, toPoppedScored, "BZPOPMIN", keys, seconds(wait))
}

// seconds is the argument for a wait, of which 0 is without end.
func seconds(wait time.Duration) float64 {
	if wait <= 0 {
		return 0
	}
	return max(wait, time.Millisecond).Seconds()
}

func toPopped(v resp.Value) (Popped, error) {
	s, err := toStrings(v)
	if err != nil {
		return Popped{}, err
	}
	if len(s) != 2 {
		return Popped{}, mismatch(v, "key and element")
	}
	return Popped{s[0], s[1]}, nil
}

func toPoppedScored(v resp.Value) (PoppedScored, error) {
	if len(v.Elems) != 3 {
		return PoppedScored{}, mismatch(v, "key, member and score")
	}
	score, err := toFloat(v.Elems[2])
	return PoppedScored{v.Elems[0].Str, Scored{v.Elems[1].Str, score}}, err
}
