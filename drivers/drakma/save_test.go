package drakma

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/onloop/eventloop"
)

// save saves what a server sends to path.
func save(t *testing.T, path string) error {
	t.Helper()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "new") })
	_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] { return d.Get(ctx, s.URL).Save(path) })
	return err
}

// The name of the temporary file must not be longer than that of the file may be.
func TestSaveToAFileWithALongName(t *testing.T) {
	dir, name := t.TempDir(), strings.Repeat("a", 255)
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		t.Skip("the file system does not have names of 255 bytes: ", err)
	}
	equal(t, "the error", save(t, filepath.Join(dir, name)), nil)
	equal(t, "the directory", files(t, dir), name+"=new")
}

// A file keeps its permissions: what only its owner may read stays so.
func TestSaveKeepsTheModeOfTheFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no such modes on Windows")
	}
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(plain)
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]os.FileMode{0: info.Mode(), 0o600: 0o600, 0o666: 0o666, 0o755: 0o755, 0o444: 0o444} {
		path := filepath.Join(dir, mode.String())
		if mode != 0 {
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, mode)); err != nil {
				t.Fatal(err)
			}
		}
		if err := save(t, path); err != nil {
			t.Error(err)
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "the mode for "+mode.String(), info.Mode(), want)
	}
}

// The body is not read if it could not be saved.
func TestSaveToADirectoryIsAnErrorAtOnce(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begin")
		w.(http.Flusher).Flush()
		<-r.Context().Done() // which is the end of the request
	})
	dir := filepath.Join(t.TempDir(), "d")
	os.Mkdir(dir, 0o700)
	_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] { return d.Get(ctx, s.URL).Save(dir) })
	if !errors.Is(err, syscall.EISDIR) {
		t.Errorf("the error is %v", err)
	}
	equal(t, "what is left", files(t, filepath.Dir(dir)), "d=")
}

func TestSaveWithoutAPathSendsNothing(t *testing.T) {
	requests := 0
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { requests++ })
	_, err := result(t, Options{}, func(ctx context.Context, d *Client) *eventloop.Future[*Response] { return d.Get(ctx, s.URL).Save("") })
	if err == nil || err.Error() != "drakma: Save needs a path" {
		t.Errorf("the error is %v", err)
	}
	equal(t, "requests", requests, 0)
}
