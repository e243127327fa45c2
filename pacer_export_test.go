package eventloop

import "time"

// A Pacer is the pacer of a dispatcher.
type Pacer struct{ p pacer }

func (p *Pacer) BeginTurn(posted bool) (pass bool)               { return p.p.beginTurn(posted) }
func (p *Pacer) Called(task bool) (release bool)                 { return p.p.called(task) }
func (p *Pacer) Received(n int)                                  { p.p.received(n) }
func (p *Pacer) MayWrite() bool                                  { return p.p.mayWrite() }
func (p *Pacer) BeforeSleep() (yield bool)                       { return p.p.beforeSleep() }
func (p *Pacer) AfterWake(task bool) (yield bool)                { return p.p.afterWake(task) }
func (p *Pacer) EndSleep(took time.Duration, yielded, more bool) { p.p.endSleep(took, yielded, more) }

const (
	ShortSleep   = shortSleep
	MaxMisses    = maxMisses
	Bulk         = bulk
	PassEvery    = passEvery
	TaskWeight   = taskWeight
	ReleaseEvery = releaseEvery
)
