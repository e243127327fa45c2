package main

import (
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	nodeLib     = "Node.js"
	libuvLib    = "libuv"
	libeventLib = "libevent"
	gojaLib     = "goja_nodejs"
	oldBuild    = "eventloop, old build"
)

//go:embed c/*.c js/*.js
var sources embed.FS

// An opponent says how to run what it has, as a command line.
type opponent struct {
	server func(mode string, delay time.Duration) []string // nil: it has no such server
	kernel func(name string, n int) []string               // the same for work without a network
}

// opponents are those that can be run here, by name.
type opponents struct {
	byName  map[string]opponent
	skipped []string // a line for each that cannot
}

// gather finds or builds the opponents, in dir. old is another build of this
// program, or empty.
func gather(dir, old string) (*opponents, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := unpack(dir); err != nil {
		return nil, err
	}
	o := &opponents{byName: make(map[string]opponent)}
	for _, name := range []string{ours, goroutines, goroutinesBuffered, netpollLib, netpollBuffered, gnetLib, gnetMulticore, netHTTP, fastHTTP, netResolver, gojaLib} {
		o.byName[name] = inProgram(exe, name)
	}
	if old != "" {
		if old, err = filepath.Abs(old); err != nil {
			return nil, err
		}
		o.byName[oldBuild] = inProgram(old, ours)
	}
	for _, n := range loopCounts {
		for _, reuse := range []bool{false, true} {
			o.byName[groupName(n, reuse)] = inProgramGroup(exe, n, reuse)
		}
	}
	o.addNode(dir)
	o.addC(dir, libuvLib, "uv", "libuv")
	o.addC(dir, libeventLib, "event", "libevent")
	return o, nil
}

func unpack(dir string) error {
	for _, sub := range []string{"c", "js"} {
		files, err := sources.ReadDir(sub)
		if err != nil {
			return err
		}
		for _, f := range files {
			data, err := sources.ReadFile(sub + "/" + f.Name())
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, f.Name()), data, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// inProgram returns an opponent that exe has in itself, which is this program or
// another build of it.
func inProgram(exe, name string) opponent {
	return opponent{
		server: func(mode string, delay time.Duration) []string {
			if !hasServer(name, mode) {
				return nil
			}
			return []string{exe, "-serve", name, "-mode", mode, "-delay", delay.String()}
		},
		kernel: func(kernel string, n int) []string {
			if kernels[name][kernel] == nil {
				return nil
			}
			return []string{exe, "-kernel", kernel, "-lib", name, "-n", strconv.Itoa(n)}
		},
	}
}

func inProgramGroup(exe string, loops int, reusePort bool) opponent {
	return opponent{server: func(mode string, delay time.Duration) []string {
		if !hasServer(ours, mode) {
			return nil
		}
		return []string{exe, "-serve", ours, "-mode", mode, "-delay", delay.String(),
			"-loops", strconv.Itoa(loops), fmt.Sprintf("-reuseport=%t", reusePort)}
	}}
}

func (o *opponents) skip(name, why string) {
	o.skipped = append(o.skipped, name+": "+why+", skipped")
}

func (o *opponents) addNode(dir string) {
	node, err := exec.LookPath("node")
	if err != nil {
		o.skip(nodeLib, "not installed")
		return
	}
	o.byName[nodeLib] = opponent{
		server: func(mode string, delay time.Duration) []string {
			return []string{node, filepath.Join(dir, "server.js"), mode, milliseconds(delay)}
		},
		kernel: func(kernel string, n int) []string {
			if kernel != "posts-1" && !strings.HasPrefix(kernel, "timers") {
				return nil
			}
			return []string{node, "--expose-gc", filepath.Join(dir, "kernels.js"), kernel, strconv.Itoa(n)}
		},
	}
}

// addC builds source.c with what pkg-config says about pkg.
func (o *opponents) addC(dir, name, source, pkg string) {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if _, err := exec.LookPath(cc); err != nil {
		o.skip(name, "no C compiler")
		return
	}
	flags, err := exec.Command("pkg-config", "--cflags", "--libs", pkg).Output()
	if err != nil {
		o.skip(name, "not installed (pkg-config "+pkg+")")
		return
	}
	program := filepath.Join(dir, source)
	args := append([]string{"-O2", "-o", program, program + ".c"}, strings.Fields(string(flags))...)
	if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		o.skip(name, "does not compile: "+strings.TrimSpace(string(out)))
		return
	}
	o.byName[name] = opponent{server: func(mode string, delay time.Duration) []string {
		switch mode {
		case modeEcho, modePieces, modeBroadcast, modeDelayed:
			return []string{program, mode, milliseconds(delay)}
		}
		return nil
	}}
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
