package sockio

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestGetBufferGivesRoomForItsSizeUpToTheLargest(t *testing.T) {
	for _, test := range []struct{ size, want int }{
		{-1, 4 << 10}, {0, 4 << 10}, {1, 4 << 10}, {4 << 10, 4 << 10}, {4<<10 + 1, 16 << 10},
		{16 << 10, 16 << 10}, {16<<10 + 1, MaxBuffer}, {MaxBuffer, MaxBuffer}, {10 * MaxBuffer, MaxBuffer},
	} {
		b := GetBuffer(test.size)
		if got := len(b.Room()); got != test.want || b.Len() != 0 {
			t.Errorf("GetBuffer(%d) has room for %d bytes and holds %d, want %d and 0", test.size, got, b.Len(), test.want)
		}
		b.Release()
	}
}

func TestABufferHoldsWhatWasFilledAndNotConsumed(t *testing.T) {
	b := GetBuffer(1)
	n := copy(b.Room(), "hello")
	b.Fill(n)
	b.Consume(2)
	if got := string(b.Bytes()); got != "llo" || b.Len() != 3 {
		t.Errorf("bytes = %q, length %d, want \"llo\", 3", got, b.Len())
	}
	room := len(b.Room())
	b.Fill(copy(b.Room(), " world"))
	if got := string(b.Bytes()); got != "llo world" || len(b.Room()) != room-6 {
		t.Errorf("bytes = %q, room %d, want \"llo world\", %d", got, len(b.Room()), room-6)
	}
	b.Release()
}

func TestAReleasedBufferComesBackEmptyAndUnlinked(t *testing.T) {
	var q Queue
	q.Append(bytes.Repeat([]byte("x"), 3*MaxBuffer))
	q.Reset()
	for range 10 {
		b := GetBuffer(MaxBuffer)
		if b.Len() != 0 || len(b.Room()) != MaxBuffer || b.next != nil {
			t.Fatalf("length %d, room %d, linked %v, want an empty buffer", b.Len(), len(b.Room()), b.next != nil)
		}
	}
}

func TestBuffersAndQueuesInUseAllocateNothing(t *testing.T) {
	page := bytes.Repeat([]byte("x"), 1000)
	large := bytes.Repeat([]byte("x"), MaxBuffer+1)
	views := make([][]byte, MaxViews)
	tests := map[string]func(){
		"get and release": func() { GetBuffer(1).Release() },
		"append and advance": func() {
			var q Queue
			q.Append(page)
			q.AppendString("more")
			q.Views(views)
			q.Advance(q.Len())
		},
		"append more than a buffer": func() {
			var q Queue
			q.Append(large)
			q.Reset()
		},
		"append a buffer": func() {
			var q Queue
			b := GetBuffer(1)
			b.Fill(10)
			q.AppendBuffer(b)
			q.Reset()
		},
	}
	for name, f := range tests {
		f()
		// A collection may empty the pool meanwhile: less than one a run is none.
		if got := testing.AllocsPerRun(200, f); got >= 1 && !raceEnabled {
			t.Errorf("%s: allocations = %v, want 0", name, got)
		}
	}
}

func TestAnEmptyQueueHoldsNoBuffer(t *testing.T) {
	var q Queue
	q.Append([]byte("some bytes"))
	q.Advance(4)
	q.Advance(6)
	if q.head != nil || q.tail != nil || q.Len() != 0 {
		t.Error("the queue holds a buffer although all bytes are gone")
	}
	q.Append(nil)
	q.AppendString("")
	if q.head != nil {
		t.Error("the queue holds a buffer although nothing was appended")
	}
	q.AppendBuffer(GetBuffer(1))
	q.Reset()
	if q.head != nil || q.tail != nil {
		t.Error("the queue holds an empty buffer after Reset")
	}
	q.Reset()
}

