package eventloop_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/onloop/eventloop"
)

// BenchmarkRoundTripper compares the RoundTripper of the loop with http.Transport, by
// requests on kept connections, with so many of them in flight at any time. With
// ROUNDTRIPPER_URL the server is another process, whose CPU time does not count.
func BenchmarkRoundTripper(b *testing.B) {
	for _, inFlight := range []int{1, 32, 256} {
		for _, method := range []string{"GET", "POST"} {
			for _, name := range []string{"loop", "nethttp"} {
				b.Run(fmt.Sprintf("inflight=%d/method=%s/transport=%s", inFlight, method, name), func(b *testing.B) {
					url := os.Getenv("ROUNDTRIPPER_URL")
					if url == "" {
						url = benchServer(b)
					}
					b.ReportAllocs()
					if name == "nethttp" {
						rt := &http.Transport{MaxIdleConnsPerHost: inFlight}
						benchTrips(b, rt, method, url, inFlight)
						rt.CloseIdleConnections()
						return
					}
					l := eventloop.New(nil)
					release := l.Hold()
					running, ended := make(chan struct{}), make(chan error)
					l.Post(func() { close(running) })
					go func() { ended <- l.Run(bg) }()
					<-running
					benchTrips(b, l.HTTP().RoundTripper(), method, url, inFlight)
					release()
					if err := <-ended; err != nil {
						b.Error(err)
					}
				})
			}
		}
	}
}

func benchTrips(b *testing.B, rt http.RoundTripper, method, url string, inFlight int) {
	body := strings.Repeat("x", 200)
	before := cpuTime()
	benchGoroutines(b, inFlight, func() error {
		var r io.Reader
		if method == "POST" {
			r = strings.NewReader(body)
		}
		req, err := http.NewRequest(method, url, r)
		if err != nil {
			return err
		}
		res, err := rt.RoundTrip(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if err == nil && len(got) != len(answer) {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}
