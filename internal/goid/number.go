package goid

import (
	"runtime"
	"sync"
)

// headers holds buffers for the beginning of a stack trace. A buffer on the stack
// would escape to the heap in each call.
var headers = sync.Pool{New: func() any { return new([64]byte) }}

// number returns the number of the calling goroutine, from the header of its stack
// trace: "goroutine 12 [running]:". That costs about a microsecond.
func number() ID {
	buf := headers.Get().(*[64]byte)
	defer headers.Put(buf)
	var n ID
	for _, c := range buf[len("goroutine "):runtime.Stack(buf[:], false)] {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + ID(c-'0')
	}
	return n
}
