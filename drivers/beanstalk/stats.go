package beanstalk

import (
	"strconv"
	"strings"
	"time"
)

// Stats maps the names of statistics in the protocol, such as "current-jobs-ready", to
// their values, for a server, a tube or a job.
type Stats map[string]string

// Int returns a statistic that is a number, or zero if there is no such number.
func (s Stats) Int(name string) int64 {
	n, err := strconv.ParseInt(s[name], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Seconds returns a statistic that is a time in seconds, such as "age" or "uptime".
func (s Stats) Seconds(name string) time.Duration {
	f, err := strconv.ParseFloat(s[name], 64)
	if err != nil {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}

// parseStats parses a dictionary in the subset of YAML that the server uses: one line per
// key, with a scalar that may be quoted.
func parseStats(text []byte) Stats {
	s := make(Stats)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			s[key] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return s
}

// parseList parses a list: one line per element.
func parseList(text []byte) (list []string) {
	for line := range strings.Lines(string(text)) {
		if element, ok := strings.CutPrefix(strings.TrimSpace(line), "- "); ok {
			list = append(list, strings.Trim(element, `"`))
		}
	}
	return list
}
