package main

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// maxSize is the size of the program, 10.2 MB (7.0 MB with -ldflags="-s -w"), and some
// room. Of it 7.6 MB are what any program has that links net, crypto/tls and log/slog.
// Another 1.2 MB are the package initialization of net/http, fasthttp and miekg/dns,
// whose types are in signatures of the package: blank imports of the three cost as
// much. 1.2 MB are the loop's own.
const maxSize = 10_300_000

// stringers are methods that the linker keeps although nothing calls them. The types
// http.CookieJar and http.RoundTripper of HTTPClientConfig name http.Cookie and
// http.Request, and package fmt may call String of every type that values can have. All
// of them are 5 KB.
var stringers = map[string]bool{
	"net/http.(*Cookie).String":              true,
	"net/http.(*Cookie).String.Printf.func1": true,
	"net/http.(*pattern).String":             true,
}

// A program that uses TCP only links no HTTP, no compression and no resolver: their
// types must not be reachable from those of the loop.
func TestAProgramThatUsesTCPOnlyLinksTCPOnly(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("it reads the symbols of an ELF file, and sizes differ between architectures")
	}
	file := filepath.Join(t.TempDir(), "echo")
	if out, err := exec.Command("go", "build", "-o", file, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if info, err := os.Stat(file); err != nil || info.Size() > maxSize {
		t.Errorf("the program has %d bytes (%v), want at most %d", info.Size(), err, maxSize)
	}
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if stringers[s.Name] {
			continue
		}
		for _, unwanted := range []string{
			"net/http.(",
			"github.com/valyala/fasthttp.(",
			"github.com/klauspost/compress/zstd.(",
			"github.com/molecule-man/go-brrr.(",
			"github.com/miekg/dns.(*Msg)",
			"github.com/onloop/eventloop/internal/resolver.(",
			"github.com/onloop/eventloop.(*httpC",
		} {
			if elf.ST_TYPE(s.Info) == elf.STT_FUNC && strings.HasPrefix(s.Name, unwanted) {
				t.Errorf("the program has %s", s.Name)
			}
		}
	}
}
