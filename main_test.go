package eventloop_test

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/onloop/eventloop/internal/leaktest"
	"github.com/onloop/eventloop/internal/netcore"
)

// park has quiet connections parked sooner than usual, for all tests:
//
//	go test -park 1ms .
var park = flag.Duration("park", 0, "park connections that have been quiet for so long")

func TestMain(m *testing.M) {
	flag.Parse()
	if *park > 0 {
		netcore.Hasten(*park, 100*time.Millisecond)
	}
	// The poller of the runtime has descriptors, from the first use on.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	leaktest.Main(m, nil)
}
