package pollpass

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// With one processor, a goroutine that never waits would keep one whose descriptor is
// ready from running, for up to ten milliseconds at a time.
func TestPassLetsGoroutinesRunWhoseDescriptorsAreReady(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fd := w.Fd()
	var got atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 1); ; got.Add(1) {
			if _, err := r.Read(buf); err != nil {
				return
			}
		}
	}()
	var p Passer
	defer p.Close()
	late := 0
	for n := range int64(1000) {
		if _, err := unix.Write(int(fd), []byte{1}); err != nil {
			t.Fatal(err)
		}
		p.Pass()
		p.Pass() // both may be found ready at once, and run in any order
		if got.Load() == n+1 {
			continue
		}
		// The operating system may have stopped the thread of the reader in between.
		for late++; got.Load() != n+1; {
			p.Pass()
		}
	}
	// Without the passes the reader runs every ten milliseconds, so nearly all
	// bytes would be late.
	if late > 500 {
		t.Errorf("%d of 1000 bytes were not read after two passes", late)
	}
	w.Close()
	<-done
}

func TestPassWithoutADescriptorReturns(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := old
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	var p Passer
	p.Pass()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if p.file != nil {
		t.Fatal("there is a descriptor")
	}
	p.Pass()
	p.Close()
	p.Close()
}

func BenchmarkPass(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var p Passer
	defer p.Close()
	for b.Loop() {
		p.Pass()
	}
}
