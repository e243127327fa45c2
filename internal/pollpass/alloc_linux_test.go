//go:build !race

package pollpass

import (
	"runtime"
	"testing"
)

// The race detector allocates on its own account.
func TestPassAllocatesNothing(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var p Passer
	defer p.Close()
	p.Pass()
	if n := testing.AllocsPerRun(100, p.Pass); n != 0 {
		t.Errorf("a pass allocates %v times, want 0", n)
	}
}
