package netcore

import (
	"context"
	"crypto/tls"
	"io"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A wait that may be parked ends at its deadline: never early, and never much later,
// wherever the deadline lies, whatever resumes the connection before, and also when the
// deadline is set, or set anew, while the connection waits or is parked.
func TestAWaitThatMayBeParkedEndsAtItsDeadline(t *testing.T) {
	const sweep = 4 * time.Millisecond
	defer Hasten(sweep, 0)()
	// On both sides of what a sweep takes, of when a connection is resumed before its
	// deadline, of when parking is worth it, and of when it is quiet.
	edges := []time.Duration{0, sweep, 2 * sweep, 3 * sweep, (quietSweeps + 1) * sweep, (quietSweeps + 3) * sweep, 20 * sweep}
	deadline := rapid.Custom(func(t *rapid.T) time.Duration {
		return max(rapid.SampledFrom(edges).Draw(t, "edge")+time.Duration(rapid.IntRange(-1000, 1000).Draw(t, "offset"))*time.Microsecond, 0)
	})
	type step struct {
		after time.Duration
		what  string
		until time.Duration // of the new deadline, from then on; for "set"
	}
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			time.Duration(rapid.IntRange(0, 40).Draw(t, "after")) * time.Millisecond / 2,
			rapid.SampledFrom([]string{"wake", "bytes", "set"}).Draw(t, "what"),
			deadline.Draw(t, "until"),
		}
	}), 0, 4)
	rapid.Check(t, func(rt *rapid.T) {
		k := rapid.SampledFrom(parkable()).Draw(rt, "kind")
		secured := rapid.Bool().Draw(rt, "TLS")
		first := deadline.Draw(rt, "deadline")
		script := steps.Draw(rt, "steps")

		nc, peer := k.pair(t)
		defer nc.Close()
		defer peer.Close()
		c := newIdler(t, nc, k.ours)
		if secured {
			tc := tls.Client(peer, clientTLS())
			shaken := make(chan error, 1)
			go func() { shaken <- tc.Handshake() }()
			if err := c.secure(context.Background(), serverTLS(), false, ""); err != nil {
				rt.Fatal(err)
			}
			if err := <-shaken; err != nil {
				rt.Fatal(err)
			}
			peer = tc
		}
		go io.Copy(io.Discard, peer)
		at := time.Now().Add(first)
		c.SetReadDeadline(at)
		c.Start()
		ended := false
		var err error
		for _, s := range script {
			select {
			case err = <-c.ended:
				ended = true
			case <-time.After(s.after):
			}
			if ended {
				break
			}
			switch s.what {
			case "wake":
				c.Wake()
			case "bytes":
				io.WriteString(peer, "x")
			default:
				// The wait may end by the old deadline until the new one is set.
				next := time.Now().Add(s.until)
				c.SetReadDeadline(next)
				c.WakeForDeadline()
				if next.Before(at) || time.Now().Before(at) {
					at = next
				}
			}
		}
		if !ended {
			select {
			case err = <-c.ended:
			case <-time.After(time.Until(at) + watchdog):
				rt.Fatalf("it still waits %v after its deadline", watchdog)
			}
		}
		early := time.Until(at)
		c.abort()
		if !isTimeout(err) || early > 0 {
			rt.Fatalf("it ends with %v, %v before its deadline", err, early)
		}
	})
}
