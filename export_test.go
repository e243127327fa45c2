package eventloop

// AddStats is Stats.add.
var AddStats = (*Stats).add

// LoopName returns the name in the configuration of l.
func LoopName(l *Loop) string { return l.cfg.Name }

// AttendAtOnce has every request attended to that is alone, not only one after some
// others. It must be called before there are loops.
func AttendAtOnce() { attendAfter, attendAgain = 1, 1 }

// AttendAfter is how many requests must have been alone before one is attended to.
func AttendAfter() int { return attendAfter }

// AttendAgain is the same after one that was attended to in vain.
func AttendAgain() int { return attendAgain }
