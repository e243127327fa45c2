// Package pollpass lets a goroutine that is always busy wait until the scheduler
// has looked at the network.
//
// The scheduler polls the network when a processor has nothing else to run, or every
// ten milliseconds. A goroutine that hands work to others and gets work back from them
// keeps the only processor of a program busy, and connections that became ready
// meanwhile wait. runtime.Gosched does not help: it puts its caller behind the goroutines that can
// run already, and the network comes after all of them.
package pollpass
