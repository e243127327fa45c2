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

// Split returns a function for [ConnConfig.OnData] that splits the input into frames,
// such as lines, and calls f with one frame at a time. split determines the frames:
// [bufio.ScanLines], [LengthPrefix] or any other split function of bufio.Scanner. The
// frame is valid until f returns. A frame may be at most limit bytes long; zero or
// negative means bufio.MaxScanTokenSize, 64 KB.
//
// Calls in f take effect immediately. After PauseReading, or while more than HighWater
// bytes of output are pending, the next frame waits. After NetConn, SetCallbacks, Pipe,
// StartTLS or Detach, the new reader receives the bytes that follow the frame. An
// incomplete frame waits for the rest of it, and counts as bytes returned by
// [Conn.Unread].
//
// A frame that is too long is an error of the connection. It is detected at the latest
// when limit bytes plus 16 bytes plus one read have arrived. OnEvent receives an
// [*OpError] that wraps bufio.ErrTooLong, and then the connection is closed as by Close,
// so OnEvent may still reply. An error that split returns is treated in the same way.
// When the peer has ended its side, split receives the remaining bytes with atEOF set,
// as in bufio.Scanner. If it returns no frame, the error is io.ErrUnexpectedEOF.
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

// LengthPrefix returns a function for [Split] or bufio.Scanner. Each frame is preceded
// by its length, an unsigned integer of size bytes: 1, 2, 4 or 8. The frame does not
// include the length. LengthPrefix panics if size is not one of these, or if order is
// nil.
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

// A splitter splits the input of OnData into frames. It returns unused input to the
// connection, so it has no state.
type splitter struct {
	split bufio.SplitFunc
	limit int
	f     func(c *Conn, frame []byte)
}

// maxOverhead is the maximum number of bytes that a delimiter or a length adds to a
// frame.
const maxOverhead = 16

// take is the OnData function.
func (s *splitter) take(c *Conn, data []byte) {
	cfg, rest := c.cfg.Load(), data
	for len(rest) > 0 && c.loopSide().takesFrames(cfg) {
		advance, frame, err := s.next(rest, c.ending)
		if err == nil && frame == nil && advance == 0 && c.ending {
			err = io.ErrUnexpectedEOF
		}
		switch {
		case err != nil:
			c.loopSide().splitFailed(err)
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

// splitFailed delivers an error of a splitter, and closes the connection. Unlike after
// other errors, OnEvent can still write.
func (cl *connLoop) splitFailed(err error) {
	c := (*Conn)(cl)
	err = c.opError(OpRead, err)
	c.failed = true
	c.loopSide().event(err)
	c.core.Lock()
	if c.reasons.why() == nil {
		c.reasons.setWhy(err)
	}
	c.core.Unlock()
	c.closeWith(closeFlush)
}

// next returns the result of split, or an error if the result is invalid.
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
		return 0, nil, fmt.Errorf("a frame of more than %d bytes: %w", s.limit, bufio.ErrTooLong)
	case frame != nil && advance == 0:
		return 0, nil, io.ErrNoProgress
	}
	return advance, frame, nil
}

// takesFrames reports whether the OnData of cfg still receives frames. The callback for
// the previous frame may have changed that. It runs on the loop.
func (cl *connLoop) takesFrames(cfg *ConnConfig) bool {
	c := (*Conn)(cl)
	return !c.quit.Load() && !c.is(pauseReads|bitUpgrade|bitUnread) && c.cfg.Load() == cfg &&
		c.loopSide().sink() == nil && !c.loop.ended.Load()
}

// keepPart stores an incomplete frame until more input arrives. It copies the frame if it
// is in the chunk, which goes back to the pool, or if frames before it were used.
// Otherwise it does not copy: copying a large frame once per chunk would take quadratic
// time.
func (cl *connLoop) keepPart(part []byte, all bool) {
	c := (*Conn)(cl)
	// If holding is not set, the connection's goroutine owns the chunk and may change it.
	inChunk := c.holding.Load() && c.chunk != nil && c.chunk.Len() > 0 && &c.chunk.Bytes()[0] == &part[0]
	if !all || inChunk || poisons {
		part = slices.Clone(part)
	}
	c.core.Lock()
	defer c.core.Unlock()
	c.extra().unread = part
	c.set(bitUnread)
}

// putBack stores the rest of the input of OnData for the next reader: a different one, or
// the same one after a pause. If the callback for the last frame called Unread, the rest
// waits together with those bytes. It runs on the loop.
func (cl *connLoop) putBack(rest []byte, cfg *ConnConfig) {
	c := (*Conn)(cl)
	c.core.Lock()
	defer c.core.Unlock()
	x := c.extra()
	switch {
	case c.is(bitUpgrade): // keeps the order: reclaim and takeEarly append later input
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
