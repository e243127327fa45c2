// Dns looks up names with given servers, and uses the first reply:
// dns SERVER,SERVER NAME ...
package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/onloop/eventloop"
)

func main() {
	names := os.Args[2:]
	results, failed := make([]string, len(names)), false // of the loop: no lock
	cfg := &eventloop.Config{Resolver: &eventloop.ResolverConfig{
		Servers: strings.Split(os.Args[1], ","), Attempts: 1, Timeout: time.Second,
	}}
	ctx := context.Background()
	err := eventloop.Run(ctx, cfg, func(l *eventloop.Loop) error {
		for i, name := range names {
			l.LookupNetIP(ctx, "ip4", name).Then(func(addrs []netip.Addr, err error) {
				results[i] = fmt.Sprint(name, ": ", addrs)
				if err != nil {
					results[i], failed = fmt.Sprint(name, ": ", err), true
				}
			})
		}
		return nil
	})
	fmt.Println(strings.Join(results, "\n"))
	if err != nil || failed {
		log.Fatal("not all succeeded")
	}
}
