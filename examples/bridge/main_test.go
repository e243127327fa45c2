package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }

func run(t *testing.T, ctx context.Context, files ...string) string {
	var out strings.Builder
	err := eventloop.Run(context.Background(), nil, func(l *eventloop.Loop) error {
		report(ctx, l, &out, files)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReport(t *testing.T) {
	name := filepath.Join(t.TempDir(), "abc")
	if err := os.WriteFile(name, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := run(t, context.Background(), name, name+".missing")
	for _, want := range []string{
		"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  " + name + "\n",
		"no such file",
		"go version: go version go1",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the report is %q, want %q in it", got, want)
		}
	}
}

func TestReportAfterTheEndOfItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := run(t, ctx, "a", "b"); strings.Count(got, context.Canceled.Error()) != 3 {
		t.Errorf("the report is %q, want three times that it was canceled", got)
	}
}
