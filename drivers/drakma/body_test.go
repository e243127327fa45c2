package drakma

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A blocked reader gives one byte, and then waits until it is closed.
type blocked struct {
	waits  chan struct{} // closed when Read waits
	end    chan struct{} // closed by Close
	begun  bool
	closed int // how often Close was called
}

func newBlocked() *blocked {
	return &blocked{waits: make(chan struct{}), end: make(chan struct{})}
}

func (b *blocked) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		return copy(p, "x"), nil
	}
	close(b.waits)
	<-b.end
	return 0, io.ErrClosedPipe
}

func (b *blocked) Close() error {
	b.closed++
	close(b.end)
	return nil
}

func TestCloseOfAFormEndsTheReadOfAPart(t *testing.T) {
	part, later := newBlocked(), &closer{Reader: strings.NewReader("never")}
	m := newMultipart([]Part{Field("a", "b"), Reader("c", "c", "", part), Reader("d", "d", "", later)})
	r := m.open()
	done := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, r)
		done <- err
	}()
	<-part.waits
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Read = %v", err)
	}
	r.Close()
	if n, err := r.Read(make([]byte, 9)); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close = %d, %v", n, err)
	}
	equal(t, "how often the part that was read is closed", part.closed, 1)
	equal(t, "how often the other part is closed", later.closed, 1)
}

// A Close at any moment of the reading leaves each part closed once, and no file open.
func TestAFormIsClosedAtAnyMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path, make([]byte, 1000), 0o600)
	for range 300 {
		a, b := &closer{Reader: strings.NewReader("a")}, &closer{Reader: strings.NewReader("b")}
		m := newMultipart([]Part{Reader("a", "a", "", a), File("f", path), Reader("b", "b", "", b)})
		if err := m.prepare(); err != nil {
			t.Fatal(err)
		}
		r := m.open()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := readAll(r); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
		})
		wg.Go(func() { r.Close() })
		wg.Wait()
		r.Close()
		equal(t, "how often a is closed", a.closed, 1)
		equal(t, "how often b is closed", b.closed, 1)
	}
	equal(t, "how often the file is open", openFiles(t, path), 0)
}

// readAll reads in small pieces.
func readAll(r io.Reader) (n int, err error) {
	for b := make([]byte, 100); err == nil; {
		var m int
		m, err = r.Read(b)
		n += m
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// A Close while the file is being opened must not leave it open.
func TestAFileIsClosedAtAnyMoment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path, make([]byte, 1000), 0o600)
	p := File("", path)
	if err := p.stat(); err != nil {
		t.Fatal(err)
	}
	for range 300 {
		r := p.open()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := readAll(r); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
		})
		wg.Go(func() { r.Close() })
		wg.Wait()
		if n, err := r.Read(make([]byte, 9)); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Fatalf("Read after Close = %d, %v", n, err)
		}
	}
	equal(t, "how often the file is open", openFiles(t, path), 0)
}

// openFiles returns how often this process has a file open, 0 where that cannot be found out.
func openFiles(t *testing.T, path string) int {
	t.Helper()
	list, _ := os.ReadDir("/proc/self/fd")
	n := 0
	for _, fd := range list {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && target == path {
			n++
		}
	}
	return n
}
