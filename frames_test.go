package eventloop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"pgregory.net/rapid"
)

// framed holds the frames that a connection with a splitter received, and how it ended.
type framed struct {
	frames []string
	events []error
	closed int
}

// config returns a configuration that records frames. If each is not nil, it is called
// after each frame.
func (r *framed) config(split bufio.SplitFunc, limit int, each func(c *eventloop.Conn, frame []byte)) *eventloop.ConnConfig {
	return &eventloop.ConnConfig{
		OnData: eventloop.Split(split, limit, func(c *eventloop.Conn, frame []byte) {
			r.frames = append(r.frames, string(frame))
			if each != nil {
				each(c, frame)
			}
		}),
		OnEvent: func(_ *eventloop.Conn, err error) { r.events = append(r.events, err) },
		OnClose: func(*eventloop.Conn) { r.closed++ },
	}
}

// writeAll runs a client that writes pieces, one at a time, and disconnects.
func writeAll(pieces ...string) func(l *eventloop.Loop, nc net.Conn) {
	return func(_ *eventloop.Loop, nc net.Conn) {
		go io.Copy(io.Discard, nc)
		for _, p := range pieces {
			if _, err := io.WriteString(nc, p); err != nil {
				break
			}
			synctest.Wait()
		}
		nc.Close()
	}
}

func TestSplitDeliversOneFrameAtATimeHoweverTheyArrive(t *testing.T) {
	for _, pieces := range [][]string{
		{"one\ntwo\r\n\nthree\n"},
		{"o", "n", "e", "\n", "t", "w", "o", "\r", "\n", "\n", "t", "h", "r", "e", "e", "\n"},
		{"one\ntw", "o\r\n\nth", "ree\n"},
	} {
		var r framed
		_, err := onePipe(t, eventloop.Config{}, r.config(bufio.ScanLines, 5, nil), writeAll(pieces...))
		wantEqual(t, "Run", err, nil)
		wantSlice(t, "frames", r.frames, []string{"one", "two", "", "three"})
		wantSlice(t, "events", r.events, []error{io.EOF})
		wantEqual(t, "closed", r.closed, 1)
	}
}

func TestALongerFrameThanTheLimitClosesTheConnectionWithAnError(t *testing.T) {
	long := strings.Repeat("x", 100)
	prefixed := func(n int) string {
		return string(binary.BigEndian.AppendUint32(nil, uint32(n))) + strings.Repeat("x", n)
	}
	for _, v := range []struct {
		name   string
		split  bufio.SplitFunc
		limit  int
		pieces []string
		frames int
		err    error // nil: only io.EOF
	}{
		{"a line of the limit", bufio.ScanLines, 100, []string{long + "\r\n"}, 1, nil},
		{"a line of the limit in pieces", bufio.ScanLines, 100, []string{long, "\r", "\n"}, 1, nil},
		{"a longer line", bufio.ScanLines, 99, []string{"a\n" + long + "\nb\n"}, 1, bufio.ErrTooLong},
		{"a line that does not end", bufio.ScanLines, 99, []string{"a\n", long, long}, 1, bufio.ErrTooLong},
		{"the default for lines", bufio.ScanLines, 0, []string{strings.Repeat("x", 65536) + "\n"}, 1, nil},
		{"more than the default for lines", bufio.ScanLines, -1, []string{strings.Repeat("x", 65537) + "\n"}, 0, bufio.ErrTooLong},
		{"a prefixed frame of the limit", eventloop.LengthPrefix(4, binary.BigEndian), 100, []string{prefixed(100), prefixed(0)}, 2, nil},
		{"a longer prefixed frame", eventloop.LengthPrefix(4, binary.BigEndian), 100, []string{prefixed(1), prefixed(101)}, 1, bufio.ErrTooLong},
		{"a frame that is only announced", eventloop.LengthPrefix(4, binary.BigEndian), 100,
			[]string{"\xff\xff\xff\xff" + long, long}, 0, bufio.ErrTooLong},
		{"a length that overflows", eventloop.LengthPrefix(8, binary.BigEndian), 100, []string{strings.Repeat("\xff", 8)}, 0, bufio.ErrTooLong},
		{"a part of a prefixed frame at the end", eventloop.LengthPrefix(4, binary.BigEndian), 100,
			[]string{prefixed(1) + prefixed(5)[:7]}, 1, io.ErrUnexpectedEOF},
		{"a part of a prefix at the end", eventloop.LengthPrefix(4, binary.BigEndian), 100, []string{"\x00"}, 0, io.ErrUnexpectedEOF},
		{"a last line without an end, as bufio.Scanner has it", bufio.ScanLines, 100, []string{"a\nb"}, 2, nil},
	} {
		t.Run(v.name, func(t *testing.T) {
			var r framed
			_, err := onePipe(t, eventloop.Config{}, r.config(v.split, v.limit, nil), writeAll(v.pieces...))
			wantEqual(t, "Run", err, nil)
			wantEqual(t, "frames", len(r.frames), v.frames)
			wantEqual(t, "closed", r.closed, 1)
			if v.err == nil {
				wantSlice(t, "events", r.events, []error{io.EOF})
				return
			}
			wantErrs(t, "events", r.events, v.err)
			if oe, ok := errors.AsType[*eventloop.OpError](r.events[0]); !ok || oe.Op != "read" || oe.Conn == nil {
				t.Errorf("event %v, want an OpError of reading", r.events[0])
			}
		})
	}
}

