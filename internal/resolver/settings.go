package resolver

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// checkInterval is the minimum time between two checks of the files.
	checkInterval = 5 * time.Second

	// The maximum size of a file. Hosts files that block advertisements have a few
	// megabytes.
	maxConfSize  = 1 << 20
	maxHostsSize = 64 << 20
)

// settings is the configuration of a lookup. It is immutable; a lookup uses the same
// settings from start to end.
type settings struct {
	resolvConf // its servers are not used: see below

	version  uint32 // of the contents: counts changes
	servers  []*nameServer
	order    order
	hosts    *hosts
	loopback []netip.Addr // the addresses of localhost, sorted
	until    time.Time    // when the files must be checked again
}

// system watches the configuration files of the system and merges them with the
// Config of the resolver.
type system struct {
	cfg      *Config
	log      *slog.Logger
	onChange func() // called after a change, when new lookups see it

	current atomic.Pointer[settings]

	mu       sync.Mutex // guards the following; held while files are read
	resolv   file
	nsswitch file
	hosts    file
}

func newSystem(cfg *Config, log *slog.Logger, onChange func()) *system {
	s := &system{cfg: cfg, log: log, onChange: onChange}
	s.resolv = newFile(cfg.ResolvConf, defaultResolvConf, maxConfSize)
	s.nsswitch = newFile(cfg.NSSwitch, defaultNSSwitch, maxConfSize)
	s.hosts = newFile(cfg.HostsFile, defaultHostsFile, maxHostsSize)
	return s
}

// quick returns the settings, or nil if the files must be checked first.
func (s *system) quick() *settings {
	cur := s.current.Load()
	if cur == nil || !time.Now().Before(cur.until) {
		return nil
	}
	return cur
}

// get returns the settings. It checks the files first if that is due.
func (s *system) get() *settings {
	if cur := s.quick(); cur != nil {
		return cur
	}
	// While one goroutine checks, the others continue with the known settings: a
	// slow file system must not delay every lookup of the process.
	if s.current.Load() == nil {
		s.mu.Lock()
	} else if !s.mu.TryLock() {
		return s.current.Load()
	}
	defer s.mu.Unlock()
	if cur := s.quick(); cur != nil {
		return cur
	}
	next, changed := s.load(s.current.Load())
	s.current.Store(next)
	if changed {
		s.onChange()
	}
	return next
}

// load reads the files and returns the new settings, and whether answers obtained
// under the old settings are invalid.
func (s *system) load(old *settings) (next *settings, changed bool) {
	next = new(settings)
	if old != nil {
		*next = *old
	}
	var problems []string
	if old == nil || !old.noReload {
		if data, ok := s.resolv.read(&problems); ok {
			changed = true
			conf, bad := parseResolvConf(data)
			problems = append(problems, bad...)
			next.resolvConf = conf
			s.cfg.override(next, systemServers(conf.servers))
		}
	}
	if data, ok := s.nsswitch.read(&problems); ok {
		changed = true
		o, bad := parseNSSwitch(data)
		if bad != "" {
			problems = append(problems, bad)
		}
		next.order = o
	}
	if data, ok := s.hosts.read(&problems); ok {
		changed = true
		next.hosts = parseHosts(data)
	}
	if len(problems) > 0 {
		s.log.Warn("the resolver's configuration has problems", "problems", problems)
	}
	next.loopback = sortAddrs([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()})
	next.until = time.Now().Add(checkInterval)
	if changed {
		next.version++
	}
	return next, changed && old != nil
}

// override replaces the settings of resolv.conf with those of c. The state of the
// servers is dropped, because a new resolv.conf often means another network.
func (c *Config) override(s *settings, servers []string) {
	if len(c.Servers) > 0 {
		servers = c.Servers
	}
	port := "53"
	if c.TLS != nil {
		port = "853" // RFC 7858 section 3.1
	}
	s.servers = nil
	for _, addr := range servers {
		addr, _ = serverAddress(addr, port) // New has checked them
		s.servers = append(s.servers, newNameServer(addr))
	}
	switch {
	case c.Search != nil:
		s.search = nil
		for _, name := range c.Search {
			s.search = append(s.search, rooted(name))
		}
	case !s.searchSet:
		s.search = defaultSearch()
	}
	if c.Ndots != 0 {
		s.ndots = max(c.Ndots, 0)
	}
	if c.Attempts != 0 {
		s.attempts = c.Attempts
	}
	if c.Timeout != 0 {
		s.timeout = c.Timeout
	}
	s.rotate = s.rotate || c.Rotate
	s.useTCP = s.useTCP || c.UseTCP || c.TLS != nil
	s.noEDNS = s.noEDNS || c.NoEDNS
}

