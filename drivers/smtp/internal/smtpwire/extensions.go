package smtpwire

import (
	"strconv"
	"strings"
)

// Extensions are the extensions that a server offers in its reply to EHLO or LHLO.
type Extensions struct {
	Pipelining bool     // RFC 2920
	StartTLS   bool     // RFC 3207
	EightBit   bool     // 8BITMIME, RFC 6152
	UTF8       bool     // SMTPUTF8, RFC 6531
	Enhanced   bool     // ENHANCEDSTATUSCODES, RFC 2034
	DSN        bool     // RFC 3461
	RequireTLS bool     // RFC 8689
	Size       bool     // RFC 1870
	MaxSize    int64    // the maximum size of a mail in bytes; 0: unknown, or no limit
	Auth       []string // the mechanisms in upper case, RFC 4954
}

// ParseExtensions returns the extensions in the reply to EHLO. It ignores unknown extensions
// and invalid parameters.
func ParseExtensions(r *Reply) (x Extensions) {
	for _, line := range r.Lines[min(1, len(r.Lines)):] { // the first is a greeting
		fields := strings.Fields(strings.ToUpper(line))
		if len(fields) == 0 {
			continue
		}
		switch params := fields[1:]; fields[0] {
		case "PIPELINING":
			x.Pipelining = true
		case "STARTTLS":
			x.StartTLS = true
		case "8BITMIME":
			x.EightBit = true
		case "SMTPUTF8":
			x.UTF8 = true
		case "ENHANCEDSTATUSCODES":
			x.Enhanced = true
		case "DSN":
			x.DSN = true
		case "REQUIRETLS":
			x.RequireTLS = true
		case "SIZE":
			x.Size = true
			if len(params) > 0 {
				if n, err := strconv.ParseInt(params[0], 10, 64); err == nil && n > 0 {
					x.MaxSize = n
				}
			}
		case "AUTH":
			x.Auth = append(x.Auth, params...)
		}
	}
	return x
}
