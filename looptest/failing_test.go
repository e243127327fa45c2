package looptest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/looptest"
)

// failing are tests that fail. They run in processes of their own.
var failing = map[string]func(t *testing.T){
	"a hold": func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			l.Hold()
			l.Go(t.Context(), sleeper)
			return nil
		}, looptest.Within(time.Hour))
	},
	"no rest": func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			var again func()
			again = func() { l.Post(again) }
			again()
			return nil
		})
	},
	"outside": func(t *testing.T) {
		outside := make(chan struct{})
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			l.Post(func() { <-outside })
			return nil
		})
	},
	"an error": func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error { return errors.New("failed to start") })
	},
	"nested": func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error { return nil })
		})
	},
	"no seeds": func(t *testing.T) { looptest.Seeds(t, 0, lateUse) },
	"seeds":    func(t *testing.T) { looptest.Seeds(t, 40, lateUse) },
	"replay":   func(t *testing.T) { looptest.Replay(t, os.Getenv("TRACE"), lateUse) },
	"fatal": func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error { t.Fatal("gone"); return nil })
	},
	"a script of a server": func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			n := looptest.NewNet(t)
			if err := n.Script("db:1", looptest.Expect("hello"), looptest.Delay(time.Second), looptest.Expect("bye")); err != nil {
				return err
			}
			c, err := l.Dial(t.Context(), "tcp", "db:1", &eventloop.ConnConfig{Dial: n.Dialer("app")})
			if err != nil {
				return err
			}
			c.WriteString("hello\n")
			c.Close()
			return nil
		})
	},
	"a script of a client": func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			n := looptest.NewNet(t)
			n.Latency(time.Hour, time.Hour)
			ln, err := n.Listen("web:80")
			if err != nil {
				return err
			}
			n.ScriptClient("app", "web:80", looptest.Expect("hello"))
			var s *eventloop.Listener
			s, err = l.Serve(ln, &eventloop.ConnConfig{OnConnect: func(c *eventloop.Conn) { c.Abort(); s.Close() }})
			return err
		})
	},
	"a script without a server": func(t *testing.T) {
		looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
			looptest.NewNet(t).ScriptClient("app", "web:80", looptest.Expect("hello"))
			l.AfterFunc(time.Second, func() {})
			return nil
		})
	},
	"no test":        func(*testing.T) { looptest.Run(nil, everySecond) },
	"a T of no test": func(*testing.T) { looptest.Run(new(testing.T), everySecond) },
	"a foreign T":    func(t *testing.T) { looptest.NewNet(t) },
	"panics": func(t *testing.T) {
		for place, f := range panics {
			t.Run(place, func(t *testing.T) { looptest.Run(t, f) })
		}
		t.Run("start of loops", func(t *testing.T) {
			looptest.Loops(t, 2, func(*testing.T, []*eventloop.Loop) error { panic("boom in start of loops") })
		})
		t.Run("second loop", func(t *testing.T) {
			looptest.Loops(t, 2, func(t *testing.T, ls []*eventloop.Loop) error {
				ls[0].Hold()
				return ls[1].Post(func() { panic("boom in second loop") })
			})
		})
		t.Run("work", func(t *testing.T) { // passes: the panic is an error of the future
			looptest.Run(t, func(t *testing.T, l *eventloop.Loop) error {
				work := func(context.Context) (int, error) { panic("boom in work") }
				eventloop.Work(t.Context(), l, work).Then(func(_ int, err error) {
					if pe, ok := errors.AsType[*eventloop.PanicError](err); !ok || pe.Value != "boom in work" {
						t.Errorf("the error is %v", err)
					}
				})
				return nil
			})
		})
	},
	"seeds that panic":  func(t *testing.T) { looptest.Seeds(t, 40, latePanic) },
	"an unclosed timer": func(t *testing.T) { looptest.Run(t, everySecond, looptest.Within(time.Minute)) },
}

// panics are functions with a panic, by its place.
var panics = map[string]func(t *testing.T, l *eventloop.Loop) error{
	"start":    func(*testing.T, *eventloop.Loop) error { panic("boom in start") },
	"callback": func(_ *testing.T, l *eventloop.Loop) error { return l.Post(func() { panic("boom in callback") }) },
	"timer": func(_ *testing.T, l *eventloop.Loop) error {
		l.AfterFunc(time.Second, func() { panic("boom in timer") })
		l.Hold()
		return nil
	},
	"task": func(t *testing.T, l *eventloop.Loop) error {
		l.Go(t.Context(), func(task *eventloop.Task) error {
			task.Sleep(time.Second)
			panic("boom in task")
		})
		return nil
	},
	"call": func(t *testing.T, l *eventloop.Loop) error {
		go eventloop.Call(t.Context(), l, func() (int, error) { panic("boom in call") })
		l.Hold()
		return nil
	},
	"exit": func(_ *testing.T, l *eventloop.Loop) error {
		l.OnExit(func() { panic("boom in exit") })
		return nil
	},
}

