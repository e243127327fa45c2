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
		bigSize = 16 << 20
		main()
		return
	}
	code := m.Run()
	if s, _ := shared(); s != nil {
		s.stop()
	}
	os.Exit(code)
}

func TestEveryRivalWorks(t *testing.T) {
	cmd := child.Command(os.Args[0], "-rounds", "1", "-time", "300ms")
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
