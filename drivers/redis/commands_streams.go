package redis

import (
	"context"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// An Entry is an entry of a stream.
type Entry struct {
	ID     string
	Fields []Field // in order; nil if the entry was deleted
}

// A Field is a name with a value.
type Field struct{ Name, Value string }

// Get returns the value of the first field with the name, or "".
func (e Entry) Get(name string) string {
	for _, f := range e.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// XAdd adds an entry to a stream and returns its ID:
// XAdd(ctx, stream, "field1", value1, "field2", value2).
func (x *Commands) XAdd(ctx context.Context, stream string, fieldsAndValues ...any) *eventloop.Future[string] {
	return run(ctx, x, toString, "XADD", stream, "*", fieldsAndValues)
}

// XAddMax is like XAdd, but also removes the oldest entries, so that the stream has about max
// entries.
func (x *Commands) XAddMax(ctx context.Context, stream string, max int64, fieldsAndValues ...any) *eventloop.Future[string] {
	return run(ctx, x, toString, "XADD", stream, "MAXLEN", "~", max, "*", fieldsAndValues)
}

// XLen returns the number of entries of a stream.
func (x *Commands) XLen(ctx context.Context, stream string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "XLEN", stream)
}

// XDel deletes entries of a stream and returns the number of entries that existed.
func (x *Commands) XDel(ctx context.Context, stream string, ids ...string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "XDEL", stream, ids)
}

// XRange returns the entries with IDs from start to end, both included. It returns at most
// count entries, or all if count is 0. The ID "-" is the first possible ID, and "+" the last.
// A "(" in front of an ID excludes it.
func (x *Commands) XRange(ctx context.Context, stream, start, end string, count int) *eventloop.Future[[]Entry] {
	if count < 0 {
		return invalid[[]Entry](x, errNegative("XRange", count))
	}
	if count > 0 {
		return run(ctx, x, toEntries, "XRANGE", stream, start, end, "COUNT", count)
	}
	return run(ctx, x, toEntries, "XRANGE", stream, start, end)
}

// XRead returns entries of a stream that are newer than an ID, at most count of them if
// count is positive. If there are none, it waits for up to block, and then fails with
// [ErrNil]. If block is 0, it does not wait. If block is negative, it waits without end. The
// ID "$" selects entries that are added from now on.
func (c *Client) XRead(ctx context.Context, stream, after string, count int, block time.Duration) *eventloop.Future[[]Entry] {
	args := readArgs([]any{"XREAD"}, count, block)
	return do(ctx, &c.Commands, toEntriesOfOne, append(args, "STREAMS", stream, after)...)
}

// readArgs adds the options of XREAD and XREADGROUP.
func readArgs(args []any, count int, block time.Duration) []any {
	if count > 0 {
		args = append(args, "COUNT", count)
	}
	switch {
	case block > 0:
		args = append(args, "BLOCK", milliseconds(block))
	case block < 0:
		args = append(args, "BLOCK", 0)
	}
	return args
}

// XGroupCreate creates a consumer group of a stream, and the stream if it does not exist.
// The group begins after an ID: "0" is the beginning of the stream, "$" its end. If the
// group exists, the result is false.
func (x *Commands) XGroupCreate(ctx context.Context, stream, group, after string) *eventloop.Future[bool] {
	return run(ctx, x, toCreated, "XGROUP", "CREATE", stream, group, after, "MKSTREAM")
}

func toCreated(v resp.Value) (bool, error) {
	_, err := toNothing(v)
	if isCode(err, "BUSYGROUP") {
		return false, nil
	}
	return err == nil, err
}

// XGroupDestroy deletes a group. The result is false if there was none.
func (x *Commands) XGroupDestroy(ctx context.Context, stream, group string) *eventloop.Future[bool] {
	return run(ctx, x, toBool, "XGROUP", "DESTROY", stream, group)
}

// XReadGroup returns entries that no consumer of the group has received before, and makes
// them pending for this consumer until XAck. See [Client.XRead] for count and block. To
// receive entries continuously, see [Client.Consume].
func (c *Client) XReadGroup(ctx context.Context, stream, group, consumer string, count int, block time.Duration) *eventloop.Future[[]Entry] {
	args := readArgs([]any{"XREADGROUP", "GROUP", group, consumer}, count, block)
	return do(ctx, &c.Commands, toEntriesOfOne, append(args, "STREAMS", stream, ">")...)
}

// XAck acknowledges entries, and returns the number of entries that were pending.
func (x *Commands) XAck(ctx context.Context, stream, group string, ids ...string) *eventloop.Future[int64] {
	return run(ctx, x, toInt, "XACK", stream, group, ids)
}

// A Claim is a result of XAutoClaim.
type Claim struct {
	Next    string // where the next call begins; "0-0" at the end
	Entries []Entry
}

// XAutoClaim returns entries that have been pending for at least minIdle, for any consumer of
// the group, and makes them pending for this consumer. It begins at the ID start and returns
// at most count entries.
func (x *Commands) XAutoClaim(ctx context.Context, stream, group, consumer string, minIdle time.Duration, start string, count int) *eventloop.Future[Claim] {
	return run(ctx, x, toClaim, "XAUTOCLAIM", stream, group, consumer, milliseconds(minIdle), start, "COUNT", count)
}

func toClaim(v resp.Value) (Claim, error) {
	if len(v.Elems) < 2 {
		return Claim{}, mismatch(v, "claim")
	}
	entries, err := toEntries(v.Elems[1])
	return Claim{v.Elems[0].Str, entries}, err
}

func toEntries(v resp.Value) ([]Entry, error) {
	if v.Kind != resp.Array {
		return nil, mismatch(v, "array of entries")
	}
	all := make([]Entry, 0, len(v.Elems))
	for _, e := range v.Elems {
		if e.Kind == resp.Null {
			continue // deleted, in old versions of XAUTOCLAIM
		}
		if len(e.Elems) != 2 {
			return nil, mismatch(e, "entry of a stream")
		}
		entry := Entry{ID: e.Elems[0].Str}
		if fields := e.Elems[1]; fields.Kind != resp.Null {
			err := pairs(fields, func(name, value resp.Value) error {
				entry.Fields = append(entry.Fields, Field{name.Str, value.Str})
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		all = append(all, entry)
	}
	return all, nil
}

// toEntriesOfOne decodes the reply to XREAD and XREADGROUP of one stream.
func toEntriesOfOne(v resp.Value) (all []Entry, err error) {
	err = pairs(v, func(_, entries resp.Value) error {
		some, err := toEntries(entries)
		all = append(all, some...)
		return err
	})
	return all, err
}
