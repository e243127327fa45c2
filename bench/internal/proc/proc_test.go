package proc

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestRoomLeavesAReserveAndIsRound(t *testing.T) {
	for _, tt := range []struct {
		limit uint64
		want  int
	}{
		{0, 0}, {500, 0}, {1024, 524}, {4096, 3000}, {20_000, 19_000}, {1 << 63, 1048000},
	} {
		if got := Room(tt.limit); got != tt.want {
			t.Errorf("Room(%d) = %d, want %d", tt.limit, got, tt.want)
		}
	}
}

func TestProcessesAreEnoughForAllConnections(t *testing.T) {
	for _, tt := range []struct {
		n     int
		limit uint64
		want  int
	}{
		{40_000, 20_000, 3}, {19_000, 20_000, 1}, {19_001, 20_000, 2}, {40_000, 65_536, 1}, {10, 100, 0},
	} {
		if got := Processes(tt.n, tt.limit); got != tt.want {
			t.Errorf("Processes(%d, %d) = %d, want %d", tt.n, tt.limit, got, tt.want)
		}
	}
}

func TestUsageOfThisProcessGrows(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("usage is read on Linux only")
	}
	before := Of(os.Getpid())
	if before.RSS < 1<<20 {
		t.Errorf("RSS = %d, want at least a megabyte", before.RSS)
	}
	deadline := time.Now().Add(time.Minute)
	for Of(os.Getpid()).CPU < before.CPU+20*time.Millisecond {
		if time.Now().After(deadline) {
			t.Fatal("the CPU clock stands still")
		}
	}
	if got := Sum([]int{os.Getpid(), os.Getpid()}); got.RSS < 2<<20 {
		t.Errorf("Sum of two = %+v, want twice as much", got)
	}
}

func TestUsageOfNoProcessIsZero(t *testing.T) {
	if got := Of(1 << 22); got != (Usage{}) {
		t.Errorf("Of = %+v, want zero", got)
	}
}

func TestWhatIsStartedOnAProcessorIsBoundToIt(t *testing.T) {
	all := Processors()
	if len(all) == 0 {
		t.Skip("processes cannot be bound to processors here")
	}
	last := all[len(all)-1]
	err := On(last, func() error {
		if got := Processors(); len(got) != 1 || got[0] != last {
			t.Errorf("processors = %v, want %d", got, last)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
