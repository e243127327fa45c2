package eventloop

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// isBound reports whether a socket is bound to path but does not listen yet. A dial of
// such a socket is refused, as if the file were stale. isBound sees the sockets of its
// own network namespace.
func isBound(path string) bool {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(table)) {
		if name, ok := boundName(line); ok && (filepath.Clean(name) == abs ||
			// A relative name is relative to a directory that the table does not show.
			!filepath.IsAbs(name) && filepath.Base(name) == filepath.Base(abs)) {
			return true
		}
	}
	return false
}

// boundName returns the path in a line of /proc/net/unix, if its socket neither listens
// nor is connected.
func boundName(line string) (name string, ok bool) {
	const (
		flags, state, fields = 3, 5, 7 // Num RefCount Protocol Flags Type St Inode Path
		listens              = 1 << 16 // __SO_ACCEPTCON
		unconnected          = "01"    // SS_UNCONNECTED
	)
	rest := strings.TrimRight(line, "\n")
	var column [fields]string
	for i := range column {
		column[i], rest, _ = strings.Cut(strings.TrimLeft(rest, " "), " ")
	}
	f, err := strconv.ParseUint(column[flags], 16, 64)
	return rest, err == nil && rest != "" && f&listens == 0 && column[state] == unconnected
}
