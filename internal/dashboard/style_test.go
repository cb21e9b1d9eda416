package dashboard

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"testing"
)

func styleSheet(t *testing.T) string {
	t.Helper()
	css, err := static.ReadFile("static/app.css")
	if err != nil {
		t.Fatal(err)
	}
	return string(css)
}

// rgb is a colour, 0 to 1 each.
type rgb [3]float64

func parseColour(t *testing.T, hex string) (c rgb) {
	t.Helper()
	for i := range c {
		n, err := strconv.ParseUint(hex[1+2*i:3+2*i], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c[i] = float64(n) / 255
	}
	return c
}

// over mixes a colour into another, as color-mix(in srgb) does.
func (c rgb) over(ground rgb, share float64) (mixed rgb) {
	for i := range mixed {
		mixed[i] = share*c[i] + (1-share)*ground[i]
	}
	return mixed
}

// luminance is the relative luminance of WCAG 2.2; contrast is its contrast ratio.
func (c rgb) luminance() float64 {
	var part rgb
	for i, v := range c {
		if v <= 0.04045 {
			part[i] = v / 12.92
		} else {
			part[i] = math.Pow((v+0.055)/1.055, 2.4)
		}
	}
	return 0.2126*part[0] + 0.7152*part[1] + 0.0722*part[2]
}

func contrast(a, b rgb) float64 {
	x, y := a.luminance(), b.luminance()
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// Every text has enough contrast with every background on which it appears, in both
// schemes: 4.5 to 1 (WCAG 2.2, 1.4.3); edges of fields and charts have 3 to 1 (1.4.11).
func TestContrast(t *testing.T) {
	t.Parallel()
	css := styleSheet(t)
	for i, scheme := range []string{"light", "dark"} {
		colours := map[string]rgb{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)`).FindAllStringSubmatch(css, -1) {
			colours[m[1]] = parseColour(t, m[2+i])
		}
		if len(colours) < 13 {
			t.Fatalf("found only %d colours in the style sheet", len(colours))
		}
		tint := []float64{0.09, 0.14}[i]
		if want := fmt.Sprintf("--tint: %.0f%%", tint*100); !regexp.MustCompile(regexp.QuoteMeta(want)).MatchString(css) {
			t.Fatalf("%s is not in the style sheet: the test checks other backgrounds than the pages use", want)
		}
		check := func(text, ground string, at rgb, least float64) {
			if got := contrast(colours[text], at); got < least {
				t.Errorf("%s: %s on %s is %.2f to 1, want %.1f", scheme, text, ground, got, least)
			}
		}
		for _, text := range []string{"ink", "quiet", "accent", "good", "warn", "bad", "info"} {
			for _, ground := range []string{"paper", "card", "sunk"} {
				check(text, ground, colours[ground], 4.5)
			}
		}
		for _, tone := range []string{"good", "warn", "bad", "info", "quiet"} {
			ground := colours[tone].over(colours["card"], tint)
			check(tone, tone+" mark", ground, 4.5)
			check("ink", tone+" note", ground, 4.5)
			check("quiet", tone+" note", ground, 4.5)
		}
		check("on-accent", "accent", colours["accent"], 4.5)
		check("quiet", "row under the pointer", colours["accent"].over(colours["card"], 0.04), 4.5)
		check("quiet", "current row", colours["accent"].over(colours["card"], 0.08), 4.5)
		for _, edge := range []string{"edge", "accent", "bad"} {
			check(edge, "card", colours["card"], 3)
			check(edge, "paper", colours["paper"], 3)
		}
	}
}

func TestStyleSheetIsSmall(t *testing.T) {
	t.Parallel()
	css := styleSheet(t)
	if len(css) > 20<<10 {
		t.Errorf("the style sheet has %d bytes", len(css))
	}
	if m := regexp.MustCompile(`url\(|@import|!important`).FindString(css); m != "" {
		t.Errorf("the style sheet contains %s", m)
	}
}
