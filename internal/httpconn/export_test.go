package httpconn

// TakeWhole reads what one read gives, and reports whether that is a whole answer to
// a request with that method. If it is, reading on is an error from then on.
func (c *Conn) TakeWhole(method string) bool {
	c.br.Peek(1)
	c.whole = c.bufferedWhole(method)
	return c.whole
}

// CallWhole makes what one read gives pass for a whole answer.
func (c *Conn) CallWhole() {
	c.br.Peek(1)
	c.whole = true
}
