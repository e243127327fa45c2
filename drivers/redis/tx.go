package redis

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// A Tx is a transaction. Its methods collect commands. [Tx.Exec] sends them between MULTI
// and EXEC, so that the server executes them without other commands in between. The futures
// of the commands have their results after the execution. The future of Exec reports a
// failure of the transaction. A transaction with commands keeps the loop alive until Exec
// or [Tx.Discard].
type Tx struct {
	Commands
	shared bool // it uses the client's connection

	mu      sync.Mutex // guards the following
	encoded []byte
	calls   []waiter
	err     error // why Exec must not send the transaction; nil: it may
	over    error // the error of later calls, after Exec or Discard; nil before
}

// Tx returns a transaction on the client's connection.
func (c *Client) Tx() *Tx { return newTx(c.pipe, true) }

func newTx(p *pipe, shared bool) *Tx {
	tx := &Tx{shared: shared}
	tx.Commands = Commands{p: p, tx: tx}
	tx.encoded, _ = resp.AppendCommand(nil, "MULTI")
	return tx
}

var errTxDone = errors.New("redis: the transaction was sent already")

// add collects a command.
func (tx *Tx) add(to waiter, args ...any) {
	if err := tx.mayAdd(to, args...); err != nil {
		to.fail(err)
	}
}

func (tx *Tx) mayAdd(to waiter, args ...any) error {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.over != nil {
		return tx.over
	}
	if len(args) == 0 {
		tx.err = cmp.Or(tx.err, errNoCommand)
		return errNoCommand
	}
	encoded, bad := resp.AppendCommand(tx.encoded, args...)
	if bad >= 0 {
		err := errBadArg(bad, args[bad])
		tx.err = cmp.Or(tx.err, err)
		return err
	}
	tx.encoded = encoded
	tx.calls = append(tx.calls, to)
	return nil
}

// invalidate makes Exec fail with err, because a command of the transaction is invalid: the
// server must not execute the others without it.
func (tx *Tx) invalidate(err error) {
	tx.mu.Lock()
	defer tx.mu.Unlock()
	tx.err = cmp.Or(tx.err, err)
}

// Exec sends the transaction. The future has the replies to the commands, in order.
//
// If a command fails, the server still executes the others: the future has all replies, and
// the error is that of the first failed command. If the server refuses a command, such as
// an unknown one, it executes nothing, and the error is the first refusal. If a watched key
// has changed, the error is [ErrConflict]. A transaction without commands succeeds, and
// nothing is sent.
//
// If a command is invalid, such as one with an argument of a wrong type, nothing is sent,
// and the error is that of the command.
//
// The end of ctx cancels the transaction like a single command. A second Exec fails, and so
// does Exec after Discard.
func (tx *Tx) Exec(ctx context.Context) *eventloop.Future[[]Reply] {
	checkContext(ctx)
	owner := tx.p.owner
	tx.mu.Lock()
	defer tx.mu.Unlock()
	if tx.over != nil {
		return failed[[]Reply](owner, tx.over)
	}
	tx.over = errTxDone
	c, ok := newCall[[]Reply](owner, nil)
	if !ok {
		return &c.Future
	}
	e := &execution{call: c, waiters: tx.calls}
	switch {
	case tx.err != nil:
		e.fail(tx.err)
	case len(tx.calls) == 0:
		c.Resolve(nil, nil)
	default:
		encoded, _ := resp.AppendCommand(tx.encoded, "EXEC")
		cancel := c.watch(ctx, &tx.p.queue, tx.calls)
		if err := tx.p.sendEncoded(e, cancel, len(tx.calls)+2, encoded, 0); err != nil && err != errCanceled {
			e.fail(err)
		}
	}
	return &c.Future
}

// Discard drops the transaction: its commands fail. Discard every transaction that is not
// sent, because its futures keep the loop alive. After Exec, Discard does nothing.
func (tx *Tx) Discard() {
	tx.mu.Lock()
	var calls []waiter
	if tx.over == nil {
		calls = tx.calls
		tx.over, tx.calls, tx.encoded = errDiscarded, nil, nil
	}
	tx.mu.Unlock()
	for _, w := range calls {
		w.fail(errDiscarded)
	}
}

var errDiscarded = errors.New("redis: the transaction was discarded")

// An execution is a transaction that was sent. It receives the reply to MULTI, one reply
// per command, which confirms that the command is queued, and the reply to EXEC.
type execution struct {
	call    *call[[]Reply]
	waiters []waiter
	replies int   // the number of received replies
	refused error // the first error before EXEC
	multi   error // the error of MULTI
}

func (e *execution) answer(v resp.Value) {
	e.replies++
	if e.replies < len(e.waiters)+2 {
		if v.Kind == resp.Error && e.refused == nil {
			e.refused = &Error{v.Str}
			if e.replies == 1 {
				e.multi = e.refused
			}
		}
		return
	}
	switch {
	case e.multi != nil: // each command was executed separately, or refused
		e.fail(uncertain(e.multi))
	case v.Kind == resp.Error && e.refused != nil:
		e.fail(e.refused)
	case v.Kind == resp.Error:
		e.fail(&Error{v.Str})
	case v.Kind == resp.Null:
		e.fail(ErrConflict)
	case v.Kind != resp.Array || len(v.Elems) != len(e.waiters):
		e.fail(uncertain(errors.New("redis: EXEC has replies to other commands")))
	default:
		e.succeed(v.Elems)
	}
}

func (e *execution) succeed(elems []resp.Value) {
	replies := make([]Reply, len(elems))
	for i, v := range elems {
		replies[i] = Reply{v}
		e.waiters[i].answer(v)
	}
	var err error
	if i := slices.IndexFunc(replies, func(r Reply) bool { return r.Err() != nil }); i >= 0 {
		err = replies[i].Err()
	}
	e.call.cancel.end()
	e.call.Resolve(replies, err)
}

func (e *execution) fail(err error) {
	for _, w := range e.waiters {
		w.fail(err)
	}
	e.call.fail(err)
}
