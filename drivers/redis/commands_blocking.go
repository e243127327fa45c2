package redis

import (
	"context"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A Popped is a removed element with its key.
type Popped struct{ Key, Value string }

// BLPop removes and returns the first element of the first list that is not empty. If all
// lists are empty, it waits for up to wait, and then fails with [ErrNil]. If wait is
// negative or 0, it waits without end.
//
// If ctx ends while BLPop waits, an element that the server removed at the same moment may
// be lost: the error matches [ErrUncertain].
func (c *Client) BLPop(ctx context.Context, wait time.Duration, keys ...string) *eventloop.Future[Popped] {
	return do(ctx, &c.Commands, toPopped, "BLPOP", keys, seconds(wait))
}

// BRPop is like BLPop, but removes the last element.
func (c *Client) BRPop(ctx context.Context, wait time.Duration, keys ...string) *eventloop.Future[Popped] {
	return do(ctx, &c.Commands, toPopped, "BRPOP", keys, seconds(wait))
}

// BLMove is like LMove, but waits as BLPop does.
func (c *Client) BLMove(ctx context.Context, wait time.Duration, from, to string, take, put Side) *eventloop.Future[string] {
	return do(ctx, &c.Commands, toString, "BLMOVE", from, to, string(take), string(put), seconds(wait))
}

// A PoppedScored is a removed member of a sorted set with its key.
type PoppedScored struct {
	Key string
	Scored
}

// BZPopMin removes and returns the member with the lowest score of the first sorted set
// that is not empty. It waits as BLPop does.
func (c *Client) BZPopMin(ctx context.Context, wait time.Duration, keys ...string) *eventloop.Future[PoppedScored] {
	return do(ctx, &c.Commands, toPoppedScored, "BZPOPMIN", keys, seconds(wait))
}

// seconds returns the timeout argument for a wait; 0 means without end.
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
