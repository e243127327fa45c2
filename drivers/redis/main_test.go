package redis_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
	"github.com/onloop/eventloop/internal/leaktest"
)

// TestMain runs the examples only where there is a redis-server: an example cannot be
// skipped.
func TestMain(m *testing.M) {
	flag.Parse()
	if run := flag.Lookup("test.run"); redistest.Find() == "" && os.Getenv("CI") == "" && run.Value.String() == "" {
		fmt.Println("examples are skipped:", redistest.Missing)
		flag.Set("test.run", "^(Test|Fuzz)")
	}
	leaktest.Main(m, stopShared)
}
