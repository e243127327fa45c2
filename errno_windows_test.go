package eventloop_test

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/onloop/eventloop"
	"golang.org/x/sys/windows"
)

// Package syscall invents its own numbers for the names that programs use.
func TestErrorsOfWinsockHaveTheNumbersOfPackageSyscall(t *testing.T) {
	for code, named := range map[syscall.Errno]syscall.Errno{
		windows.WSAECONNREFUSED: syscall.ECONNREFUSED,
		windows.WSAECONNRESET:   syscall.ECONNRESET,
		windows.WSAECONNABORTED: syscall.ECONNABORTED,
		windows.WSAEADDRINUSE:   syscall.EADDRINUSE,
		windows.WSAEACCES:       syscall.EACCES,
		windows.WSAETIMEDOUT:    syscall.ETIMEDOUT,
		windows.WSAEHOSTUNREACH: syscall.EHOSTUNREACH,
		windows.WSAEMFILE:       syscall.EMFILE,
	} {
		cause := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connectex", code)}
		err := &eventloop.OpError{Op: "dial", Net: "tcp", Err: cause}
		wantEqual(t, "Errno", eventloop.Errno(err), int(named))
		wantEqual(t, "Errno of the cause", eventloop.Errno(cause), int(named))
		for _, target := range []error{code, named} {
			if !errors.Is(err, target) {
				t.Errorf("%v does not match %v", err, target)
			}
		}
		if errors.Is(err, syscall.EPIPE) {
			t.Errorf("%v matches EPIPE", err)
		}
		wantEqual(t, "timeout", errors.Is(err, eventloop.ErrTimeout), named == syscall.ETIMEDOUT)
	}
}
