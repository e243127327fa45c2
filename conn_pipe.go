package eventloop

import (
	"errors"
	"io"
	"net"

	"github.com/onloop/eventloop/internal/sockio"
)

// Pipe sends all bytes that arrive on c from now on to dst, instead of to OnData. It
// reads no faster than dst sends: the pending output of dst is limited to its HighWater
// or MaxBuffered, whichever is less, plus one read of each connection that is piped to
// it.
//
// When the peer of c ends its side, the future succeeds with the number of bytes, OnEvent
// receives io.EOF as usual, and dst.CloseWrite is called (dst.Close if dst does not
// support half-close). If dst is not up yet, its output ends after its OnConnect, but it
// accepts no more output from now on. When c fails, or is closed for another reason, dst
// is aborted and the future fails with the error. When dst closes first, the future fails
// with net.ErrClosed, and OnData receives the bytes that arrive afterwards.
//
// Both connections must belong to the same loop; otherwise the future fails. Two pipes,
// one in each direction, make a proxy. Set AllowHalfOpen on both connections, so that
// the end of one direction does not end the other.
func (c *Conn) Pipe(dst *Conn) *Future[int64] {
	f := unregisteredFuture[int64](c.loop)
	if dst == nil || dst.loop != c.loop || dst == c {
		f.resolve(0, errors.New("eventloop: Pipe needs another connection of the same loop"))
		return f
	}
	p := &pipe{src: c, dst: dst, done: f}
	p.low = &onLow{p.room}
	// take is called here, because data may arrive before start is called.
	if err := p.take(); err != nil {
		f.resolve(0, err)
	} else if err := c.loop.Post(p.start); err != nil {
		f.fail(err)
	}
	return f
}

// A pipe is the sink of its source. Except for take, it is used only on the loop.
type pipe struct {
	src, dst *Conn
	done     *Future[int64]
	low      *onLow // of dst
	n        int64
	over     bool
}

// take makes p the sink of its source.
func (p *pipe) take() error {
	src := p.src
	src.core.Lock()
	defer src.core.Unlock()
	switch x := src.extra(); {
	case src.life >= lifeClosing:
		return net.ErrClosed
	case x.sink != nil:
		return errors.New("eventloop: a task or a pipe already reads the connection")
	}
	src.setSink(p)
	return nil
}

func (p *pipe) start() {
	if p.over {
		return
	}
	dst := p.dst
	dst.core.Lock()
	x := dst.extra()
	x.onLow = append(x.onLow, p.low)
	dst.core.Unlock()
	if dst.Closed() || !dst.NeedDrain() {
		p.room() // no notification will come
	}
	p.src.core.Lock()
	ended := p.src.facts.has(factEnded)
	p.src.core.Unlock()
	if ended { // the end was reported before the pipe was opened
		p.end(io.EOF)
	}
}

// room is called when dst has room again, and when it is closed.
func (p *pipe) room() {
	if p.over {
		return
	}
	if p.dst.Closed() {
		p.finish(net.ErrClosed)
	}
	p.resume()
}

// resume lets the source read.
func (p *pipe) resume() {
	p.src.core.Lock()
	p.src.clearPause(pausePipe)
	p.src.core.Unlock()
}

// chunk moves b into the output of dst.
func (p *pipe) chunk(b *sockio.Buffer) {
	p.unread()
	n, dst := b.Len(), p.dst
	if !p.begin() {
		p.refused(b)
		return
	}
	if n < len(b.Room())/4 {
		// Many small chunks must not hold a buffer each: they would be much more
		// memory than HighWater.
		dst.core.Queue().Append(b.Bytes())
		b.Release()
	} else {
		dst.core.Queue().AppendBuffer(b)
	}
	p.wrote(n)
	p.src.loopSide().consumed()
}

// unread moves the unread bytes into the output of dst.
func (p *pipe) unread() {
	if !p.src.is(bitUnread) || p.over || !p.begin() {
		return
	}
	rest := p.src.loopSide().takeUnread()
	p.dst.core.Queue().Append(rest)
	p.wrote(len(rest))
}

// begin locks dst, or returns false if dst no longer accepts output. It ignores
// MaxBuffered, which another source may have exceeded first, because the bytes have
// already been read.
func (p *pipe) begin() bool {
	p.dst.core.Lock()
	if err := p.dst.mayWrite(0); err != nil && err != ErrBufferFull {
		p.dst.core.Unlock()
		return false
	}
	return true
}

// wrote accounts for n bytes that were queued after begin, unlocks dst, and pauses the
// source if dst has too much pending output.
func (p *pipe) wrote(n int) {
	dst, src := p.dst, p.src
	dst.wrote(n)
	dst.core.Unlock()
	p.n += int64(n)
	if !dst.NeedDrain() {
		return
	}
	src.core.Lock()
	src.set(pausePipe)
	src.core.Unlock()
	if !dst.NeedDrain() { // it drained before we paused, so no notification comes
		p.resume()
	}
}

// refused ends the pipe because dst no longer accepts output, and delivers b to the
// callbacks.
func (p *pipe) refused(b *sockio.Buffer) {
	p.finish(net.ErrClosed)
	p.src.chunk = b
	p.src.loopSide().deliver()
}

// end ends the pipe when src ends. It returns false, so that OnEvent receives the event
// as well.
func (p *pipe) end(err error) bool {
	switch {
	case p.over:
	case err == io.EOF:
		p.dst.endOrClose()
		p.finish(nil)
	default:
		if p.src.failed {
			p.done.Then(nil) // src reports it as an event
		}
		p.dst.Abort()
		p.finish(err)
	}
	return false
}

func (p *pipe) finish(err error) {
	if p.over {
		return
	}
	p.over = true
	p.src.core.Lock()
	p.src.setSink(nil)
	p.src.core.Unlock()
	p.dst.core.Lock()
	p.dst.extra().removeLow(p.low)
	p.dst.core.Unlock()
	p.resume()
	if err == ErrLoopClosed {
		p.done.fail(err)
		return
	}
	p.done.resolve(p.n, err)
}
