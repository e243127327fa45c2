// Package pollpass lets a goroutine that is always busy wait until the scheduler has polled
// the network.
//
// The scheduler polls the network when a processor has nothing else to run, or every ten
// milliseconds. A goroutine that exchanges work with other goroutines keeps the only
// processor of a program busy, and connections that became ready meanwhile wait.
// runtime.Gosched does not help: it queues its caller behind the runnable goroutines, and
// the scheduler polls the network after all of them.
package pollpass
