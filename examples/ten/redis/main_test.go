package main

import (
	"testing"

	"github.com/onloop/eventloop/examples/ten/internal/check"
)

func TestMain(m *testing.M) { check.Main(m, main) }

func TestRedis(t *testing.T) { check.Redis(t) }