func sleeper(t *eventloop.Task) error { return t.Sleep(24 * time.Hour) }

func everySecond(t *testing.T, l *eventloop.Loop) error {
	l.Every(time.Second, func() {})
	return nil
}

// lateUse fails when the first of four messages, which arrive together, is not the
// first that is handled.
func lateUse(t *testing.T, l *eventloop.Loop) error {
	return disordered(t, l, func(got string) { t.Errorf("wrong order: %s", got) })
}

// latePanic is lateUse with a panic.
func latePanic(t *testing.T, l *eventloop.Loop) error {
	return disordered(t, l, func(got string) { panic("wrong order: " + got) })
}

func disordered(t *testing.T, l *eventloop.Loop, fail func(got string)) error {
	var got string
	for _, m := range []string{"a", "b", "c", "d"} {
		x, _, err := looptest.Pipe(t, l,
			&eventloop.ConnConfig{OnData: discard},
			&eventloop.ConnConfig{OnData: func(c *eventloop.Conn, p []byte) {
				got += string(p)
				c.Close()
			}})
		if err != nil {
			return err
		}
		x.Write([]byte(m))
	}
	l.OnExit(func() {
		if strings.Index(got, "d") < strings.Index(got, "a") && got[0] == 'b' {
			fail(got)
		}
	})
	return nil
}

func TestFailing(t *testing.T) {
	for name, f := range failing {
		if os.Getenv("FAILING") == name {
			f(t)
		}
	}
}

// output runs a failing test and returns what it prints.
func output(t *testing.T, name string, env ...string) string {
	t.Helper()
	count := "1"
	for _, v := range env {
		if n, ok := strings.CutPrefix(v, "COUNT="); ok {
			count = n
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestFailing$", "-test.timeout=9m", "-test.count="+count)
	cmd.Env = append(os.Environ(), "FAILING="+name)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("the test %q passes:\n%s", name, out)
	}
	return string(out)
}

func TestAFailureSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		env  []string
		want []string
	}{
		{"a hold", nil, []string{"have not ended after 1h0m0s", "loop 0: hold", "task", "looptest_test.sleeper", "seed 1"}},
		{"an unclosed timer", nil, []string{"have not ended after 1m0s", "interval"}},
		{"lookups", nil, []string{"may repeat it", "the seed does not determine all", "0s  net  dial from client>dns:53\n"}},
		{"goroutines", nil, []string{"may repeat it", "the seed does not determine all", "0s  loop  post from a goroutine repeat_test.go:"}},
		{"a script of a server", nil, []string{`script of db:1: connection 1: step 3: expected "bye", got "" and EOF`}},
		{"a script of a client", nil, []string{`script of app to web:80: dial: the loops have already ended: dial tcp web:80`}},
		{"a script without a server", nil, []string{`script of app to web:80: dial: dial tcp web:80: connect: connection refused`}},
		{"no test", nil, []string{"panic: looptest: called outside of a test"}},
		{"a T of no test", nil, []string{"panic: looptest: called outside of a test"}},
		{"no rest", nil, []string{"do not come to rest", "# the last 100 of ", "the whole trace is in " + os.TempDir()}},
		{"outside", nil, []string{"outside its bubble", "chan receive", "failing_test.go"}},
		{"an error", nil, []string{"failed to start"}},
		{"nested", nil, []string{"cannot be nested"}},
		{"no seeds", nil, []string{"0 seeds"}},
		{"seeds", []string{"LOOPTEST_SEED=-1"}, []string{`"-1" is not a valid seed`}},
		{"replay", []string{"TRACE=nonsense"}, []string{"line 1 of the trace is not an event"}},
		{"replay", []string{"TRACE=soon  loop  x  [1 of 2]"}, []string{"line 1 of the trace has an invalid time"}},
		{"replay", []string{"TRACE=1ms  loop  x  [1 of 2]"}, []string{`departs from line 1 of the trace: recorded: "x" of "loop"; ready: "`}},
		{"seeds", nil, []string{"no trace, because 3 earlier seeds have logged theirs"}},
		{"replay", []string{"TRACE="}, []string{"the trace ends before the run"}},
		{"fatal", nil, []string{"gone", "post"}},
		{"a foreign T", nil, []string{"not the *testing.T of a function that looptest called"}},
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, test := range tests {
		wg.Go(func() {
			out := output(t, test.name, test.env...)
			if m := savedTrace.FindStringSubmatch(out); m != nil {
				defer os.Remove(m[1])
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("%s: want %q in:\n%s", test.name, want, out)
				}
			}
		})
	}
}

