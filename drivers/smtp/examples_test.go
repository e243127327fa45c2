package smtp_test

import (
	"testing"

	"github.com/onloop/eventloop/internal/exampletest"
)

func TestEveryEntryPointHasAnExample(t *testing.T) {
	exampletest.Check(t, exampletest.Rules{})
}
