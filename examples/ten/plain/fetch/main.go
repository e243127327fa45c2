// Fetch gets the URLs that it reads, eight at a time, and prints what came of each.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var client = http.Client{Timeout: 2 * time.Second}

func fetch(url string) (string, error) {
	res, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(res.StatusCode, ", ", n, " bytes"), nil
}

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	urls := strings.Fields(string(input))
	results := make([]string, len(urls))
	var failed atomic.Bool
	var all sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, url := range urls {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			result, err := fetch(url)
			if err != nil {
				result = err.Error()
				failed.Store(true)
			}
			results[i] = fmt.Sprint(url, ": ", result)
		})
	}
	all.Wait()
	fmt.Println(strings.Join(results, "\n"))
	if failed.Load() {
		log.Fatal("not all succeeded")
	}
}