func TestAnEndlessFrameTakesBoundedMemory(t *testing.T) {
	var r framed
	sent := 0
	onePipe(t, eventloop.Config{}, r.config(bufio.ScanLines, 1000, nil), func(_ *eventloop.Loop, nc net.Conn) {
		for p := make([]byte, 100); ; sent += len(p) {
			if _, err := nc.Write(p); err != nil {
				break
			}
		}
		nc.Close()
	})
	wantErrs(t, "events", r.events, bufio.ErrTooLong)
	if sent > 1000+16+64<<10 {
		t.Errorf("%d bytes were taken, the limit is 1000", sent)
	}
}

func TestOnEventMayReplyToAFrameThatIsTooLong(t *testing.T) {
	var r framed
	cfg := r.config(bufio.ScanLines, 10, nil)
	cfg.OnEvent = func(c *eventloop.Conn, err error) { c.WriteString("too long\n") }
	var got string
	onePipe(t, eventloop.Config{}, cfg, func(_ *eventloop.Loop, nc net.Conn) {
		go io.WriteString(nc, strings.Repeat("x", 1000))
		b, _ := io.ReadAll(nc)
		got = string(b)
		nc.Close()
	})
	wantEqual(t, "answer", got, "too long\n")
}

func TestAnInvalidResultOfASplitFunctionIsAnErrorOfTheConnection(t *testing.T) {
	own := errors.New("own")
	for name, v := range map[string]struct {
		split bufio.SplitFunc
		want  error
	}{
		"an error":            {func(data []byte, atEOF bool) (int, []byte, error) { return 1, data, own }, own},
		"the final token":     {func(data []byte, atEOF bool) (int, []byte, error) { return 1, data, bufio.ErrFinalToken }, bufio.ErrFinalToken},
		"a step back":         {func(data []byte, atEOF bool) (int, []byte, error) { return -1, data, nil }, bufio.ErrNegativeAdvance},
		"a step too far":      {func(data []byte, atEOF bool) (int, []byte, error) { return len(data) + 1, data, nil }, bufio.ErrAdvanceTooFar},
		"no step":             {func(data []byte, atEOF bool) (int, []byte, error) { return 0, data, nil }, io.ErrNoProgress},
		"no frame at the end": {func(data []byte, atEOF bool) (int, []byte, error) { return 0, nil, nil }, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			var r framed
			_, err := onePipe(t, eventloop.Config{}, r.config(v.split, 10, nil), writeAll("abc"))
			wantEqual(t, "Run", err, nil)
			wantErrs(t, "events", r.events, v.want)
			wantEqual(t, "frames", len(r.frames), 0)
		})
	}
	var r framed
	onePipe(t, eventloop.Config{CatchPanics: true}, r.config(func([]byte, bool) (int, []byte, error) { panic("boom") }, 10, nil), writeAll("abc"))
	if len(r.events) != 1 {
		t.Fatalf("events %v, want the panic", r.events)
	}
	if pe, ok := errors.AsType[*eventloop.PanicError](r.events[0]); !ok || pe.Value != "boom" {
		t.Errorf("events %v, want the panic", r.events)
	}
}

