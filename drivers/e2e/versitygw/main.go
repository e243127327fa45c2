// Command versitygw is an S3 server for tests, on a directory. It is in a module of its own
// because of its dependencies.
//
//	versitygw ADDRESS DIRECTORY
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: versitygw ADDRESS DIRECTORY")
	}
	root, side := filepath.Join(os.Args[2], "objects"), filepath.Join(os.Args[2], "meta")
	for _, dir := range []string{root, side} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			log.Fatal(err)
		}
	}
	m, err := meta.NewSideCar(side)
	if err != nil {
		log.Fatal(err)
	}
	// A process can have one server: posix.New changes the working directory.
	b, err := posix.New(root, m, posix.PosixOpts{SideCarDir: side})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = embedgw.RunVersityGW(ctx, b, &embedgw.Config{
		RootUserAccess:    "AKID",
		RootUserSecret:    "SECRET",
		Ports:             []string{os.Args[1]},
		MaxConnections:    1000,
		MaxRequests:       1000,
		KeepAlive:         true,
		Quiet:             true,
		MultipartMaxParts: 10000,
	})
	if err != nil {
		log.Fatal(err)
	}
}