// systemServers returns the servers of resolv.conf, else the servers that the
// system configures in other ways, else the local machine, as in resolv.conf(5).
func systemServers(addrs []netip.Addr) []string {
	if len(addrs) == 0 {
		addrs = platformServers()
	}
	if len(addrs) == 0 {
		addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	servers := make([]string, len(addrs))
	for i, a := range addrs {
		servers[i] = a.String()
	}
	return servers
}

// serverAddress completes "addr", "addr:port", "[addr]" and "[addr]:port" to an
// address for Dial.
func serverAddress(s, port string) (string, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return net.JoinHostPort(a.String(), port), nil
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		s += ":" + port
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		// A host name would need a server to resolve it.
		return "", fmt.Errorf("resolver: server %q is not an IP address with or without a port", s)
	}
	if ap.Port() == 0 {
		return "", fmt.Errorf("resolver: server %q has port 0", s)
	}
	return net.JoinHostPort(ap.Addr().String(), strconv.Itoa(int(ap.Port()))), nil
}

// file reads a file again when it has changed.
type file struct {
	path     string
	explicit bool // named by the Config: it should be there
	max      int64
	open     func(path string) ([]byte, error) // os.ReadFile, but for tests

	known   bool // checked at least once
	state   fileState
	problem string // why the last attempt to read it failed
}

// fileState identifies a version of a file.
type fileState struct {
	mtime time.Time
	size  int64
	err   string
}

func (s fileState) equal(other fileState) bool {
	return s.err == other.err && s.size == other.size && s.mtime.Equal(other.mtime)
}

func newFile(path, system string, max int64) file {
	if path == "" {
		return file{path: system, max: max, open: os.ReadFile}
	}
	return file{path: path, explicit: true, max: max, open: os.ReadFile}
}

// read returns the contents and true if the file is new or has changed. A missing file
// counts as empty, which leads to the defaults. If the file cannot be read, its last
// contents stay in use, and the next check tries again: the cause may be a lack of
// descriptors, which does not show in the state. Each new problem is added to problems.
func (f *file) read(problems *[]string) (data string, changed bool) {
	state, err := f.stat()
	if f.known && f.problem == "" && state.equal(f.state) {
		return "", false
	}
	first := !f.known
	f.known, f.state = true, state
	if err == nil && f.path != os.DevNull {
		data, err = f.contents(state.size)
	}
	if err == nil {
		f.problem = ""
		return data, true
	}
	missing := errors.Is(err, fs.ErrNotExist)
	if err.Error() != f.problem && (f.explicit || !missing) {
		*problems = append(*problems, err.Error())
	}
	f.problem = err.Error()
	if missing {
		f.problem = "" // final until the state changes
	}
	return "", first || missing
}

func (f *file) stat() (fileState, error) {
	if f.path == "" { // the platform has no such file
		return fileState{}, nil
	}
	fi, err := os.Stat(f.path)
	if err != nil {
		return fileState{err: err.Error()}, err
	}
	// Opening a named pipe would block until another process opens it for writing.
	if !fi.Mode().IsRegular() && f.path != os.DevNull {
		err = &fs.PathError{Op: "read", Path: f.path, Err: errors.New("not a regular file")}
		return fileState{err: err.Error()}, err
	}
	return fileState{mtime: fi.ModTime(), size: fi.Size()}, nil
}

func (f *file) contents(size int64) (string, error) {
	if f.path == "" {
		return "", nil
	}
	if size > f.max {
		return "", &fs.PathError{Op: "read", Path: f.path, Err: fmt.Errorf("has %d bytes, more than %d", size, f.max)}
	}
	data, err := f.open(f.path)
	return string(data), err
}
