// Fetch gets the URLs that it reads, eight at a time, and prints what came of each.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/onloop/eventloop"
)

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	urls := strings.Fields(string(input))
	results, failed := make([]string, len(urls)), false // of the loop: no lock
	fetch := func(t *eventloop.Task) error {
		g := t.Group()
		g.SetLimit(8)
		for i, url := range urls {
			g.Go(func(t *eventloop.Task) error {
				opts := &eventloop.HTTPOptions{Timeout: 2 * time.Second}
				res, err := t.Loop().HTTP().Do(t.Context(), "GET", url, opts).Await(t)
				if err != nil {
					results[i], failed = fmt.Sprint(url, ": ", err), true
					return nil
				}
				results[i] = fmt.Sprint(url, ": ", res.Status, ", ", len(res.Body), " bytes")
				return nil
			})
		}
		return g.Wait()
	}
	err = eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		l.Go(context.Background(), fetch)
		return nil
	})
	fmt.Println(strings.Join(results, "\n"))
	if err != nil || failed {
		log.Fatal("not all succeeded")
	}
}
