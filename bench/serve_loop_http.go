package main

import (
	"context"
	"net"

	"github.com/onloop/eventloop"
)

func init() {
	servers[ours][modeHTTP] = loopHTTPServer
	servers[ours][modeHTTPDelay] = loopHTTPServer
}

var helloHeaders = eventloop.HTTPHeaders{{Name: "Content-Type", Value: "text/plain"}}

// loopHTTPServer is the HTTP server of the library under test.
func loopHTTPServer(cfg *serveConfig, ready func(net.Addr), stop <-chan struct{}) error {
	body := []byte(hello)
	return eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		answer := func(r *eventloop.HTTPRequest) { r.Respond(200, helloHeaders, body) }
		if cfg.mode == modeHTTPDelay {
			answer = func(r *eventloop.HTTPRequest) {
				l.AfterFunc(cfg.delay, func() {
					r.Respond(200, append(helloHeaders, eventloop.HTTPHeader{Name: "Connection", Value: "close"}), body)
				})
			}
		}
		s, err := l.ListenHTTP(cfg.addr, answer, nil)
		if err != nil {
			return err
		}
		go func() {
			<-stop
			l.Stop()
		}()
		ready(s.Addr())
		return nil
	})
}