func TestSplitAndLengthPrefixPanicForInvalidArguments(t *testing.T) {
	f := func(*eventloop.Conn, []byte) {}
	for name, f := range map[string]func(){
		"nil split":        func() { eventloop.Split(nil, 1, f) },
		"nil function":     func() { eventloop.Split(bufio.ScanLines, 1, nil) },
		"prefix of 0":      func() { eventloop.LengthPrefix(0, binary.BigEndian) },
		"prefix of 3":      func() { eventloop.LengthPrefix(3, binary.BigEndian) },
		"nil order":        func() { eventloop.LengthPrefix(1, nil) },
		"prefix below all": func() { eventloop.LengthPrefix(-1, binary.BigEndian) },
	} {
		if v, _ := outcome(f); v == nil {
			t.Errorf("%s: no panic", name)
		}
	}
}

func TestAfterCloseInAFrameNoFrameFollows(t *testing.T) {
	for name, end := range map[string]func(c *eventloop.Conn) error{"Close": (*eventloop.Conn).Close, "Abort": (*eventloop.Conn).Abort} {
		var r framed
		cfg := r.config(bufio.ScanLines, 10, func(c *eventloop.Conn, frame []byte) { end(c) })
		onePipe(t, eventloop.Config{}, cfg, writeAll("one\ntwo\n", "three\n"))
		wantSlice(t, name+": frames", r.frames, []string{"one"})
		wantEqual(t, name+": events", len(r.events), 0)
		wantEqual(t, name+": closed", r.closed, 1)
	}
}

// Whatever stops a splitter in the middle of its input, the rest is delivered in order,
// and all of it before the end.
func TestAPauseInAFrameDelaysTheFollowingFrames(t *testing.T) {
	var r framed
	cfg := r.config(bufio.ScanLines, 10, func(c *eventloop.Conn, frame []byte) {
		c.PauseReading()
		c.Loop().AfterFunc(time.Second, c.ResumeReading)
	})
	var start time.Time
	var took time.Duration
	cfg.OnConnect = func(*eventloop.Conn) { start = time.Now() }
	cfg.OnClose = func(*eventloop.Conn) { took = time.Since(start) }
	onePipe(t, eventloop.Config{}, cfg, func(l *eventloop.Loop, nc net.Conn) {
		io.WriteString(nc, "one\ntwo\nth")
		io.WriteString(nc, "ree\nfour\nfive")
		nc.Close()
	})
	wantSlice(t, "frames", r.frames, []string{"one", "two", "three", "four", "five"})
	wantSlice(t, "events", r.events, []error{io.EOF})
	if took < 4*time.Second {
		t.Errorf("the connection ended after %v, with five pauses of a second", took)
	}
}

func TestFramesWaitWhileTheOutputIsHigh(t *testing.T) {
	var r framed
	most := 0
	cfg := r.config(bufio.ScanLines, 10, func(c *eventloop.Conn, frame []byte) {
		c.Write(make([]byte, 1000))
		most = max(most, c.Buffered())
	})
	cfg.HighWater = 10_000
	var n int64
	onePipe(t, eventloop.Config{}, cfg, func(_ *eventloop.Loop, nc net.Conn) {
		go io.WriteString(nc, strings.Repeat("x\n", 1000))
		synctest.Wait()
		if len(r.frames) > 20 {
			t.Errorf("%d frames were delivered although the client reads nothing", len(r.frames))
		}
		n, _ = io.CopyN(io.Discard, nc, 1_000_000)
		nc.Close()
	})
	wantEqual(t, "answers", n, 1_000_000)
	wantEqual(t, "frames", len(r.frames), 1000)
	if most > 12_000 {
		t.Errorf("%d bytes were pending, HighWater is 10000", most)
	}
}

func TestSetCallbacksInAFrameReceivesTheRest(t *testing.T) {
	for _, pieces := range [][]string{{"head\nraw\nmore"}, {"he", "ad\nra", "w\nmore"}} {
		var r framed
		var raw bytes.Buffer
		cfg := r.config(bufio.ScanLines, 10, func(c *eventloop.Conn, frame []byte) {
			c.SetCallbacks(&eventloop.ConnConfig{OnData: func(_ *eventloop.Conn, data []byte) { raw.Write(data) }})
		})
		onePipe(t, eventloop.Config{}, cfg, writeAll(pieces...))
		wantSlice(t, "frames", r.frames, []string{"head"})
		wantEqual(t, "raw", raw.String(), "raw\nmore")
		wantSlice(t, "events", r.events, []error{io.EOF})
	}
}

