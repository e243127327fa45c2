// Dns looks up names with given servers, and uses the first reply:
// dns SERVER,SERVER NAME ...
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// lookup asks one server after the other.
func lookup(servers []string, name string) (addrs []netip.Addr, err error) {
	for _, server := range servers {
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, server)
		}}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		addrs, err = r.LookupNetIP(ctx, "ip4", name)
		cancel()
		var failure *net.DNSError
		if err == nil || errors.As(err, &failure) && failure.IsNotFound {
			return addrs, err
		}
	}
	return nil, err
}

func main() {
	names, servers := os.Args[2:], strings.Split(os.Args[1], ",")
	results := make([]string, len(names))
	var failed atomic.Bool
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			addrs, err := lookup(servers, name)
			results[i] = fmt.Sprint(name, ": ", addrs)
			if err != nil {
				results[i] = fmt.Sprint(name, ": ", err)
				failed.Store(true)
			}
		})
	}
	all.Wait()
	fmt.Println(strings.Join(results, "\n"))
	if failed.Load() {
		log.Fatal("not all succeeded")
	}
}
