package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop/drivers/redis"
	"github.com/onloop/eventloop/drivers/redis/internal/redistest"
)

// A user is a program in a terminal.
type user struct {
	t    *testing.T
	keys io.WriteCloser
	seen *bufio.Scanner
	end  chan error
}

func start(t *testing.T, o *redis.Options, name string) *user {
	in, keys := io.Pipe()
	return startReading(t, o, name, in, keys)
}

// startReading is start with an input whose other end is keys.
func startReading(t *testing.T, o *redis.Options, name string, in io.Reader, keys io.WriteCloser) *user {
	screen, out := io.Pipe()
	u := &user{t, keys, bufio.NewScanner(screen), make(chan error, 1)}
	go func() {
		u.end <- run(o, name, "go", in, out)
		out.Close()
	}()
	u.sees("[go] " + name + " is here")
	return u
}

func (u *user) types(line string) { fmt.Fprintln(u.keys, line) }

func (u *user) sees(want string) {
	u.t.Helper()
	dog := time.AfterFunc(2*time.Minute, func() { panic("nothing is seen of " + want) })
	defer dog.Stop()
	for u.seen.Scan() {
		if got := u.seen.Text(); got == want {
			return
		} else if !strings.Contains(got, "is here") {
			u.t.Fatalf("saw %q, want %q", got, want)
		}
	}
	u.t.Fatalf("the end, want %q", want)
}

func TestMembersSeeWhatIsSaidInTheirRooms(t *testing.T) {
	server := redistest.Start(t)
	o := &redis.Options{Addr: server.Path, Timeout: time.Minute}
	ada, bob := start(t, o, "Ada"), start(t, o, "Bob")
	ada.types("hello")
	ada.sees("[go] Ada: hello")
	bob.sees("[go] Ada: hello")
	ada.types("/join c")
	ada.sees("[c] Ada is here")
	bob.types("are you there?")
	ada.sees("[go] Bob: are you there?")
	bob.sees("[go] Bob: are you there?")
	ada.types("only here")
	ada.sees("[c] Ada: only here")
	bob.types("/quit")
	ada.keys.Close()
	for _, u := range []*user{ada, bob} {
		if err := <-u.end; err != nil {
			t.Error(err)
		}
	}
}