func TestSetCallbacksOutsideAFrameReceivesAnIncompleteFrame(t *testing.T) {
	var r framed
	var raw bytes.Buffer
	cfg := r.config(bufio.ScanLines, 10, nil)
	cfg.OnConnect = func(c *eventloop.Conn) {
		c.Loop().AfterFunc(time.Second, func() {
			c.SetCallbacks(&eventloop.ConnConfig{OnData: func(_ *eventloop.Conn, data []byte) { raw.Write(data) }})
		})
	}
	onePipe(t, eventloop.Config{}, cfg, func(_ *eventloop.Loop, nc net.Conn) {
		io.WriteString(nc, "one\npart")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		wantEqual(t, "raw before more arrives", raw.String(), "part")
		io.WriteString(nc, " and rest\n")
		nc.Close()
	})
	wantSlice(t, "frames", r.frames, []string{"one"})
	wantEqual(t, "raw", raw.String(), "part and rest\n")
}

func TestAnotherSplitInAFrameContinuesWithTheRest(t *testing.T) {
	var r framed
	cfg := r.config(bufio.ScanLines, 10, nil)
	lines := cfg.OnData
	blocks := eventloop.Split(eventloop.LengthPrefix(1, binary.BigEndian), 255, func(c *eventloop.Conn, frame []byte) {
		r.frames = append(r.frames, "block "+string(frame))
		c.SetCallbacks(&eventloop.ConnConfig{OnData: lines})
	})
	cfg.OnData = eventloop.Split(bufio.ScanLines, 10, func(c *eventloop.Conn, frame []byte) {
		r.frames = append(r.frames, string(frame))
		c.SetCallbacks(&eventloop.ConnConfig{OnData: blocks})
	})
	onePipe(t, eventloop.Config{}, cfg, writeAll("BLOCK\n\x03a\nbLINE\nx\n"))
	wantSlice(t, "frames", r.frames, []string{"BLOCK", "block a\nb", "LINE", "x"})
}

func TestANetConnThatAFrameStartsReadsTheRest(t *testing.T) {
	var r framed
	var got string
	cfg := r.config(bufio.ScanLines, 10, func(c *eventloop.Conn, frame []byte) {
		c.Loop().Go(context.Background(), func(k *eventloop.Task) error {
			b, err := io.ReadAll(c.NetConn(k))
			got = string(b)
			return err
		})
		c.PauseReading() // until the task reads
	})
	cfg.OnEvent = nil
	cfg.OnConnect = func(c *eventloop.Conn) { c.Loop().AfterFunc(time.Second, c.ResumeReading) }
	onePipe(t, eventloop.Config{}, cfg, func(_ *eventloop.Loop, nc net.Conn) {
		io.WriteString(nc, "head\nbody\nmore")
		io.WriteString(nc, " of it")
		nc.Close()
	})
	wantSlice(t, "frames", r.frames, []string{"head"})
	wantEqual(t, "stream", got, "body\nmore of it")
}

