package eventloop

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// Split returns a function for [ConnConfig.OnData] that calls f with one frame of the
// input at a time, such as a line: what split makes of it ([bufio.ScanLines],
// [LengthPrefix] or any other function that bufio.Scanner takes). The frame is valid
// until f returns. A frame may be at most limit bytes long; zero or negative:
// bufio.MaxScanTokenSize, 64 KB.
//
// What f does is effective at once: after PauseReading, or while more than HighWater
// bytes of output are pending, the next frame waits; what NetConn, SetCallbacks, Pipe,
// StartTLS and Detach find is what follows the frame. A part of a frame waits for the
// rest of it, and counts as bytes given back by [Conn.Unread].
//
// A frame that is too long, at the latest when a read and 16 bytes more than limit have
// arrived, is an error of the connection: OnEvent gets an [*OpError] around
// bufio.ErrTooLong, and then the connection is closed as by Close, so that OnEvent may
// still answer. So is an error that split returns. When the peer has ended its side,
// split decides what becomes of the last part, as in bufio.Scanner: if it makes no frame
// of it, the error is io.ErrUnexpectedEOF.
//
// The function that Split returns can be used for any number of connections. Split
// panics if split or f is nil.
func Split(split bufio.SplitFunc, limit int, f func(c *Conn, frame []byte)) func(c *Conn, data []byte) {
	if split == nil || f == nil {
		panic(errNilFunc)
	}
	if limit <= 0 {
		limit = bufio.MaxScanTokenSize
	}
	return (&splitter{split, limit, f}).take
}

// LengthPrefix returns a function for [Split] or bufio.Scanner whose frames have their
// length before them, as an unsigned integer of size bytes: 1, 2, 4 or 8. The frame is
// what follows the length. LengthPrefix panics if the size is another, or order is nil.
func LengthPrefix(size int, order binary.ByteOrder) bufio.SplitFunc {
	if order == nil {
		panic(errors.New("eventloop: a nil byte order"))
	}
	var length func(b []byte) uint64
	switch size {
	case 1:
		length = func(b []byte) uint64 { return uint64(b[0]) }
	case 2:
		length = func(b []byte) uint64 { return uint64(order.Uint16(b)) }
	case 4:
		length = func(b []byte) uint64 { return uint64(order.Uint32(b)) }
	case 8:
		length = order.Uint64
	default:
		panic(fmt.Errorf("eventloop: a length prefix of %d bytes", size))
	}
	return func(data []byte, atEOF bool) (advance int, frame []byte, err error) {
		switch {
		case len(data) < size:
		case length(data) > uint64(math.MaxInt-size):
			return 0, nil, bufio.ErrTooLong
		default:
			if end := size + int(length(data)); len(data) >= end {
				return end, data[size:end], nil
			}
		}
		if atEOF && len(data) > 0 {
			return 0, nil, io.ErrUnexpectedEOF
		}
		return 0, nil, nil
	}
}

// A splitter makes frames of what OnData gets. What it does not use it gives back to
// the connection, so it has no state.
type splitter struct {
	split bufio.SplitFunc
	limit int
	f     func(c *Conn, frame []byte)
}

// maxOverhead is how much longer than the frame its delimiter or its length may make it.
const maxOverhead = 16

// take is the OnData.
func (s *splitter) take(c *Conn, data []byte) {
	cfg, rest := c.cfg.Load(), data
	for len(rest) > 0 && c.loopSide().takesFrames(cfg) {
		advance, frame, err := s.next(rest, c.ending)
		if err == nil && frame == nil && advance == 0 && c.ending {
			err = io.ErrUnexpectedEOF
		}
		switch {
		case err != nil:
			c.loopSide().misframed(err)
			return
		case frame == nil && advance == 0:
			c.loopSide().keepPart(rest, len(rest) == len(data))
			return
		}
		rest = rest[advance:]
		if frame != nil {
			s.f(c, frame)
		}
	}
	if len(rest) > 0 {
		c.loopSide().putBack(rest, cfg)
	}
}

// misframed delivers an error of a splitter, and closes the connection. Unlike after
// other errors OnEvent can still write.
func (cl *connLoop) misframed(err error) {
	c := (*Conn)(cl)
	err = c.opError(OpRead, err)
	c.failed = true
	c.loopSide().event(err)
	c.core.Lock()
	if c.why == nil {
		c.why = err
	}
	c.core.Unlock()
	c.closeWith(closeFlush)
}

// next returns what split says, or what is wrong with it.
func (s *splitter) next(data []byte, atEOF bool) (advance int, frame []byte, err error) {
	advance, frame, err = s.split(data, atEOF)
	switch {
	case err != nil:
		return 0, nil, err
	case advance < 0:
		return 0, nil, bufio.ErrNegativeAdvance
	case advance > len(data):
		return 0, nil, bufio.ErrAdvanceTooFar
	case len(frame) > s.limit, frame == nil && advance == 0 && len(data) > s.limit+maxOverhead:
		return 0, nil, bufio.ErrTooLong
	case frame != nil && advance == 0:
		return 0, nil, io.ErrNoProgress
	}
	return advance, frame, nil
}

// takesFrames reports whether the OnData of cfg is to have the next frame: the frame
// before may have ended that. On the loop.
func (cl *connLoop) takesFrames(cfg *ConnConfig) bool {
	c := (*Conn)(cl)
	return !c.quit.Load() && !c.is(pauseReads|bitUpgrade|bitUnread) && c.cfg.Load() == cfg &&
		c.loopSide().sink() == nil && !c.loop.ended.Load()
}

// keepPart keeps a part of a frame until there is more. If nothing before it was used,
// and it is not in the chunk, which goes back to the pool, it is kept where it is: to
// copy a large frame once for each chunk of it would take time that is quadratic.
func (cl *connLoop) keepPart(part []byte, all bool) {
	c := (*Conn)(cl)
	inChunk := c.chunk != nil && c.chunk.Len() > 0 && &c.chunk.Bytes()[0] == &part[0]
	if !all || inChunk || poisons {
		part = slices.Clone(part)
	}
	c.core.Lock()
	defer c.core.Unlock()
	c.extra().unread = part
	c.set(bitUnread)
}

// putBack gives the rest of the input, which was to go to the OnData of cfg, to what
// takes it now: something else, or the same after a pause. What follows bytes that the
// last frame has given back by Unread waits with them. On the loop.
func (cl *connLoop) putBack(rest []byte, cfg *ConnConfig) {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	switch {
	case c.is(bitUpgrade): // the order is right: what was held, or is on its way, comes later
		x.upgrade.early = append(x.upgrade.early, rest...)
		return
	case c.life >= lifeClosing && !c.facts.has(factDetach):
		return
	}
	waits := c.is(bitUnread) && c.cfg.Load() == cfg && !c.facts.has(factSink)
	x.unread = append(x.unread, rest...)
	c.set(bitUnread)
	if !waits {
		c.facts |= factRest
		c.readerChanged()
	}
}
