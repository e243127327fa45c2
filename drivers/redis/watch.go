package redis

import (
	"errors"

	"github.com/onloop/eventloop"
)

// maxConflicts is the maximum number of attempts of Watch.
const maxConflicts = 100

// Watch runs a transaction that depends on values that it reads, in a task. It watches keys
// and calls f. f reads with s, waits for the results, and adds commands to tx. f must not
// wait for the futures of these commands. Then Watch executes tx. If one of the keys has
// changed in the meantime, it calls f again, and after 100 calls it returns [ErrConflict].
// If f returns an error, Watch executes nothing and returns the error.
//
// Watch uses its own connection. While the server is unreachable, it waits before the first
// call of f, for up to Options.Timeout. If the connection is lost after that, Watch returns
// the error of the command that was pending. The transaction may have been executed only if
// Watch had sent it, which is after the last return of f.
func (c *Client) Watch(t *eventloop.Task, keys []string, f func(s *Session, tx *Tx) error) error {
	s := c.Session()
	defer s.Close()
	for range maxConflicts {
		err := watchOnce(t, s, keys, f)
		if !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return ErrConflict
}

func watchOnce(t *eventloop.Task, s *Session, keys []string, f func(s *Session, tx *Tx) error) error {
	if _, err := s.Watch(t.Context(), keys...).Await(t); err != nil {
		return err
	}
	tx := s.Tx()
	defer tx.Discard()
	if err := f(s, tx); err != nil {
		return err
	}
	_, err := tx.Exec(t.Context()).Await(t)
	return err
}
