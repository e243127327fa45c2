package looptest

import (
	"testing"

	"github.com/onloop/eventloop"
)

// Pipe returns two connections of l that are the ends of one in-memory connection
// without latency. It must be called on the loop, or before it runs, by the test
// that t belongs to.
func Pipe(t *testing.T, l *eventloop.Loop, a, b *eventloop.ConnConfig) (x, y *eventloop.Conn, err error) {
	t.Helper()
	tr := trialOf(t)
	if tr.pipes == nil {
		tr.pipes = NewNet(t)
	}
	ends := tr.pipes.pipe()
	if x, err = l.Adopt(ends[0], a); err != nil {
		ends[0].Close()
		ends[1].Close()
		return nil, nil, err
	}
	if y, err = l.Adopt(ends[1], b); err != nil {
		x.Abort()
		ends[1].Close()
		return nil, nil, err
	}
	return x, y, nil
}
