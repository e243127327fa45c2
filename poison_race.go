//go:build race

package eventloop

// poisons says that poison does something.
const poisons = true

// poison overwrites p, which a callback was given and must not have kept: with the race
// detector a program that reads it later sees that at once, and a goroutine that reads
// it is reported.
func poison(p []byte) {
	for i := range p {
		p[i] = 0xDB
	}
}
