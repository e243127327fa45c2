package looptest

import (
	"bytes"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// outsideAfter is the real time after which watch examines a test that makes no progress.
const outsideAfter = time.Second

// watch ends the process with an explanation if a goroutine of the bubble blocks on
// something outside the bubble. Time then stands still, and nothing else can end the test.
// watch runs outside the bubble, in real time. It ignores goroutines that compute.
func watch(c *conductor) (stop func()) {
	quit := make(chan struct{})
	go func() {
		tick := time.NewTicker(outsideAfter)
		defer tick.Stop()
		last := int64(-1)
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			rests := c.resting.Load()
			if bubble := c.bubble.Load(); bubble != nil && rests == last {
				if stacks := blockedOutside(*bubble); stacks != "" {
					panic("looptest: the test blocks on something outside its bubble, so virtual time cannot advance:\n" + stacks)
				}
			}
			last = rests
		}
	}()
	return func() { close(quit) }
}

// bubbleOf returns the name of the caller's bubble in stack traces, or "" if there is none.
func bubbleOf() string {
	buf := make([]byte, 256)
	buf = buf[:runtime.Stack(buf, false)]
	if m := bubbleName.Find(buf); m != nil {
		return string(m)
	}
	return ""
}

var (
	bubbleName = regexp.MustCompile(`synctest bubble \d+`)
	stackState = regexp.MustCompile(`^goroutine \d+ (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[([^\],]*)`)
)

// stacksOf returns the stacks of those goroutines in bubble for which keep returns true.
func stacksOf(bubble string, keep func(state, stack string) bool) string {
	if bubble == "" {
		return ""
	}
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) || len(buf) >= 64<<20 {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var found []string
	for stack := range bytes.SplitSeq(buf, []byte("\n\n")) {
		head, _, _ := bytes.Cut(stack, []byte("\n"))
		m := stackState.FindSubmatch(head)
		if m == nil || string(bubbleName.Find(head)) != bubble || !keep(string(m[1]), string(stack)) {
			continue
		}
		found = append(found, string(stack))
	}
	return strings.Join(found, "\n\n")
}

func bubbleStacks(keep func(state, stack string) bool) string { return stacksOf(bubbleOf(), keep) }

// isTask reports whether stack belongs to a suspended task.
func isTask(state, stack string) bool {
	return strings.HasPrefix(state, "coroutine") && strings.Contains(stack, "eventloop.(*Task).")
}

// blockedOutside returns the stacks of the goroutines that synctest.Wait waits for and that
// are not running.
func blockedOutside(bubble string) string {
	return stacksOf(bubble, func(state, stack string) bool {
		switch {
		case strings.Contains(state, "(durable)"), strings.HasPrefix(state, "coroutine"),
			strings.HasPrefix(state, "running"), strings.HasPrefix(state, "runnable"),
			strings.HasPrefix(state, "synctest."):
			return false
		}
		return true
	})
}
