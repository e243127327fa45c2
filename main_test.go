package eventloop_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/onloop/eventloop"
)

// With EVENTLOOP_ATTEND=1 in the environment each lone request of the HTTP client is
// attended to by the dispatcher: .ci/run has all tests of HTTP run in both ways.
func TestMain(m *testing.M) {
	if os.Getenv("EVENTLOOP_ATTEND") != "" {
		eventloop.AttendAtOnce()
	}
	goleak.VerifyTestMain(m)
}
