package smtp

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// An Auth authenticates the client (RFC 4954). [Plain], [Login] and [Password] return
// one. An application can implement other mechanisms. The client calls the function on
// the loop, once per session, with the mechanisms that the server offers, in upper case.
// The function must not block. It returns the mechanism to use and a respond function.
// The client calls respond with nil for the initial response (a nil result: there is
// none), and then with each challenge of the server. An error ends the session and
// matches [ErrAuth].
type Auth func(offered []string) (mechanism string, respond func(challenge []byte) ([]byte, error), err error)

// Plain is the mechanism PLAIN (RFC 4616).
func Plain(user, password string) Auth {
	return func(offered []string) (string, func([]byte) ([]byte, error), error) {
		if err := checkOffered(offered, "PLAIN"); err != nil {
			return "", nil, err
		}
		if strings.Contains(user+password, "\x00") {
			return "", nil, errors.New("user or password with NUL")
		}
		return "PLAIN", answers("\x00" + user + "\x00" + password), nil
	}
}

// Login is the mechanism LOGIN, for servers that do not offer PLAIN.
func Login(user, password string) Auth {
	return func(offered []string) (string, func([]byte) ([]byte, error), error) {
		if err := checkOffered(offered, "LOGIN"); err != nil {
			return "", nil, err
		}
		give := answers(user, password)
		return "LOGIN", func(challenge []byte) ([]byte, error) {
			if challenge == nil {
				return nil, nil // the server requests the user with a challenge
			}
			return give(challenge)
		}, nil
	}
}

// Password uses PLAIN if the server offers it, else LOGIN.
func Password(user, password string) Auth {
	return func(offered []string) (string, func([]byte) ([]byte, error), error) {
		if slices.Contains(offered, "PLAIN") {
			return Plain(user, password)(offered)
		}
		return Login(user, password)(offered)
	}
}

func checkOffered(offered []string, mechanism string) error {
	if !slices.Contains(offered, mechanism) {
		return fmt.Errorf("the server does not offer %s, but %q", mechanism, offered)
	}
	return nil
}

// answers returns a function that returns its arguments in turn.
func answers(list ...string) func(challenge []byte) ([]byte, error) {
	return func([]byte) ([]byte, error) {
		if len(list) == 0 {
			return nil, errors.New("the server sent more challenges than the mechanism has responses")
		}
		a := list[0]
		list = list[1:]
		return []byte(a), nil
	}
}
