//go:build !linux

package eventloop_test

import "testing"

func deafPort(t testing.TB, address string) string {
	t.Helper()
	t.Skip("needs an address that does not answer; only on Linux it is known how to make one")
	return ""
}
