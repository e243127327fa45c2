package eventloop

import (
	"errors"
	"slices"
	"testing"
)

func TestHeadersCompareNamesWithoutCase(t *testing.T) {
	h := HTTPHeaders{{"X-One", "1"}, {"x-two", "2"}, {"X-ONE", "3"}}
	if got := h.Get("x-one"); got != "1" {
		t.Errorf("Get = %q, want the first value, %q", got, "1")
	}
	if got, want := h.Values("X-one"), []string{"1", "3"}; !slices.Equal(got, want) {
		t.Errorf("Values = %q, want %q", got, want)
	}
	if got := h.Get("X-Three"); got != "" {
		t.Errorf("Get of an absent field = %q, want none", got)
	}
	if got := h.Values("X-Three"); got != nil {
		t.Errorf("Values of an absent field = %q, want nil", got)
	}
	// K is the Kelvin sign, which Unicode folds to k.
	if got := (HTTPHeaders{{"\u212a", "v"}}).Get("k"); got != "" {
		t.Errorf("Get folded beyond ASCII: %q", got)
	}
}

func TestHeadersSetKeepsThePlaceOfTheFirstAndRemovesTheOthers(t *testing.T) {
	h := HTTPHeaders{{"A", "1"}, {"B", "2"}, {"a", "3"}, {"C", "4"}, {"A", "5"}}
	h.Set("a", "new")
	if want := (HTTPHeaders{{"a", "new"}, {"B", "2"}, {"C", "4"}}); !slices.Equal(h, want) {
		t.Errorf("after Set: %v, want %v", h, want)
	}
	h.Set("D", "5")
	if want := (HTTPHeaders{{"a", "new"}, {"B", "2"}, {"C", "4"}, {"D", "5"}}); !slices.Equal(h, want) {
		t.Errorf("after Set of a new name: %v, want %v", h, want)
	}
}

func TestHeadersAddAndDelOnTheNilHeaders(t *testing.T) {
	var h HTTPHeaders
	h.Del("A")
	h.Add("A", "1")
	h.Add("A", "2")
	h.Add("B", "3")
	if want := (HTTPHeaders{{"A", "1"}, {"A", "2"}, {"B", "3"}}); !slices.Equal(h, want) {
		t.Errorf("after Add: %v, want %v", h, want)
	}
	h.Del("a")
	if want := (HTTPHeaders{{"B", "3"}}); !slices.Equal(h, want) {
		t.Errorf("after Del: %v, want %v", h, want)
	}
}

func TestHeadersThatMustNotGoOnTheWireAreErrors(t *testing.T) {
	for _, f := range []HTTPHeader{
		{"", "v"}, {"a b", "v"}, {"a:", "v"}, {"a\r\nb", "v"}, {"a\x00", "v"}, {"\u00e4", "v"}, {"(a)", "v"},
		{"a", "v\r\nb: c"}, {"a", "v\n"}, {"a", "\r"}, {"a", "\x00"}, {"a", "\x7f"}, {"a", "\x1b"},
	} {
		if err := (HTTPHeaders{{"Ok", "v"}, f}).validate(); !errors.Is(err, ErrHTTPHeader) {
			t.Errorf("%q: error %v, want ErrHTTPHeader", f, err)
		}
	}
	for _, f := range []HTTPHeader{{"a", ""}, {"!#$%&'*+-.^_`|~09azAZ", "v"}, {"a", "tab\tand \u00e4"}} {
		if err := (HTTPHeaders{f}).validate(); err != nil {
			t.Errorf("%q: error %v, want none", f, err)
		}
	}
}

func TestHeadersHasTokenSplitsLists(t *testing.T) {
	h := HTTPHeaders{{"Connection", "keep-alive, \tUpgrade"}, {"connection", "TE"}}
	for token, want := range map[string]bool{"upgrade": true, "te": true, "keep-alive": true, "close": false, "up": false} {
		if got := h.hasToken("Connection", token); got != want {
			t.Errorf("hasToken(%q) = %v, want %v", token, got, want)
		}
	}
}
