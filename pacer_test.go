package eventloop_test

import (
	"testing"
	"time"

	"github.com/onloop/eventloop"
)

func TestPacerLearnsWhenToYield(t *testing.T) {
	const (
		short = eventloop.ShortSleep - 1
		long  = eventloop.ShortSleep
	)
	type sleep struct {
		took    time.Duration
		more    bool // after a yield
		bulk    int  // bytes received in the turn before
		repeat  int  // how often; 0: once
		yielded bool // want
	}
	for _, test := range []struct {
		name   string
		sleeps []sleep // one after the other, each ended by a task
	}{
		{"long sleeps", []sleep{{took: long, repeat: 10}}},
		{"a short sleep, and the one after it", []sleep{{took: short}, {took: long, more: true, yielded: true}}},
		{"yields that bring tasks, however long the sleeps", []sleep{{took: short}, {took: long, more: true, repeat: 100, yielded: true}}},
		{"yields that bring nothing, up to the last one", []sleep{
			{took: short}, {took: short, repeat: eventloop.MaxMisses, yielded: true}, {took: long}, {took: long},
		}},
		{"yields that bring nothing, but for one", []sleep{
			{took: short}, {took: short, repeat: eventloop.MaxMisses - 1, yielded: true}, {took: short, more: true, yielded: true},
			{took: short, repeat: eventloop.MaxMisses, yielded: true}, {took: long}, {took: long},
		}},
		{"much data", []sleep{
			{took: short}, {took: short, bulk: eventloop.Bulk, more: true, yielded: true}, {took: long}, {took: short}, {took: long, more: true, yielded: true},
		}},
		{"chunks just below the limit", []sleep{{took: short}, {took: short, bulk: eventloop.Bulk - 1, more: true, yielded: true}, {took: short, more: true, yielded: true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var p eventloop.Pacer
			for i, s := range test.sleeps {
				for range max(s.repeat, 1) {
					p.BeginTurn(false)
					p.Received(s.bulk)
					wantEqual(t, "mayWrite", p.MayWrite(), s.bulk < eventloop.Bulk)
					yielded := p.AfterWake(true)
					wantEqual(t, "yield", yielded, s.yielded)
					if yielded != s.yielded {
						t.Fatalf("at sleep %d", i)
					}
					p.EndSleep(s.took, yielded, s.more)
				}
			}
		})
	}
}

func TestPacerDoesNotYieldAfterAWakeUpWithoutATask(t *testing.T) {
	var p eventloop.Pacer
	p.EndSleep(0, false, false)
	wantEqual(t, "yield after a timer", p.AfterWake(false), false)
	wantEqual(t, "yield after a task", p.AfterWake(true), true)
}

func TestPacerYieldsOnceBeforeItSleepsAfterPosts(t *testing.T) {
	var p eventloop.Pacer
	p.BeginTurn(true)
	wantEqual(t, "yield in the initial state", p.BeforeSleep(), false)
	p.EndSleep(0, false, false)
	p.BeginTurn(true)
	wantEqual(t, "yield after posts", p.BeforeSleep(), true)
	wantEqual(t, "yield again", p.BeforeSleep(), false)
	p.BeginTurn(false)
	wantEqual(t, "yield after a turn without posts", p.BeforeSleep(), false)
}

func TestPacerPassesAfterManyTurnsAndEarlierAfterManyTasks(t *testing.T) {
	const tasks = eventloop.PassEvery / eventloop.TaskWeight
	for _, test := range []struct {
		name        string
		posts, task int // per turn
		turns       int // from one pass to the next
	}{
		{"turns with nothing", 0, 0, eventloop.PassEvery},
		{"a post per turn", 1, 0, eventloop.PassEvery},
		{"many posts per turn", 256, 0, eventloop.PassEvery},
		{"a task per turn", 0, 1, eventloop.PassEvery/(eventloop.TaskWeight+1) + 1},
		{"all tasks in one turn", 0, tasks, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var p eventloop.Pacer
			for turn := 1; turn <= 3*test.turns; turn++ {
				for range test.posts {
					p.Called(false)
				}
				for range test.task {
					p.Called(true)
				}
				if pass, want := p.BeginTurn(false), turn%test.turns == 0; pass != want {
					t.Fatalf("turn %d: pass = %v, want %v", turn, pass, want)
				}
			}
		})
	}
}

func TestPacerReleasesOutputEveryFewCallbacksOfATurn(t *testing.T) {
	var p eventloop.Pacer
	for range 3 { // turns; output is also released at the end of a turn
		p.BeginTurn(true)
		for n := 1; n < 3*eventloop.ReleaseEvery; n++ {
			wantEqual(t, "release", p.Called(n%2 == 0), n%eventloop.ReleaseEvery == 0)
		}
	}
}