var (
	failedSeed = regexp.MustCompile(`LOOPTEST_SEED=(\d+) repeats it; trace:\n((?: +\d\S*s  .*\n)+)`)
	savedTrace = regexp.MustCompile(`the whole trace is in (\S+)`)
	wrongOrder = regexp.MustCompile(`wrong order: (\w+)`)
	shrunk     = regexp.MustCompile(`trace after shrinking it in \d+ runs:\n((?: +\d\S*s  .*\n)+)`)
)

func TestAFailingSeedIsRepeatedByItsNumberAndByItsTrace(t *testing.T) {
	t.Parallel()
	all := output(t, "seeds")
	m := failedSeed.FindStringSubmatch(all)
	if m == nil {
		t.Fatalf("no seed fails:\n%s", all)
	}
	seed, trace := m[1], m[2]
	alone := output(t, "seeds", "LOOPTEST_SEED="+seed)
	again := failedSeed.FindStringSubmatch(alone)
	if again == nil || again[1] != seed || again[2] != trace {
		t.Errorf("seed %s fails with\n%s\nand alone with\n%s", seed, trace, alone)
	}
	replayed := output(t, "replay", "TRACE="+trace)
	want, got := wrongOrder.FindString(alone), wrongOrder.FindString(replayed)
	if want == "" || got != want || strings.Contains(replayed, "departs") {
		t.Errorf("the replay says %q, want %q:\n%s", got, want, replayed)
	}
	longer := output(t, "replay", "TRACE="+trace+"  1ms  loop  more  [1 of 2]\n")
	if !strings.Contains(longer, `the run ends before line`) {
		t.Errorf("a trace that goes on is accepted:\n%s", longer)
	}
}

func TestAPanicFailsItsTestAndLogsHowToRepeatIt(t *testing.T) {
	t.Parallel()
	out := output(t, "panics")
	places := []string{"start of loops", "second loop"}
	for place := range panics {
		places = append(places, place)
	}
	for _, place := range places {
		_, test, found := strings.Cut(out, "--- FAIL: TestFailing/"+strings.ReplaceAll(place, " ", "_")+" ")
		test, _, _ = strings.Cut(test, "--- ")
		if !found || strings.Count(test, "boom in "+place) != 1 || !strings.Contains(test, "failing_test.go:") ||
			!strings.Contains(test, "seed 1, policy") || !strings.Contains(test, "repeats it; trace:") {
			t.Errorf("%s: the test logs\n%s", place, test)
		}
	}
	if strings.Contains(out, "TestFailing/work") || t.Failed() {
		t.Errorf("the whole output is\n%s", out)
	}
}

func TestASeedThatPanicsIsNamedAndShrunk(t *testing.T) {
	t.Parallel()
	all := output(t, "seeds that panic")
	m := failedSeed.FindStringSubmatch(all)
	if m == nil || !strings.Contains(all, "--- FAIL: TestFailing/seed="+m[1]+" ") {
		t.Fatalf("no seed is named:\n%s", all)
	}
	if n := strings.Count(all, "--- FAIL: TestFailing/seed="); n < 2 {
		t.Errorf("%d seeds fail; the first ends the others:\n%s", n, all)
	}
	out := output(t, "seeds that panic", "LOOPTEST_SEED="+m[1], "LOOPTEST_SHRINK=20s")
	if !shrunk.MatchString(out) {
		t.Errorf("nothing was shrunk:\n%s", out)
	}
}

func TestAFailingTraceShrinksAndStillFails(t *testing.T) {
	t.Parallel()
	m := failedSeed.FindStringSubmatch(output(t, "seeds"))
	if m == nil {
		t.Fatal("no seed fails")
	}
	out := output(t, "seeds", "LOOPTEST_SEED="+m[1], "LOOPTEST_SHRINK=20s")
	s := shrunk.FindStringSubmatch(out)
	if s == nil {
		t.Fatalf("nothing was shrunk:\n%s", out)
	}
	replayed := output(t, "replay", "TRACE="+s[1])
	if !wrongOrder.MatchString(replayed) || strings.Contains(replayed, "departs") {
		t.Errorf("the shorter trace does not fail:\n%s\n%s", s[1], replayed)
	}
	t.Logf("from\n%s\nto\n%s", m[2], s[1])
}
