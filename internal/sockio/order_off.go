//go:build !race && linux

package sockio

func received() {}
func sending()  {}
