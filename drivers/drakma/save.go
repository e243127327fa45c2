package drakma

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/onloop/eventloop"
)

// Save sends the request and writes the body of the response to a file, as it arrives. It
// is written to a temporary file in the same directory, by a goroutine of the client's own,
// and the server has to wait when the disk is slow. When the body is whole, and written to
// disk, the file is renamed to path, and replaces one that is there: so path always has
// either the old contents or all of the new. After an error the temporary file is removed.
//
// The result is the response, without Body. A status of 400 or more is a [*StatusError], and
// the file at path stays as it was.
func (r *Request) Save(path string) *eventloop.Future[*Response] {
	s := &saver{client: r.client, path: path}
	s.call = r.begin(s)
	s.call.check = true
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

// errDisk cancels a request whose file cannot be written. The error of the file is what the
// caller gets.
var errDisk = errors.New("drakma: the file cannot be written")

// A saver is the sink of Save. The loop writes to a pipe, and a function of Work copies
// from there to the file, which it owns: so that it is removed however the loop ends.
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
	// No context: the function must run, to see what the pipe ends with.
	s.file = eventloop.WorkOn(context.Background(), s.client.files, func(context.Context) (struct{}, error) {
		defer r.Close()
		return struct{}{}, saveFile(s.path, r)
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

// restart gives up what was written.
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

// saveFile writes what r gives to a temporary file and renames it to path.
func saveFile(path string, r io.Reader) error {
	name := path + "." + rand.Text()[:8] + ".part"
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("drakma: %w", err)
	}
	_, err = io.Copy(f, r)
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
		return fmt.Errorf("drakma: %w", err)
	}
	return nil
}