func TestAPipeAndADetachInAFrameReceiveTheRest(t *testing.T) {
	for name, divert := range map[string]func(c *eventloop.Conn, into net.Conn){
		"Pipe": func(c *eventloop.Conn, into net.Conn) {
			dst, err := c.Loop().Adopt(into, nil)
			if err != nil {
				t.Error(err)
				return
			}
			c.Pipe(dst).Ignore()
		},
		"Detach": func(c *eventloop.Conn, into net.Conn) {
			c.Detach().Then(func(nc net.Conn, err error) {
				if err != nil {
					t.Error(err)
					return
				}
				eventloop.Work(context.Background(), c.Loop(), func(context.Context) (int64, error) {
					defer nc.Close()
					defer into.Close()
					return io.Copy(into, nc)
				}).Ignore()
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var r framed
			var got []byte
			var out, in net.Conn
			cfg := r.config(bufio.ScanLines, 10, func(c *eventloop.Conn, frame []byte) { divert(c, in) })
			synctest.Test(t, func(t *testing.T) {
				out, in = net.Pipe()
				server, nc := net.Pipe()
				done := make(chan struct{})
				err := eventloop.Run(t.Context(), nil, func(l *eventloop.Loop) error {
					go func() {
						defer close(done)
						got, _ = io.ReadAll(out)
						out.Close()
					}()
					go func() {
						io.WriteString(nc, "head\nbody\nmore")
						io.WriteString(nc, " of it")
						nc.Close()
					}()
					_, err := l.Adopt(server, cfg)
					return err
				})
				wantEqual(t, "Run", err, nil)
				<-done
			})
			wantSlice(t, "frames", r.frames, []string{"head"})
			wantEqual(t, "diverted", string(got), "body\nmore of it")
		})
	}
}

// A prefixingConn writes prefix together with its first bytes.
type prefixingConn struct {
	net.Conn
	prefix string
}

func (c *prefixingConn) Write(p []byte) (int, error) {
	n := len(c.prefix)
	b := append([]byte(c.prefix), p...)
	c.prefix = ""
	m, err := c.Conn.Write(b)
	return max(m-n, 0), err
}

func TestStartTLSInAFrameUsesTheRestForTheHandshake(t *testing.T) {
	var r framed
	var answer string
	cfg := r.config(bufio.ScanLines, 100, func(c *eventloop.Conn, frame []byte) {
		if string(frame) == "STARTTLS" {
			c.StartTLS(httpServerTLS()).Ignore()
		} else {
			c.WriteString("got " + string(frame) + "\n")
			c.Close()
		}
	})
	cfg.TLSServer = true
	_, err := onePipe(t, eventloop.Config{}, cfg, func(_ *eventloop.Loop, nc net.Conn) {
		tc := tls.Client(&prefixingConn{nc, "STARTTLS\r\n"}, &tls.Config{InsecureSkipVerify: true})
		io.WriteString(tc, "over TLS\n")
		b, _ := io.ReadAll(tc)
		answer = string(b)
		nc.Close()
	})
	wantEqual(t, "Run", err, nil)
	wantSlice(t, "frames", r.frames, []string{"STARTTLS", "over TLS"})
	wantEqual(t, "answer", answer, "got over TLS\n")
}

func TestUnreadInAFrameWaitsForMoreInputAndComesFirst(t *testing.T) {
	var r framed
	cfg := r.config(bufio.ScanLines, 100, func(c *eventloop.Conn, frame []byte) {
		if string(frame) == "a" && len(r.frames) == 1 {
			c.Unread([]byte("A\n"))
		}
	})
	onePipe(t, eventloop.Config{}, cfg, func(_ *eventloop.Loop, nc net.Conn) {
		io.WriteString(nc, "a\nb\n")
		synctest.Wait()
		wantSlice(t, "frames before more arrives", r.frames, []string{"a"})
		io.WriteString(nc, "c\n")
		nc.Close()
	})
	wantSlice(t, "frames", r.frames, []string{"a", "A", "b", "c"})
}

// A splitter makes the same frames as bufio.Scanner, however the input arrives and
// whenever reading is paused.
func TestSplitMakesTheFramesOfBufioScanner(t *testing.T) {
	splits := map[string]bufio.SplitFunc{
		"lines": bufio.ScanLines, "words": bufio.ScanWords, "bytes": bufio.ScanBytes,
		"prefix 1": eventloop.LengthPrefix(1, binary.BigEndian), "prefix 2": eventloop.LengthPrefix(2, binary.LittleEndian),
	}
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.SampledFrom([]string{"lines", "words", "bytes", "prefix 1", "prefix 2"}).Draw(rt, "split")
		input := rapid.SliceOfN(rapid.SampledFrom([]byte("a\n\r \x00\x01\x02\x05")), 0, 200).Draw(rt, "input")
		limit := rapid.SampledFrom([]int{1, 3, 8, 500}).Draw(rt, "limit")
		pauseEvery := rapid.IntRange(1, 10).Draw(rt, "pause every")
		var pieces []string
		for rest := input; len(rest) > 0; {
			n := rapid.IntRange(1, min(len(rest), 40)).Draw(rt, "piece")
			pieces = append(pieces, string(rest[:n]))
			rest = rest[n:]
		}
		var r framed
		cfg := r.config(splits[name], limit, func(c *eventloop.Conn, frame []byte) {
			if len(r.frames)%pauseEvery == 0 {
				c.PauseReading()
				c.Loop().AfterFunc(time.Millisecond, c.ResumeReading)
			}
		})
		if _, err := onePipe(t, eventloop.Config{}, cfg, writeAll(pieces...)); err != nil {
			rt.Fatalf("Run: %v", err)
		}
		want, err := scan(splits[name], limit, input)
		if !slices.Equal(r.frames, want) {
			rt.Fatalf("frames %q, want %q", r.frames, want)
		}
		if len(r.events) != 1 || !errors.Is(r.events[0], err) {
			rt.Fatalf("events %v, want %v", r.events, err)
		}
	})
}

