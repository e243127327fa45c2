package redis

import (
	"context"
	"crypto/sha1"
	"encoding/hex"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A Script is a Lua program that the server runs. A package-level variable can hold it, and
// many clients can use it.
type Script struct{ source, sum string }

// NewScript returns a script. It does not check the source: the server does when the
// script runs.
func NewScript(source string) *Script {
	sum := sha1.Sum([]byte(source))
	return &Script{source, hex.EncodeToString(sum[:])}
}

// Hash returns the name of the script at the server.
func (s *Script) Hash() string { return s.sum }

// Run runs the script with keys (KEYS) and arguments (ARGV). It sends the hash of the
// script. If the server does not know the hash, Run then sends the source, and the script
// runs after commands that were sent in the meantime. Load prevents that.
//
// In a Tx, Run sends the source.
func (s *Script) Run(ctx context.Context, x Runner, keys []string, args ...any) *eventloop.Future[Reply] {
	return s.run(ctx, x.commands(), "EVALSHA", "EVAL", keys, args)
}

// RunReadOnly is like Run, for a script that writes nothing. The server refuses writes.
func (s *Script) RunReadOnly(ctx context.Context, x Runner, keys []string, args ...any) *eventloop.Future[Reply] {
	return s.run(ctx, x.commands(), "EVALSHA_RO", "EVAL_RO", keys, args)
}

func (s *Script) run(ctx context.Context, x *Commands, byHash, bySource string, keys []string, args []any) *eventloop.Future[Reply] {
	checkContext(ctx)
	if x.tx != nil {
		return run(ctx, x, toReply, bySource, s.source, len(keys), keys, args)
	}
	c, ok := newCall(x.p.owner, toReply)
	if !ok {
		return &c.Future
	}
	bySourceArgs, bad := resp.AppendCommand(nil, bySource, s.source, len(keys), keys, args)
	if bad >= 0 {
		c.fail(errBadArg(bad, args))
		return &c.Future
	}
	r := &scriptRun{call: c, p: x.p, bySource: bySourceArgs}
	r.cancel = c.watch(ctx, &x.p.queue, nil)
	if err := x.p.send(r, r.cancel, 0, byHash, s.sum, len(keys), keys, args); err != nil && err != errCanceled {
		c.fail(err)
	}
	return &c.Future
}

// A scriptRun is a script that was sent by its hash.
type scriptRun struct {
	*call[Reply]
	p        *pipe
	cancel   *canceling
	bySource []byte
}

func (r *scriptRun) answer(v resp.Value) {
	if v.Kind == resp.Error && (&Error{v.Str}).Code() == "NOSCRIPT" {
		// The script was not executed, so it may be sent again.
		r.p.sendAgain(r.call, r.cancel, r.bySource)
		return
	}
	r.call.answer(v)
}

// Load loads the script into the server's cache.
func (s *Script) Load(ctx context.Context, x Runner) *eventloop.Future[struct{}] {
	return run(ctx, x.commands(), toNothing, "SCRIPT", "LOAD", s.source)
}
