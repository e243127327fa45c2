package child_test

import (
	"bufio"
	"io"
	"os"
	"testing"
	"time"

	"github.com/onloop/eventloop/drivers/e2e/internal/child"
)

const roleEnv = "CHILD_TEST_ROLE"

// TestMain makes the test binary a parent, which starts a child, or that child, which writes
// a line. Both then wait to be killed.
func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "parent":
		cmd := child.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"=child")
		cmd.Stdout = os.Stdout
		if err := cmd.Start(); err != nil {
			panic(err)
		}
	case "child":
		os.Stdout.WriteString("here\n")
	default:
		os.Exit(m.Run())
	}
	time.Sleep(time.Hour)
}

func TestAProcessEndsWithItsParent(t *testing.T) {
	const watchdog = 2 * time.Minute
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	parent := child.Command(os.Args[0])
	parent.Env = append(os.Environ(), roleEnv+"=parent")
	parent.Stdout = w
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(watchdog))
	lines := bufio.NewReader(r)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	parent.Process.Kill()
	parent.Wait()
	// The pipe is at its end when both have closed it.
	if _, err := io.Copy(io.Discard, lines); err != nil {
		t.Errorf("the child goes on: %v", err)
	}
}
