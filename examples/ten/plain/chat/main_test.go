package main

import (
	"testing"

	"github.com/onloop/eventloop/examples/ten/internal/check"
)

func TestMain(m *testing.M) { check.Main(m, main) }

func TestChat(t *testing.T) { check.Chat(t) }
