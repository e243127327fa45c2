package httpclient_test

import (
	"testing"

	"github.com/onloop/eventloop/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m, nil) }
