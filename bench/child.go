package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/onloop/eventloop/bench/internal/load"
)

// startTimeout bounds how long a server takes to listen, stopTimeout how long it
// takes to end.
const (
	startTimeout = 20 * time.Second
	stopTimeout  = 10 * time.Second
)

// A child is a running server process.
type child struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr bytes.Buffer
	port   string
}

// startServerBy runs argv, by a function that starts the process, and waits until it
// listens.
func startServerBy(argv []string, start func(*exec.Cmd) error) (*child, error) {
	c := &child{cmd: exec.Command(argv[0], argv[1:]...)}
	c.cmd.Stderr = &c.stderr
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.stdin = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := start(c.cmd); err != nil {
		return nil, err
	}
	late := time.AfterFunc(startTimeout, func() { c.cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	late.Stop()
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening ")
	if err == nil && ok {
		_, c.port, err = net.SplitHostPort(addr)
	}
	if err != nil || !ok {
		c.stop()
		return nil, fmt.Errorf("%s did not start: %s", argv[0], strings.TrimSpace(c.stderr.String()))
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// addrs returns the address of the server under several names, each of which has
// a range of local ports of its own.
func (c *child) addrs() []string {
	var addrs []string
	for i := 1; i <= 4; i++ {
		addrs = append(addrs, fmt.Sprintf("127.0.0.%d:%s", i, c.port))
	}
	return addrs
}

// stop ends the process by closing its standard input.
func (c *child) stop() error {
	c.stdin.Close()
	late := time.AfterFunc(stopTimeout, func() { c.cmd.Process.Kill() })
	err := c.cmd.Wait()
	if !late.Stop() {
		return errors.New("the server did not end and was killed")
	}
	return err
}

// runLoad makes load in a process of its own.
func runLoad(spec *load.Spec, start func(*exec.Cmd) error) (*load.Result, error) {
	r := new(load.Result)
	return r, runJSON([]string{"-load"}, start, spec, r)
}

// runJSON runs this program with args, gives it in and reads out.
func runJSON(args []string, start func(*exec.Cmd) error, in, out any) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	data, err := json.Marshal(in)
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, args...)
	cmd.Stdin = bytes.NewReader(data)
	var answer, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &answer, &stderr
	if err = start(cmd); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return json.Unmarshal(answer.Bytes(), out)
}

// serveJSON is the other side of runJSON.
func serveJSON[In, Out any](f func(in *In) (*Out, error)) error {
	in := new(In)
	if err := json.NewDecoder(os.Stdin).Decode(in); err != nil {
		return err
	}
	out, err := f(in)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}
