// Fetch is a small curl: it downloads many URLs concurrently on one loop, and prints its
// progress and the results.
//
//	fetch [flags] URL...
//
// A URL followed by *n is downloaded n times. Bodies are discarded, or with -d stored
// under the last element of their path.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/onloop/eventloop"
)

var (
	dir       = flag.String("d", "", "store bodies in this `directory`")
	parallel  = flag.Int("n", 50, "requests in flight")
	timeout   = flag.Duration("t", time.Minute, "time for each request")
	redirects = flag.Int("r", 10, "redirects to follow")
	unix      = flag.String("unix", "", "connect to the unix socket at this `path`")
	verbose   = flag.Bool("v", false, "print each response")
)

func main() {
	flag.Parse()
	urls := expand(flag.Args())
	if len(urls) == 0 || *parallel < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	f := &fetcher{urls: urls, status: make(map[int]int), open: make(map[*output]bool)}
	err := eventloop.Run(ctx, nil, func(l *eventloop.Loop) error {
		f.start(l)
		return nil
	})
	f.report()
	if err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
	}
	if err != nil || f.failed > 0 {
		os.Exit(1)
	}
}

// expand repeats each argument that ends in *n.
func expand(args []string) []string {
	var urls []string
	for _, arg := range args {
		n := 1
		if i := strings.LastIndexByte(arg, '*'); i > 0 {
			if times, err := strconv.Atoi(arg[i+1:]); err == nil {
				arg, n = arg[:i], times
			}
		}
		urls = append(urls, slices.Repeat([]string{arg}, max(n, 0))...)
	}
	return urls
}

// A fetcher needs no locks, because it is used only on the loop.
type fetcher struct {
	loop   *eventloop.Loop
	ticker *eventloop.Timer
	began  time.Time
	took   time.Duration

	urls                   []string // not yet requested
	inFlight, done, failed int
	bytes                  int64
	reused                 uint64
	status                 map[int]int
	times                  []time.Duration
	open                   map[*output]bool // bodies being received
}

func (f *fetcher) start(l *eventloop.Loop) {
	f.loop, f.began = l, time.Now()
	f.ticker = l.Every(time.Second, f.progress)
	f.ticker.Unref()
	l.OnExit(func() {
		f.took = time.Since(f.began)
		f.reused = l.Stats().HTTPClient.ReusedTotal
		for out := range f.open { // an interrupt arrived before their results
			out.close(context.Canceled)
		}
	})
	for range *parallel {
		f.next()
	}
}

// next begins the next request, if there is one.
func (f *fetcher) next() {
	if len(f.urls) == 0 {
		return
	}
	u := f.urls[0]
	f.urls = f.urls[1:]
	f.inFlight++
	out := &output{url: u}
	f.open[out] = true
	f.loop.HTTP().Do(context.Background(), "GET", u, &eventloop.HTTPOptions{
		Timeout:      *timeout,
		MaxRedirects: *redirects,
		UnixSocket:   *unix,
		OnBody: func(res *eventloop.HTTPResponse, data []byte) {
			f.bytes += int64(len(data))
			out.write(data)
		},
	}).Then(func(res *eventloop.HTTPResponse, err error) {
		delete(f.open, out)
		if cerr := out.close(err); err == nil {
			err = cerr
		}
		f.ended(u, res, err)
		f.next()
	})
}

func (f *fetcher) ended(u string, res *eventloop.HTTPResponse, err error) {
	f.inFlight--
	f.done++
	if err != nil {
		f.failed++
		fmt.Fprintln(os.Stderr, "fetch:", err)
		return
	}
	f.status[res.Status]++
	f.times = append(f.times, res.Timing.Total)
	if *verbose {
		t := res.Timing
		fmt.Printf("%d %s  lookup %v, connect %v, TLS %v, first byte %v, total %v\n", res.Status, res.URL,
			t.Lookup.Round(time.Microsecond), t.Connect.Round(time.Microsecond), t.TLS.Round(time.Microsecond),
			t.FirstByte.Round(time.Microsecond), t.Total.Round(time.Microsecond))
	}
}

func (f *fetcher) progress() {
	fmt.Fprintf(os.Stderr, "%d done, %d in flight, %d to go, %.1f MB\n", f.done, f.inFlight, len(f.urls), float64(f.bytes)/1e6)
}

func (f *fetcher) report() {
	seconds := max(f.took.Seconds(), 1e-9)
	fmt.Printf("%d requests in %v (%.0f a second), %d failed, %d on kept connections, %.1f MB (%.1f MB/s)\n",
		f.done, f.took.Round(time.Millisecond), float64(f.done)/seconds, f.failed, f.reused, float64(f.bytes)/1e6, float64(f.bytes)/1e6/seconds)
	for _, s := range slices.Sorted(func(yield func(int) bool) {
		for s := range f.status {
			if !yield(s) {
				return
			}
		}
	}) {
		fmt.Printf("  status %d: %d\n", s, f.status[s])
	}
	if n := len(f.times); n > 0 {
		slices.Sort(f.times)
		fmt.Printf("  time: median %v, 99%% %v, longest %v\n", f.times[n/2], f.times[n*99/100], f.times[n-1])
	}
}

// An output stores a body in a file, if -d is given. It creates the file when the body
// begins.
type output struct {
	url  string
	file *os.File
	err  error
}

func (o *output) write(data []byte) {
	if *dir == "" || o.err != nil {
		return
	}
	if o.file == nil {
		if o.file, o.err = os.CreateTemp(*dir, ".fetch-"); o.err != nil {
			return
		}
	}
	_, o.err = o.file.Write(data)
}

// close gives the file its name, unless something failed.
func (o *output) close(failed error) error {
	if o.file == nil {
		return o.err
	}
	if err := o.file.Close(); o.err == nil {
		o.err = err
	}
	if failed != nil || o.err != nil {
		os.Remove(o.file.Name())
		return o.err
	}
	name := "index.html"
	if u, err := url.Parse(o.url); err == nil {
		if base := path.Base(u.Path); base != "/" && base != "." && base != ".." && base == filepath.Base(base) {
			name = base
		}
	}
	return os.Rename(o.file.Name(), filepath.Join(*dir, name))
}
