package httpclient

import (
	"math/bits"
	"testing"
	"unsafe"
)

// As for those of a loop: kept connections are many.
func TestAConnFitsItsSizeClass(t *testing.T) {
	if n := unsafe.Sizeof(Conn{}); bits.UintSize == 64 && n > 480 {
		t.Errorf("a Conn has %d bytes, want at most 480", n)
	}
}
