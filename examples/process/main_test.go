//go:build unix

package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The program is checked from outside: outputs, exit code, limit, an input that the
// child does not read.
func TestTheStreamsAndTheExitOfAChildAreSeen(t *testing.T) {
	program := build(t)
	for _, tt := range []struct {
		name, script, input, limit string
		want                       []string // lines, without the time
		code                       int
	}{
		{"input, both outputs and a code", "read name; echo hello $name; echo done >&2; exit 3", "ann\n", "1m",
			[]string{"out: hello ann", "err: done", "exit status 3"}, 3},
		{"a last line without an end", "printf 'a\\nb'", "", "1m", []string{"out: a", "out: b", "exit status 0"}, 0},
		{"much input that is read", "wc -c", strings.Repeat("x", 1<<20), "1m", []string{"out: 1048576", "exit status 0"}, 0},
		{"much input that is not read", "exit 0", strings.Repeat("x", 1<<20), "1m", []string{"exit status 0"}, 0},
		{"a child that is killed", "sleep 100 & exec sleep 100", "", "300ms", []string{"signal: killed"}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, program, "-limit", tt.limit, "--", "sh", "-c", tt.script)
			cmd.Stdin = strings.NewReader(tt.input)
			out, _ := cmd.Output()
			if ctx.Err() != nil { // a grandchild has the outputs for longer
				t.Error("the program does not end with its child")
			}
			got := regexp.MustCompile(`(?m)^ *[0-9.]+ |( +$)`).ReplaceAllString(string(out), "")
			for _, line := range tt.want {
				if !strings.Contains("\n"+got, "\n"+line+"\n") {
					t.Errorf("the output lacks %q:\n%s", line, out)
				}
			}
			if n := strings.Count(got, "\n"); n != len(tt.want) {
				t.Errorf("%d lines, want %d:\n%s", n, len(tt.want), out)
			}
			if code := cmd.ProcessState.ExitCode(); code != tt.code&0xFF {
				t.Errorf("exit code %d, want %d", code, tt.code&0xFF)
			}
		})
	}
}

// The input of the program is often a terminal or a pipe that stays open.
func TestTheProgramEndsWithItsChildAlthoughItsInputDoesNotEnd(t *testing.T) {
	in, keys, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer keys.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, build(t), "--", "sh", "-c", "read name; exit 3")
	cmd.Stdin, cmd.Stderr = in, &stderr
	io.WriteString(keys, "ann\n")
	cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 3 || stderr.Len() > 0 {
		t.Errorf("exit code %d, want 3; errors: %q", code, stderr.String())
	}
}

func build(t *testing.T) string {
	program := filepath.Join(t.TempDir(), "process")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}
