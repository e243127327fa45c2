package redistest_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
)

const serveEnv = "REDISTEST_SERVE"

// TestMain makes the test binary a process with a server, which waits to be killed.
func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) == "" {
		os.Exit(m.Run())
	}
	s, err := redistest.New()
	if err != nil {
		panic(err)
	}
	fmt.Println(s.Path)
	time.Sleep(time.Hour)
}

func TestAServerEndsWithItsProcess(t *testing.T) {
	redistest.Need(t)
	const watchdog = 2 * time.Minute
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	path, err := bufio.NewReader(out).ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	path = strings.TrimSpace(path)
	defer os.RemoveAll(filepath.Dir(path))
	for end := time.Now().Add(watchdog); ; time.Sleep(time.Millisecond) {
		nc, err := net.Dial("unix", path)
		if err != nil {
			return
		}
		nc.Close()
		if time.Now().After(end) {
			t.Fatal("the server goes on")
		}
	}
}
