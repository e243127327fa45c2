// Package drakma_test has drivers/drakma send requests to nginx, and through it to a server
// whose digest authorization is that of another library.
package drakma_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/drakma"
	"github.com/onloop/eventloop/drivers/e2e/internal/child"
	"github.com/onloop/eventloop/internal/childserver"
	"github.com/onloop/eventloop/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

// watchdogTime is when something that should have ended is taken to hang.
const watchdogTime = 2 * time.Minute

var errNoServer = errors.New("nginx is not installed (apt-get install nginx, or set NGINX)")

func findServer() (string, error) {
	if path := os.Getenv("NGINX"); path != "" {
		return path, nil
	}
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} { // Debian's is not in the PATH of every user
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errNoServer
}

// config is the configuration of nginx. Its arguments are the directory for everything, the
// address, and the address of the server behind nginx.
const config = `daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr;
events { worker_connections 1000; }
http {
	access_log off;
	client_max_body_size 100m;
	client_body_temp_path %[1]s/temp/body;
	proxy_temp_path %[1]s/temp/proxy;
	fastcgi_temp_path %[1]s/temp/fastcgi;
	uwsgi_temp_path %[1]s/temp/uwsgi;
	scgi_temp_path %[1]s/temp/scgi;
	default_type text/plain;
	server {
		listen %[2]s;
		root %[1]s/www;
		location /private/ {
			auth_basic north;
			auth_basic_user_file %[1]s/passwords;
		}
		location /gzip/ {
			gzip on;
			gzip_types text/plain;
		}
		location /koi8/ { charset koi8-r; }
		location /uploads/ {
			dav_methods PUT;
			create_full_put_path on;
		}
		location /old { return 302 /files/small; }
		location ~ ^/number/(.*)$ { return 200 "number $1"; }
		location /busy {
			if (!-f %[1]s/www/ready) {
				add_header Retry-After 1 always;
				return 503;
			}
			return 200 ready;
		}
		location /behind/ {
			proxy_pass http://%[3]s;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
		}
	}
}
`

// A server is an nginx of one test.
type server struct {
	url string
	dir string // of its files
}

// write writes a file that the server has, and returns its path.
func (s *server) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(s.dir, "www", name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

// start starts nginx as a child process on a free port of 127.0.0.1. It passes requests for
// /behind/ to upstream, which may be nil.
func start(t *testing.T, upstream *httptest.Server) *server {
	t.Helper()
	program, err := findServer()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	addr, release, err := childserver.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	behind := "127.0.0.1:9"
	if upstream != nil {
		behind = upstream.Listener.Addr().String()
	}
	s := &server{url: "http://" + addr, dir: t.TempDir()}
	conf := filepath.Join(s.dir, "nginx.conf")
	err = errors.Join(
		os.Mkdir(filepath.Join(s.dir, "www"), 0o755), os.Mkdir(filepath.Join(s.dir, "temp"), 0o700),
		os.WriteFile(conf, fmt.Appendf(nil, config, s.dir, addr, behind), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	cmd := child.Command(program, "-p", s.dir, "-c", conf, "-e", "stderr")
	var out logged
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("nginx: %s", out)
		}
	})
	if err := childserver.Await(cmd, childserver.Listens("tcp", addr)); err != nil {
		t.Fatal(err)
	}
	return s
}

// logged is what a child has written, read when it has ended.
type logged []byte

func (l *logged) Write(p []byte) (int, error) {
	*l = append(*l, p...)
	return len(p), nil
}

// onLoop runs f on a loop with a client of the server, and fails if the loop does not end.
func onLoop(t *testing.T, s *server, opts drakma.Options, f func(ctx context.Context, d *drakma.Client)) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), watchdogTime, errors.New("the loop hangs"))
	defer cancel()
	opts.BaseURL = s.url
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		f(ctx, drakma.New(l, opts))
		return nil
	})
	if err != nil {
		t.Errorf("Run = %v", err)
	}
}

// result runs a loop for one request and returns its result.
func result[T any](t *testing.T, s *server, opts drakma.Options, f func(ctx context.Context, d *drakma.Client) *eventloop.Future[T]) (v T, err error) {
	t.Helper()
	n := 0
	onLoop(t, s, opts, func(ctx context.Context, d *drakma.Client) {
		f(ctx, d).Then(func(got T, e error) { v, err = got, e; n++ })
	})
	if n != 1 {
		t.Fatalf("the future had %d results", n)
	}
	return v, err
}

// must is result for a request that succeeds.
func must[T any](t *testing.T, s *server, f func(ctx context.Context, d *drakma.Client) *eventloop.Future[T]) T {
	t.Helper()
	v, err := result(t, s, drakma.Options{}, f)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}
