package eventloop_test

import (
	"testing"

	"github.com/onloop/eventloop"
)

func TestConfigsAreCopiedAndMayBeNil(t *testing.T) {
	cfg := &eventloop.HTTPClientConfig{UserAgent: "first"}
	got := map[string]string{}
	mustRun(t, &eventloop.Config{HTTPClient: cfg}, func(l *eventloop.Loop) {
		clients := map[string]*eventloop.HTTPClient{
			"NewHTTPClient": eventloop.NewHTTPClient(l, cfg), "nil": eventloop.NewHTTPClient(l, nil), "Config": l.HTTP(),
		}
		cfg.UserAgent = "second"
		s, err := l.ListenHTTP("127.0.0.1:0", func(r *eventloop.HTTPRequest) { r.RespondText(200, r.Header("User-Agent")) }, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range clients {
			c.Get(bg, "http://"+s.Addr().String()).Then(func(res *eventloop.HTTPResponse, err error) {
				if err != nil {
					t.Fatal(err)
				}
				if got[name] = string(res.Body); len(got) == len(clients) {
					s.Close()
				}
			})
		}
	})
	wantEqual(t, "User-Agent of NewHTTPClient", got["NewHTTPClient"], "first")
	wantEqual(t, "User-Agent of Config.HTTPClient", got["Config"], "first")
	wantEqual(t, "User-Agent of a nil config", got["nil"], "eventloop")
}
