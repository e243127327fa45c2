package redis

import (
	"errors"

	"github.com/onloop/eventloop"
)

// maxConflicts is how often Watch begins anew.
const maxConflicts = 100

// Watch runs a transaction that depends on what it reads, in a task. It watches keys and
// calls f, which reads with s, waits for what it reads, and adds commands to tx, for
// whose futures it must not wait. Then
// Watch executes tx. If one of the keys has changed meanwhile, it calls f again, up to 100
// times; then it returns [ErrConflict]. If f returns an error, Watch executes nothing and
// returns the error.
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
