package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/onloop/eventloop/drivers/e2e/internal/child"
)

// TestMain makes the test binary the command, for TestEveryRivalWorks.
func TestMain(m *testing.M) {
	if os.Getenv("E2E_MAIN") == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestEveryRivalWorks(t *testing.T) {
	if _, err := findServer(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := child.Command(os.Args[0], "-rounds", "1", "-time", "100ms")
	cmd.Env = append(os.Environ(), "E2E_MAIN=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, w := range workloads() {
		if !bytes.Contains(out, []byte("\n"+w.Name+"\n")) {
			t.Errorf("%s is missing in\n%s", w.Name, out)
		}
	}
	t.Logf("%s", out)
}
