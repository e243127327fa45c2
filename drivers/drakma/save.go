package drakma

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/onloop/eventloop"
)

// Save sends the request and writes the body of the response to a file as it arrives. A
// goroutine of the client writes it to a temporary file in the same directory,
// .drakma-*.part. A slow disk slows the server down. When the body is complete and written to
// disk, Save renames the file to path, which replaces an existing file or symbolic link. So
// path always has either the old content or all of the new. The permissions of an existing
// file are kept. After an error the temporary file is removed.
//
// The result is the response, without Body. A status of 400 or more is a [*StatusError], and
// the file at path is unchanged. If path exists and is not a regular file, Save fails. If path is
// empty, Save fails without sending the request.
func (r *Request) Save(path string) *eventloop.Future[*Response] {
	s := &saver{client: r.client, path: path}
	s.call = r.begin(s)
	s.call.check = true
	if path == "" {
		s.call.setError("Save needs a path") // before the body is on the disk
	}
	p := &eventloop.Promise[*Response]{}
	s.call.done = func(res *Response, err error) {
		s.finish(err, func(err error) {
			if err != nil {
				res = nil
			}
			p.Resolve(res, err)
			s.call.leave()
		})
	}
	return launch(s.call, p)
}

// errDisk cancels a request whose file cannot be written. The caller gets the error of the
// file instead.
var errDisk = errors.New("drakma: the file cannot be written")

// A saver is the sink of Save. The loop writes to a pipe, and a function of Work copies from
// the pipe to the file. The function owns the file, so that the file is removed however the
// loop ends.
type saver struct {
	client *Client
	call   *call
	path   string

	pipe *eventloop.PipeWriter       // nil before the head of the response
	file *eventloop.Future[struct{}] // of the function of Work
}

func (s *saver) head(res *Response) {
	w, r := eventloop.NewPipe(s.client.loop, 0)
	s.pipe = w
	w.OnDrain(res.ResumeReading)
	// No context: the function must run, because it handles the end of the pipe.
	s.file = eventloop.WorkOn(context.Background(), s.client.files, func(context.Context) (struct{}, error) {
		defer r.Close()
		return struct{}{}, saveFile(s.path, r)
	})
	file := s.file
	file.Then(func(_ struct{}, err error) {
		if err != nil && s.file == file {
			s.call.cancel(errDisk) // the server may send nothing more
		}
	})
}

func (s *saver) data(res *Response, p []byte) {
	if _, err := s.pipe.Write(p); err != nil {
		s.call.cancel(errDisk) // the function has ended, and closed the pipe
		return
	}
	if s.pipe.NeedDrain() {
		res.PauseReading()
	}
}

// restart discards the data written so far.
func (s *saver) restart(err error) {
	if s.pipe != nil {
		s.pipe.CloseWithError(err)
		s.file.Ignore()
		s.pipe, s.file = nil, nil
	}
}

// finish ends the file, and calls done with the error of the request or of the file.
func (s *saver) finish(err error, done func(error)) {
	if s.pipe == nil {
		done(err)
		return
	}
	s.pipe.CloseWithError(err)
	s.file.Then(func(_ struct{}, e error) {
		if err == nil || errors.Is(err, errDisk) {
			err = e
		}
		done(err)
	})
}

// saveFile writes the content of r to a temporary file and renames it to path.
func saveFile(path string, r io.Reader) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("drakma: %w", err)
		}
	}()
	old, err := os.Stat(path)
	mode := os.FileMode(0o666) // before umask
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	case old.IsDir():
		return &os.PathError{Op: "save", Path: path, Err: syscall.EISDIR}
	case !old.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	default:
		mode = 0o600 // until the file is complete
	}
	// The temporary name does not include the name of path, which may have the maximum length.
	name := filepath.Join(filepath.Dir(path), ".drakma-"+rand.Text()+".part")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil && old != nil {
		err = f.Chmod(old.Mode().Perm())
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		os.Remove(name)
	}
	return err
}