func TestViewsSkipEmptyBuffersAndStopAtTheirNumber(t *testing.T) {
	var q Queue
	q.AppendBuffer(GetBuffer(1))
	for i := range MaxViews + 3 {
		b := GetBuffer(1)
		b.Room()[0] = byte(i)
		b.Fill(1)
		q.AppendBuffer(b)
	}
	views := make([][]byte, MaxViews)
	if n := q.Views(views); n != MaxViews {
		t.Fatalf("views = %d, want %d", n, MaxViews)
	}
	for i, v := range views {
		if len(v) != 1 || v[0] != byte(i) {
			t.Errorf("view %d = %v, want [%d]", i, v, i)
		}
	}
	q.Advance(MaxViews)
	if n := q.Views(views); n != 3 {
		t.Errorf("views of the rest = %d, want 3", n)
	}
	q.Reset()
	if n := q.Views(views); n != 0 {
		t.Errorf("views of an empty queue = %d, want 0", n)
	}
}

// What Views gave may be written to the network while the dispatcher appends: the
// race detector is the judge.
func TestAppendDoesNotDisturbViews(t *testing.T) {
	var q Queue
	q.AppendString("first ")
	views := make([][]byte, MaxViews)
	n := q.Views(views)
	done := make(chan []byte)
	go func() { done <- bytes.Join(views[:n], nil) }()
	for range 1000 {
		q.AppendString("and more ")
	}
	if got := <-done; string(got) != "first " {
		t.Errorf("views = %q, want %q", got, "first ")
	}
	q.Reset()
}

// The model of a Queue is a slice of bytes.
func TestAQueueBehavesAsASliceOfBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q Queue
		var model []byte
		var counter byte
		draw := func(t *rapid.T) []byte {
			// Around the sizes of buffers, where mistakes live.
			size := rapid.SampledFrom([]int{0, 1, 100, 4<<10 - 1, 4 << 10, 4<<10 + 1, 16 << 10, 64 << 10, 64<<10 + 1, 150_000}).Draw(t, "size")
			p := make([]byte, size)
			for i := range p {
				p[i] = counter
				counter = counter*31 + 7
			}
			return p
		}
		t.Repeat(map[string]func(*rapid.T){
			"Append": func(t *rapid.T) {
				p := draw(t)
				q.Append(p)
				model = append(model, p...)
				clear(p) // the queue has copied it
			},
			"AppendString": func(t *rapid.T) {
				p := draw(t)
				q.AppendString(string(p))
				model = append(model, p...)
			},
			"AppendBuffer": func(t *rapid.T) {
				b := GetBuffer(rapid.SampledFrom([]int{1, 16 << 10, MaxBuffer}).Draw(t, "buffer"))
				n := copy(b.Room(), draw(t))
				b.Fill(n)
				b.Consume(rapid.IntRange(0, n).Draw(t, "consumed"))
				model = append(model, b.Bytes()...)
				q.AppendBuffer(b)
			},
			"Advance": func(t *rapid.T) {
				n := rapid.IntRange(0, len(model)).Draw(t, "n")
				q.Advance(n)
				model = model[n:]
			},
			"write": func(t *rapid.T) {
				// As the kernel does: part of what the views hold.
				views := make([][]byte, rapid.IntRange(1, MaxViews).Draw(t, "views"))
				n := q.Views(views)
				got := bytes.Join(views[:n], nil)
				if !bytes.HasPrefix(model, got) || len(got) == 0 && len(model) > 0 {
					t.Fatalf("%d views of %d bytes are not the first bytes of %d", n, len(got), len(model))
				}
				took := rapid.IntRange(0, len(got)).Draw(t, "took")
				q.Advance(took)
				model = model[took:]
			},
			"Reset": func(t *rapid.T) {
				q.Reset()
				model = nil
			},
			"": func(t *rapid.T) {
				if q.Len() != len(model) {
					t.Fatalf("length = %d, want %d", q.Len(), len(model))
				}
				views := make([][]byte, 1000)
				got := bytes.Join(views[:q.Views(views)], nil)
				if !bytes.Equal(got, model) {
					t.Fatalf("the queue holds other bytes than it should")
				}
			},
		})
		q.Reset()
	})
}
