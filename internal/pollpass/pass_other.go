//go:build !linux

package pollpass

import "runtime"

// A Passer is for one goroutine. The zero Passer is ready for use.
type Passer struct{}

// Pass lets other runnable goroutines run.
func (p *Passer) Pass() { runtime.Gosched() }

// Close does nothing.
func (p *Passer) Close() {}