// scan returns the frames of bufio.Scanner for input, with a limit for the frame itself,
// and its error.
func scan(split bufio.SplitFunc, limit int, input []byte) (frames []string, err error) {
	for len(input) > 0 {
		advance, frame, err := split(input, true)
		switch {
		case err == io.ErrUnexpectedEOF && len(input) > limit+16:
			return frames, bufio.ErrTooLong
		case err != nil:
			return frames, err
		case len(frame) > limit:
			return frames, bufio.ErrTooLong
		case frame == nil && advance == 0:
			return frames, io.ErrUnexpectedEOF
		}
		input = input[advance:]
		if frame != nil {
			frames = append(frames, string(frame))
		}
	}
	return frames, io.EOF
}

func FuzzLengthPrefix(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x00\x00"), 2, true, false)
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xffab"), 8, false, true)
	f.Fuzz(func(t *testing.T, data []byte, size int, big, atEOF bool) {
		if size != 1 && size != 2 && size != 4 && size != 8 {
			return
		}
		var order binary.ByteOrder = binary.LittleEndian
		if big {
			order = binary.BigEndian
		}
		advance, frame, err := eventloop.LengthPrefix(size, order)(data, atEOF)
		switch {
		case err != nil && (advance != 0 || frame != nil):
			t.Errorf("an error together with %d, %q", advance, frame)
		case err == nil && frame == nil && (advance != 0 || atEOF && len(data) > 0):
			t.Errorf("no frame, but advance %d; at the end: %v", advance, atEOF)
		case frame != nil && (advance != size+len(frame) || !bytes.Equal(frame, data[size:advance])):
			t.Errorf("frame %q of %q, advance %d", frame, data, advance)
		}
	})
}

// A connection with a splitter survives any input, and makes the same frames however the
// input arrives.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("one\ntwo\r\nthree"), uint8(3), uint16(10), false)
	f.Add([]byte("\x00\x03abc\x00\x00"), uint8(1), uint16(2), true)
	f.Fuzz(func(t *testing.T, input []byte, piece uint8, limit uint16, prefixed bool) {
		split := bufio.ScanLines
		if prefixed {
			split = eventloop.LengthPrefix(2, binary.BigEndian)
		}
		if limit == 0 || len(input) > 4<<10 {
			return
		}
		var pieces []string
		for p := range slices.Chunk(input, int(piece)+1) {
			pieces = append(pieces, string(p))
		}
		var r framed
		if _, err := onePipe(t, eventloop.Config{}, r.config(split, int(limit), nil), writeAll(pieces...)); err != nil {
			t.Fatal(err)
		}
		want, err := scan(split, int(limit), input)
		wantSlice(t, "frames", r.frames, want)
		wantErrs(t, "events", r.events, err)
	})
}

func ExampleSplit() {
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		server, client := net.Pipe()
		_, err := l.Adopt(server, &eventloop.ConnConfig{
			OnData: eventloop.Split(bufio.ScanLines, 1024, func(c *eventloop.Conn, line []byte) {
				fmt.Printf("%q\n", line)
			}),
		})
		go func() {
			for _, piece := range []string{"hel", "lo\r\nlo", "op\n"} {
				io.WriteString(client, piece)
			}
			client.Close()
		}()
		return err
	})
	// Output:
	// "hello"
	// "loop"
}

func ExampleLengthPrefix() {
	prefixed := eventloop.LengthPrefix(2, binary.BigEndian)
	eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		server, client := net.Pipe()
		_, err := l.Adopt(server, &eventloop.ConnConfig{
			OnData: eventloop.Split(prefixed, 4096, func(c *eventloop.Conn, message []byte) {
				fmt.Printf("%q\n", message)
			}),
		})
		go func() {
			io.WriteString(client, "\x00\x05hello\x00\x04lo")
			io.WriteString(client, "op")
			client.Close()
		}()
		return err
	})
	// Output:
	// "hello"
	// "loop"
}
