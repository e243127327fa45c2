//go:build !unix

package eventloop_test

import "errors"

// limitDescriptors is not possible here.
func limitDescriptors(uint64) error { return errors.ErrUnsupported }
