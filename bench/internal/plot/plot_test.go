package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
)

// An element is one of an SVG that has been read back.
type element struct {
	XMLName  xml.Name
	Points   string    `xml:"points,attr"`
	CY       float64   `xml:"cy,attr"`
	CX       float64   `xml:"cx,attr"`
	Text     string    `xml:",chardata"`
	Children []element `xml:",any"`
}

func draw(t *testing.T, c *Chart) (all []element) {
	t.Helper()
	var b strings.Builder
	if err := c.WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	var root element
	if err := xml.Unmarshal([]byte(b.String()), &root); err != nil {
		t.Fatalf("not well-formed: %v\n%s", err, b.String())
	}
	return root.Children
}

func named(all []element, name string) (some []element) {
	for _, e := range all {
		if e.XMLName.Local == name {
			some = append(some, e)
		}
	}
	return some
}

func TestChartDrawsALineForEachSeriesAndLeavesOutWhatIsMissing(t *testing.T) {
	all := draw(t, &Chart{
		Title: "a < b & c", X: "x", Y: "y", Ticks: []string{"1", "50", "500"},
		Series: []Series{{Name: "one", Values: []float64{10, 0, 30}}, {Name: "two", Values: []float64{5, math.NaN(), math.Inf(1)}, Bold: true}},
	})
	lines := named(all, "polyline")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2", len(lines))
	}
	for i, want := range []int{2, 1} {
		if got := len(strings.Fields(lines[i].Points)); got != want {
			t.Errorf("line %d has %d points, want %d", i, got, want)
		}
	}
	if got := len(named(all, "circle")); got != 3 {
		t.Errorf("%d points, want 3", got)
	}
	var texts []string
	for _, e := range named(all, "text") {
		texts = append(texts, e.Text)
	}
	for _, want := range []string{"a < b & c", "x", "y", "1", "50", "500", "one", "two", "30"} {
		if !strings.Contains("|"+strings.Join(texts, "|")+"|", "|"+want+"|") {
			t.Errorf("no text %q in %q", want, texts)
		}
	}
}

func TestChartPutsGreaterValuesHigherWithinThePlot(t *testing.T) {
	all := draw(t, &Chart{Ticks: []string{"a", "b"}, Series: []Series{{Values: []float64{1, 1234567}}}})
	points := named(all, "circle")
	if points[1].CY >= points[0].CY || points[1].CY < top || points[0].CY > top+plotH {
		t.Errorf("y of the lesser and the greater = %v and %v, want them within %v to %v, and in that order from below", points[0].CY, points[1].CY, top, top+plotH)
	}
	if points[1].CX <= points[0].CX || points[1].CX > left+plotW {
		t.Errorf("x = %v and %v, want them in order and within %v", points[0].CX, points[1].CX, left+plotW)
	}
}

func TestChartWithoutValuesIsWellFormed(t *testing.T) {
	if got := named(draw(t, &Chart{Title: "empty"}), "circle"); len(got) != 0 {
		t.Errorf("%d points, want none", len(got))
	}
}

func TestNiceStepIsARoundNumberNotLess(t *testing.T) {
	for _, tt := range []struct{ v, want float64 }{{0, 1}, {1, 1}, {1.1, 2}, {3, 5}, {6, 10}, {0.03, 0.05}, {41_000, 50_000}} {
		if got := niceStep(tt.v); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("niceStep(%v) = %v, want %v", tt.v, got, tt.want)
		}
	}
}

func TestNumbersAreShortened(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.5: "0.5", 999: "999", 20_000: "20k", 1_500_000: "1.5M"} {
		if got := short(v); got != want {
			t.Errorf("short(%s) = %q, want %q", strconv.FormatFloat(v, 'g', -1, 64), got, want)
		}
	}
}

type failingWriter struct{}

var errFull = errors.New("full")

func (failingWriter) Write([]byte) (int, error) { return 0, errFull }

func TestWriteSVGReturnsTheErrorOfTheWriter(t *testing.T) {
	var w io.Writer = failingWriter{}
	if err := new(Chart).WriteSVG(w); !errors.Is(err, errFull) {
		t.Errorf("WriteSVG = %v, want %v", err, errFull)
	}
}
