package childserver

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

const roleEnv = "CHILDSERVER_TEST_ROLE"

// TestMain makes the test binary a server that listens at an address, or a process that ends
// at once.
func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "":
		os.Exit(m.Run())
	case "end":
	default:
		if _, err := net.Listen("tcp", role); err != nil {
			os.Exit(1)
		}
		time.Sleep(time.Hour)
	}
}

func start(t *testing.T, role string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func reserve(t *testing.T) string {
	t.Helper()
	addr, release, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return addr
}

func TestReservedAddressesDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for range 200 {
		addr := reserve(t)
		if seen[addr] {
			t.Errorf("%s is reserved twice", addr)
		}
		seen[addr] = true
	}
}

func TestAwaitWaitsForTheServer(t *testing.T) {
	addr := reserve(t)
	if err := Await(start(t, addr), Listens("tcp", addr)); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestAwaitFailsWhenTheProcessEnds(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Await detects the end of a process only on Linux")
	}
	cmd := start(t, "end")
	if err := Await(cmd, Listens("tcp", reserve(t))); !errors.Is(err, errEnded) {
		t.Errorf("error = %v, want %v", err, errEnded)
	}
	// Not even if another server answers.
	if err := Await(cmd, func() error { return nil }); !errors.Is(err, errEnded) {
		t.Errorf("error = %v, want %v", err, errEnded)
	}
}
