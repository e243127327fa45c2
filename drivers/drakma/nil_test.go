package drakma

import (
	"context"
	"fmt"
	"testing"

	"github.com/onloop/eventloop"
)

func TestWhatIsGivenNilSaysSo(t *testing.T) {
	for name, test := range map[string]struct {
		call func()
		want string
	}{
		"New":                {func() { New(nil, Options{}) }, "eventloop: nil Loop"},
		"New, with a client": {func() { New(nil, Options{Client: eventloop.New(nil).HTTP()}) }, "eventloop: nil Loop"},
		"Get":                {func() { var ctx context.Context; New(eventloop.New(nil), Options{}).Get(ctx, "http://x") }, "drakma: nil context"},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); got != test.want {
					t.Errorf("%s: panic %q, want %q", name, got, test.want)
				}
			}()
			test.call()
		}()
	}
}
