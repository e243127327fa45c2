package main

import (
	"testing"

	"github.com/onloop/eventloop/examples/ten/internal/check"
)

func TestMain(m *testing.M) { check.Main(m, main) }

func TestFetch(t *testing.T) { check.Fetch(t) }
