package redis

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A special is a command that Do does not send like an ordinary command.
type special struct {
	kind specialKind
	hint string        // for a refused command: the replacement
	at   int           // for a blocking command: the index of the timeout; negative: from the end
	unit time.Duration // of the timeout; 0: it does not wait, or has a timeout after BLOCK
	sub  []string      // the subcommands that are special, in lower case; nil: all
}

type specialKind uint8

const (
	blocks  specialKind = 1 + iota // while it waits, it blocks its connection
	refused                        // it would break the order of requests and replies
	private                        // it changes the state of a connection: only for a Session
	notInTx                        // like private, and not permitted in a transaction
)

var (
	blocksLast  = special{kind: blocks, at: -1, unit: time.Second}
	blocksFirst = special{kind: blocks, at: 1, unit: time.Second}
	blocksRead  = special{kind: blocks}
	subscribes  = special{kind: refused, hint: "Client.Subscribe"}
	transacts   = special{kind: refused, hint: "Client.Tx"}
	ends        = special{kind: refused, hint: "Client.Close"}
	greets      = special{kind: refused, hint: "Options"}
	replicates  = special{kind: refused}
)

var specials = map[string]special{
	"blpop": blocksLast, "brpop": blocksLast, "blmove": blocksLast, "brpoplpush": blocksLast, "bzpopmin": blocksLast, "bzpopmax": blocksLast,
	"blmpop": blocksFirst, "bzmpop": blocksFirst,
	"xread": blocksRead, "xreadgroup": blocksRead,

	"subscribe": subscribes, "psubscribe": subscribes, "ssubscribe": subscribes,
	"unsubscribe": subscribes, "punsubscribe": subscribes, "sunsubscribe": subscribes,
	"multi": transacts, "exec": transacts, "discard": transacts,
	"quit": ends, "hello": greets, "reset": greets,
	"monitor": replicates, "sync": replicates, "psync": replicates, "replconf": replicates,
	"client": {kind: refused, sub: []string{"reply", "tracking"}},
	"script": {kind: refused, sub: []string{"debug"}},

	"watch":   {kind: notInTx, hint: "Client.Session"},
	"unwatch": {kind: private, hint: "Client.Session"},
	"auth":    {kind: private, hint: "Options or Client.Session"},
	"select":  {kind: private, hint: "Options or Client.Session"},
	"wait":    {kind: private, at: 2, unit: time.Millisecond, hint: "Client.Session, because it waits for writes of its own connection"},
	"waitaof": {kind: private, at: 3, unit: time.Millisecond, hint: "Client.Session, because it waits for writes of its own connection"},
}

// specialOf returns the special of a command, or the zero special, and the command's
// arguments. If the command is special or begins with a slice, the arguments are flattened
// to single words: a command that is refused as separate words must not pass in a slice.
func specialOf(args []any) (special, []any) {
	if len(args) > 0 && isSlice(args[0]) {
		args = flatten(nil, args)
	}
	if len(args) == 0 {
		return special{}, args
	}
	s := specialName(args[0])
	if s.kind != 0 && slices.ContainsFunc(args, isSlice) {
		args = flatten(nil, args)
	}
	return s, args
}

// isSlice reports whether an argument expands to one word per element.
func isSlice(a any) bool {
	switch a.(type) {
	case []string, [][]byte, []any:
		return true
	}
	return false
}

// flatten adds the words of args to dst.
func flatten(dst, args []any) []any {
	for _, a := range args {
		switch a := a.(type) {
		case []string:
			for _, s := range a {
				dst = append(dst, s)
			}
		case [][]byte:
			for _, p := range a {
				dst = append(dst, p)
			}
		case []any:
			dst = flatten(dst, a)
		default:
			dst = append(dst, a)
		}
	}
	return dst
}

// specialName returns the special of the command name, or the zero special.
func specialName(name any) special {
	var buf [16]byte // longer names are not special
	n := 0
	switch name := name.(type) {
	case string:
		if len(name) > len(buf) {
			return special{}
		}
		n = copy(buf[:], name)
	case []byte:
		if len(name) > len(buf) {
			return special{}
		}
		n = copy(buf[:], name)
	}
	for i, c := range buf[:n] {
		if 'A' <= c && c <= 'Z' {
			buf[i] = c + 'a' - 'A'
		}
	}
	return specials[string(buf[:n])]
}

// refused reports whether x may not send the command.
func (s special) refused(x *Commands, args []any) bool {
	switch s.kind {
	case refused:
		return s.sub == nil || s.hasSub(args)
	case private:
		return x.c != nil || x.tx != nil && x.tx.shared
	case notInTx:
		return x.c != nil || x.tx != nil
	}
	return false
}

func (s special) hasSub(args []any) bool {
	if len(args) < 2 {
		return false
	}
	word := strings.ToLower(wordOf(args[1]))
	for _, sub := range s.sub {
		if word == sub {
			return true
		}
	}
	return false
}

// wordOf returns an argument as text, or "" if it is not text.
func wordOf(a any) string {
	switch a := a.(type) {
	case string:
		return a
	case []byte:
		return string(a)
	}
	return ""
}

func (s special) refusal(args []any) error {
	name := strings.ToUpper(wordOf(args[0]))
	if s.sub != nil {
		name += " " + strings.ToUpper(wordOf(args[1]))
	}
	if s.hint == "" {
		return fmt.Errorf("redis: %s cannot be sent by Do", name)
	}
	return fmt.Errorf("redis: %s cannot be sent by Do here: use %s", name, s.hint)
}

// blockTime returns the time that the command may wait, or noLimit. ok is false if the
// command does not wait.
func (s special) blockTime(args []any) (d time.Duration, ok bool) {
	switch {
	case s.unit != 0:
	case s.kind == blocks:
		return readBlockTime(args)
	default:
		return 0, false
	}
	at := s.at
	if at < 0 {
		at += len(args)
	}
	if at < 1 || at >= len(args) {
		return 0, false // the server's reply will have the error
	}
	return durationOf(args[at], s.unit), true
}

// readBlockTime is blockTime for XREAD and XREADGROUP. The names of groups and consumers
// may equal keywords of the command.
func readBlockTime(args []any) (d time.Duration, ok bool) {
	for i := 1; i < len(args); i++ {
		switch strings.ToLower(wordOf(args[i])) {
		case "streams":
			return 0, false
		case "group":
			i += 2
		case "count":
			i++
		case "block":
			if i+1 < len(args) {
				return durationOf(args[i+1], time.Millisecond), true
			}
		}
	}
	return 0, false
}

// durationOf returns an argument as a duration. It returns noLimit for zero, and for an
// argument that is not a number.
func durationOf(a any, unit time.Duration) time.Duration {
	word := wordOf(a)
	if word == "" {
		word = fmt.Sprint(a) // a number
	}
	f, _ := strconv.ParseFloat(word, 64)
	f *= float64(unit)
	if !(f > 0) || f > float64(longest) {
		return noLimit
	}
	return time.Duration(f)
}
