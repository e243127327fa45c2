package redis

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// PFAdd adds elements to a HyperLogLog and reports whether its estimate has changed.
func (x *Commands) PFAdd(ctx context.Context, key string, elements ...any) *eventloop.Future[bool] {
	return run(ctx, x, toBool, "PFADD", key, elements)
}

// PFCount estimates the number of different elements that were added to the HyperLogLogs.
func (x *Commands) PFCount(ctx context.Context, keys ...string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "PFCOUNT", keys)
}

// PFMerge merges the other HyperLogLogs into the first.
func (x *Commands) PFMerge(ctx context.Context, to string, from ...string) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "PFMERGE", to, from)
}

// A Place is a member of a geospatial index, with its position in degrees.
type Place struct {
	Name                string
	Longitude, Latitude float64
	Distance            float64 // in meters, from the center of a search; else 0
}

// GeoAdd adds places to an index, or moves them, and returns the number of new places.
func (x *Commands) GeoAdd(ctx context.Context, key string, places ...Place) *eventloop.Future[int64] {
	args := make([]any, 0, 3*len(places))
	for _, p := range places {
		args = append(args, p.Longitude, p.Latitude, p.Name)
	}
	return run(ctx, x, toInt, "GEOADD", key, args)
}

// GeoDist returns the distance between two places in meters, or fails with [ErrNil].
func (x *Commands) GeoDist(ctx context.Context, key, a, b string) *eventloop.Future[float64] {
	return run(ctx, x, toFloat, "GEODIST", key, a, b, "m")
}

// GeoSearch returns the places within radius meters of a position, nearest first. It returns
// at most limit places, or all if limit is 0.
func (x *Commands) GeoSearch(ctx context.Context, key string, longitude, latitude, radius float64, limit int) *eventloop.Future[[]Place] {
	if limit < 0 {
		return invalid[[]Place](x, errNegative("GeoSearch", limit))
	}
	args := []any{"GEOSEARCH", key, "FROMLONLAT", longitude, latitude, "BYRADIUS", radius, "m", "ASC"}
	if limit > 0 {
		args = append(args, "COUNT", limit)
	}
	return run(ctx, x, toPlaces, append(args, "WITHDIST", "WITHCOORD")...)
}

func toPlaces(v resp.Value) ([]Place, error) {
	if v.Kind != resp.Array {
		return nil, mismatch(v, "array")
	}
	all := make([]Place, len(v.Elems))
	for i, e := range v.Elems {
		if len(e.Elems) != 3 || len(e.Elems[2].Elems) != 2 {
			return nil, fmt.Errorf("redis: reply %v is no place", Reply{e})
		}
		var err error
		number := func(v resp.Value) (f float64) {
			if err == nil {
				f, err = toFloat(v)
			}
			return f
		}
		at := e.Elems[2].Elems
		all[i] = Place{e.Elems[0].Str, number(at[0]), number(at[1]), number(e.Elems[1])}
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Publish sends a message to the subscribers of a channel and returns the number of receivers.
func (x *Commands) Publish(ctx context.Context, channel string, message any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "PUBLISH", channel, message)
}

// SPublish is like Publish, for a shard channel, see SubscribeOptions.Shards.
func (x *Commands) SPublish(ctx context.Context, channel string, message any) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "SPUBLISH", channel, message)
}

// Ping checks the connection. The result is "PONG".
func (x *Commands) Ping(ctx context.Context) *eventloop.Future[string] {
	return run(ctx, x, toString, "PING")
}

// DBSize returns the number of keys of the database.
func (x *Commands) DBSize(ctx context.Context) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "DBSIZE")
}

// FlushDB deletes all keys of the database.
func (x *Commands) FlushDB(ctx context.Context) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "FLUSHDB")
}

// Info returns a section of the server's information, such as "memory", or all sections if
// section is empty.
func (x *Commands) Info(ctx context.Context, section string) *eventloop.Future[string] {
	if section == "" {
		return run(ctx, x, toString, "INFO")
	}
	return run(ctx, x, toString, "INFO", section)
}

// Time returns the time of the server.
func (x *Commands) Time(ctx context.Context) *eventloop.Future[time.Time] {
	return run(ctx, x, toTime, "TIME")
}

func toTime(v resp.Value) (time.Time, error) {
	s, err := toStrings(v)
	if err != nil {
		return time.Time{}, err
	}
	if len(s) == 2 {
		sec, err1 := strconv.ParseInt(s[0], 10, 64)
		micro, err2 := strconv.ParseInt(s[1], 10, 64)
		if err1 == nil && err2 == nil {
			return time.Unix(sec, micro*1000), nil
		}
	}
	return time.Time{}, fmt.Errorf("redis: reply %v is no time", Reply{v})
}

// ConfigGet returns the settings of the server that match a pattern, such as "max*".
func (x *Commands) ConfigGet(ctx context.Context, pattern string) *eventloop.Future[map[string]string] {
	return run(ctx, x, toStringMap, "CONFIG", "GET", pattern)
}

// ConfigSet changes a setting of the server.
func (x *Commands) ConfigSet(ctx context.Context, name string, value any) *eventloop.Future[struct{}] {
	return run(ctx, x, toNothing, "CONFIG", "SET", name, value)
}
