// Package plot draws line charts as SVG.
package plot

import (
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
	"strings"
)

// A Chart has a line for each series over common points of the x axis, which are
// set at equal distances whatever their values are.
type Chart struct {
	Title, X, Y string
	Ticks       []string // of the x axis
	Series      []Series
}

// A Series is one line. A value that is not a positive number is left out.
type Series struct {
	Name   string
	Values []float64
	Bold   bool
}

const (
	width, height            = 720, 400
	left, right, top, bottom = 80, 170, 50, 60
	plotW, plotH             = width - left - right, height - top - bottom
)

// colours can be told apart by most people who do not see all colours (Okabe and
// Ito), on light and on dark ground.
var colours = []string{"#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#a0522d"}

// WriteSVG writes the chart.
func (c *Chart) WriteSVG(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	text(&b, width/2-right/4, 24, "middle", c.Title, `font-size="16" font-weight="bold"`)
	step := c.axes(&b)
	for i, s := range c.Series {
		c.line(&b, s, colours[i%len(colours)], step)
		c.legend(&b, i, s)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// axes draws grid and labels, and returns the top of the y axis.
func (c *Chart) axes(b *strings.Builder) (ceiling float64) {
	step := niceStep(c.highest() / 5)
	ceiling = step * math.Max(1, math.Ceil(c.highest()/step))
	for v := 0.0; v <= ceiling*1.0001; v += step {
		y := c.y(v, ceiling)
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#dddddd"/>`+"\n", left, y, left+plotW, y)
		text(b, left-8, y+4, "end", short(v), "")
	}
	for i, tick := range c.Ticks {
		text(b, c.x(i), height-bottom+18, "middle", tick, "")
	}
	text(b, left+plotW/2, height-bottom+42, "middle", c.X, "")
	text(b, 0, 0, "middle", c.Y, fmt.Sprintf(`transform="translate(18 %d) rotate(-90)"`, top+plotH/2))
	return ceiling
}

func (c *Chart) highest() float64 {
	highest := 0.0
	for _, s := range c.Series {
		for _, v := range s.Values {
			if drawable(v) {
				highest = math.Max(highest, v)
			}
		}
	}
	return highest
}

func drawable(v float64) bool { return v > 0 && !math.IsInf(v, 0) }

// niceStep returns the smallest of 1, 2 and 5 times a power of ten that is not
// less than v.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*power >= v {
			return m * power
		}
	}
	return 10 * power
}

func (c *Chart) x(i int) float64 {
	if len(c.Ticks) < 2 {
		return left + plotW/2
	}
	return left + 20 + float64(i)*(plotW-40)/float64(len(c.Ticks)-1)
}

func (c *Chart) y(v, ceiling float64) float64 { return top + plotH*(1-v/ceiling) }

func (c *Chart) line(b *strings.Builder, s Series, colour string, ceiling float64) {
	stroke := 2
	if s.Bold {
		stroke = 4
	}
	var points []string
	for i, v := range s.Values {
		if !drawable(v) {
			continue
		}
		x, y := c.x(i), c.y(v, ceiling)
		points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="%d" fill="%s"/>`+"\n", x, y, stroke+1, colour)
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="%d"/>`+"\n", strings.Join(points, " "), colour, stroke)
}

func (c *Chart) legend(b *strings.Builder, i int, s Series) {
	x, y := float64(left+plotW+16), float64(top+10+20*i)
	fmt.Fprintf(b, `<rect x="%.0f" y="%.0f" width="12" height="12" fill="%s"/>`+"\n", x, y, colours[i%len(colours)])
	text(b, x+18, y+10, "start", s.Name, "")
}

func text(b *strings.Builder, x, y float64, anchor, s, attrs string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="#333333" %s>%s</text>`+"\n", x, y, anchor, attrs, html.EscapeString(s))
}

// short writes a number with the letter of its thousands.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 4, 64) + "M"
	case v >= 1e3:
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
