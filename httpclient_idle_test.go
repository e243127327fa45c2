package eventloop_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/netcore"
)

// Idle connections of a client are parked, serve further requests of any kind and with any
// outcome, and are closed as soon as the server ends them.
func TestIdleConnectionsOfAnHTTPClientAreParked(t *testing.T) {
	l, _ := startLoop(t, nil)
	hasten(t)
	const n = 20
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	arrived, response, quit := make(chan struct{}, n), make(chan struct{}), make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/together":
			arrived <- struct{}{}
			<-response
		case "/never":
			select {
			case <-r.Context().Done():
			case <-quit:
			}
		}
		io.Copy(w, r.Body)
	})}
	served := background(t, func() { srv.Serve(ln) })
	url := "http://" + ln.Addr().String()
	before := runtime.NumGoroutine()
	together := func() {
		t.Helper()
		var all []*eventloop.Future[*eventloop.HTTPResponse]
		for range n {
			all = append(all, l.HTTP().Get(context.Background(), url+"/together"))
		}
		for range n {
			wait(t, arrived, "request")
		}
		for range n {
			response <- struct{}{}
		}
		for _, f := range all {
			if _, err := await(t, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	together()
	awaitParked(t, l, n)
	// The server has one goroutine for each; n more would be those of the client.
	if !eventually(func() bool { return runtime.NumGoroutine()-before < n+n/2 }) && parks {
		t.Errorf("there are %d goroutines more for %d connections", runtime.NumGoroutine()-before, n)
	}
	together()
	awaitParked(t, l, n)
	wantEqual(t, "ReusedTotal", l.Stats().HTTPClient.ReusedTotal, n)

	res, err := await(t, l.HTTP().Do(context.Background(), "POST", url, &eventloop.HTTPOptions{BodyReader: strings.NewReader("hello")}))
	if err != nil || string(res.Body) != "hello" {
		t.Errorf("the response is %v, %v", res, err)
	}
	awaitParked(t, l, n)
	if _, err := await(t, l.HTTP().Do(context.Background(), "GET", url+"/never", &eventloop.HTTPOptions{Timeout: time.Second})); !errors.Is(err, eventloop.ErrTimeout) {
		t.Errorf("a request that is not answered ends with %v, want a timeout", err)
	}
	awaitParked(t, l, n-1)
	ctx, cancel := context.WithCancel(context.Background())
	f := l.HTTP().Get(ctx, url+"/never")
	cancel()
	if _, err := await(t, f); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that is canceled ends with %v", err)
	}
	close(quit)
	srv.Close()
	<-served
	awaitParked(t, l, 0)
	if !eventually(func() bool { return l.Stats().Loop.Handles == 1 }) { // the Hold of the test
		t.Errorf("connections that the server has ended are kept:\n%s", handleNames(l))
	}
}

// A connection is parked when its first request is over, without waiting for a sweep: a
// client that opens many connections does not have as many goroutines at a time.
func TestAConnectionOfAnHTTPClientIsParkedAfterItsFirstRequest(t *testing.T) {
	t.Cleanup(netcore.Hasten(25*time.Second, time.Hour)) // no sweep comes in time
	l, _ := startLoop(t, nil)
	client := l.HTTP()
	srv := servePeers(t)
	ask := func() *eventloop.Future[*eventloop.HTTPResponse] {
		return client.Get(context.Background(), "http://"+srv.addr())
	}
	respond := func(peer net.Conn, f *eventloop.Future[*eventloop.HTTPResponse]) {
		t.Helper()
		peer.Read(make([]byte, 1000))
		io.WriteString(peer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if _, err := await(t, f); err != nil {
			t.Error(err)
		}
	}
	first := ask()
	peer := srv.next(t)
	respond(peer, first)
	awaitParked(t, l, 1)
	respond(peer, ask()) // it goes on
	client.CloseIdle()
}

func TestTheEndOfALoopEndsParkedConnectionsOfAnHTTPClient(t *testing.T) {
	hasten(t)
	srv := servePeers(t)
	mustRun(t, nil, func(l *eventloop.Loop) {
		f := l.HTTP().Get(context.Background(), "http://"+srv.addr())
		peer := srv.next(t)
		background(t, func() {
			peer.Read(make([]byte, 1000))
			io.WriteString(peer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			if _, err := await(t, f); err != nil {
				t.Error(err)
			}
			awaitParked(t, l, 1)
			l.Stop()
		})
		l.Hold()
	})
}
