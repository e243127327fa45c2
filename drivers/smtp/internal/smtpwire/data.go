package smtpwire

import "bytes"

// A Stuffer converts a mail to the form in which DATA sends it (RFC 5321, section
// 4.5.2). A line that begins with a dot gets a second dot, so that no line of the mail
// can end the mail.
//
// CR, LF and CRLF all become CRLF. Some servers also accept a bare CR or LF as the end of a
// line. For such a server, a mail with a bare CR or LF could end early and inject commands.
//
// The zero Stuffer is at the beginning of a mail.
type Stuffer struct {
	inLine  bool // the last byte did not end a line
	afterCR bool // the last byte was CR, for which CRLF was appended
}

// Append appends the next bytes of the mail to dst.
func (s *Stuffer) Append(dst, p []byte) []byte {
	for len(p) > 0 {
		if s.afterCR {
			s.afterCR = false
			if p[0] == '\n' {
				p = p[1:]
				continue
			}
		}
		if !s.inLine && p[0] == '.' {
			dst = append(dst, '.')
		}
		end := lineEnd(p)
		dst = append(dst, p[:end]...)
		if s.inLine = end == len(p); s.inLine {
			break
		}
		dst = append(dst, "\r\n"...)
		s.afterCR = p[end] == '\r'
		p = p[end+1:]
	}
	return dst
}

// End appends the end of the mail to dst: a line with a dot.
func (s *Stuffer) End(dst []byte) []byte {
	if s.inLine {
		dst = append(dst, "\r\n"...)
	}
	*s = Stuffer{}
	return append(dst, ".\r\n"...)
}

// lineEnd returns the index of the first CR or LF in p, or len(p).
func lineEnd(p []byte) int {
	end := bytes.IndexByte(p, '\n')
	if end < 0 {
		end = len(p)
	}
	if cr := bytes.IndexByte(p[:end], '\r'); cr >= 0 {
		return cr
	}
	return end
}

// A Meter measures a mail. Its zero value is at the beginning of a mail.
type Meter struct {
	Size     int64 // in bytes with CRLF line ends, without added dots (RFC 1870, section 3)
	EightBit bool  // the mail has bytes above 127

	afterCR bool
	inLine  bool
}

// Add measures the next bytes of the mail.
func (m *Meter) Add(p []byte) {
	for _, c := range p {
		switch {
		case c == '\n' && m.afterCR:
			m.afterCR = false
			continue
		case c == '\n' || c == '\r':
			m.Size += 2
			m.inLine = false
		default:
			m.Size++
			m.inLine = true
			m.EightBit = m.EightBit || c > 127
		}
		m.afterCR = c == '\r'
	}
}

// End measures the line end that Stuffer.End adds if the last line has none.
func (m *Meter) End() {
	if m.inLine {
		m.Size += 2
		m.inLine = false
	}
}
