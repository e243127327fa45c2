package redis

import (
	"errors"
	"fmt"
	"iter"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// ScanOptions select the elements that a scan returns.
type ScanOptions struct {
	// Match is a pattern of the names. Empty: all.
	Match string

	// Type is the type of the values of keys, such as "hash". Empty: any. Only Scan uses it.
	Type string

	// Count is the approximate number of elements that the server examines per step. Zero:
	// 10. It must not be negative.
	Count int
}

func (o ScanOptions) args(command, key, cursor string) []any {
	args := []any{command}
	if key != "" || command != "SCAN" {
		args = append(args, key)
	}
	args = append(args, cursor)
	if o.Match != "" {
		args = append(args, "MATCH", o.Match)
	}
	if o.Count > 0 {
		args = append(args, "COUNT", o.Count)
	}
	if o.Type != "" {
		args = append(args, "TYPE", o.Type)
	}
	return args
}

// Scan returns a sequence of the keys of the database, for a task. The task waits for each
// step. The scan returns every key that exists during the whole scan, and may return a key
// more than once. An error is the last element: that of a command, or the end of the task's
// context.
//
// A scan cannot be part of a transaction, because each step needs the result of the
// previous one: the scans of a [Tx] fail at once.
func (x *Commands) Scan(t *eventloop.Task, o ScanOptions) iter.Seq2[string, error] {
	return scan(x, t, o, "SCAN", "", toStrings)
}

// SScan is like Scan, for the members of a set.
func (x *Commands) SScan(t *eventloop.Task, key string, o ScanOptions) iter.Seq2[string, error] {
	return scan(x, t, o, "SSCAN", key, toStrings)
}

// HScan is like Scan, for the fields of a hash.
func (x *Commands) HScan(t *eventloop.Task, key string, o ScanOptions) iter.Seq2[Field, error] {
	return scan(x, t, o, "HSCAN", key, toFields)
}

// ZScan is like Scan, for the members of a sorted set.
func (x *Commands) ZScan(t *eventloop.Task, key string, o ScanOptions) iter.Seq2[Scored, error] {
	return scan(x, t, o, "ZSCAN", key, toScored)
}

func toFields(v resp.Value) (all []Field, err error) {
	err = pairs(v, func(name, value resp.Value) error {
		all = append(all, Field{name.Str, value.Str})
		return nil
	})
	return all, err
}

// scannable returns an error if x cannot scan.
func scannable(x *Commands, o ScanOptions) error {
	switch {
	case x.tx != nil:
		return errors.New("redis: a scan in a transaction")
	case o.Count < 0:
		return fmt.Errorf("redis: a scan with the count %d", o.Count)
	}
	return nil
}

// A page is the reply to one step of a scan.
type page[T any] struct {
	cursor string
	elems  []T
}

func scan[T any](x *Commands, t *eventloop.Task, o ScanOptions, command, key string, decode func(v resp.Value) ([]T, error)) iter.Seq2[T, error] {
	decodePage := func(v resp.Value) (p page[T], err error) {
		if len(v.Elems) != 2 {
			return p, mismatch(v, "page of a scan")
		}
		p.cursor = v.Elems[0].Str
		p.elems, err = decode(v.Elems[1])
		return p, err
	}
	return func(yield func(T, error) bool) {
		if err := scannable(x, o); err != nil {
			yield(*new(T), err)
			return
		}
		for cursor := "0"; ; {
			p, err := run(t.Context(), x, decodePage, o.args(command, key, cursor)...).Await(t)
			if err != nil {
				yield(*new(T), err)
				return
			}
			for _, e := range p.elems {
				if !yield(e, nil) {
					return
				}
			}
			if cursor = p.cursor; cursor == "0" {
				return
			}
		}
	}
}
