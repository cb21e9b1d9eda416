package browser

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"

	"github.com/certpost/certpost/internal/lab"
)

// size is the size of a window, in CSS pixels.
type size struct{ width, height int64 }

var (
	desktop = size{1280, 900}
	small   = size{320, 640} // the width of WCAG 2.2, 1.4.10
)

func (tb *tab) viewport(s size) {
	tb.t.Helper()
	tb.window = s
	tb.viewportAt(s, 1)
}

func (tb *tab) viewportAt(s size, scale float64) {
	tb.t.Helper()
	call(tb, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: s.width, Height: s.height, DeviceScaleFactor: scale,
	})
}

// media emulates settings of the system, such as "prefers-color-scheme: dark" or
// "forced-colors: active", and paper with "print".
func (tb *tab) media(settings ...string) {
	tb.t.Helper()
	var params emulation.SetEmulatedMediaParams
	for _, setting := range settings {
		name, value, feature := strings.Cut(setting, ": ")
		if !feature {
			params.Media = setting
			continue
		}
		params.Features = append(params.Features, &emulation.MediaFeature{Name: name, Value: value})
	}
	call(tb, emulation.SetEmulatedMedia, params)
	tb.holds("colours to have changed", `document.getAnimations().every(a => a.playState === "finished")`)
}

// withoutScripts switches JavaScript off for pages opened from now on.
func (tb *tab) withoutScripts() {
	tb.t.Helper()
	tb.scriptless = true
	tb.scripts(false)
}

func (tb *tab) scripts(on bool) {
	tb.t.Helper()
	call(tb, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
}

// fits checks that the page is not wider than the window. Wider elements, such as tables,
// must scroll within their own box.
func (tb *tab) fits() {
	tb.t.Helper()
	type width struct {
		Page, Window int
		Wide         []string
	}
	const widths = `(() => {
		if (document.readyState !== "complete") throw "it is being loaded";
		const root = document.scrollingElement, edge = root.clientWidth;
		const contained = e => { for (let p = e.parentElement; p && p !== root; p = p.parentElement) if (getComputedStyle(p).overflowX !== "visible") return true; return false };
		return {page: root.scrollWidth, window: edge, wide: [...document.body.querySelectorAll("*")]
			.filter(e => seen(e) && e.getBoundingClientRect().right > edge + 1 && !contained(e)).slice(0, 5).map(e => e.outerHTML.slice(0, 160))};
	})()`
	var w width
	tb.until("a page to measure", func() bool {
		var err error
		w, err = ask[width](tb, widths)
		return err == nil
	})
	if w.Page > w.Window {
		tb.t.Errorf("%s is %d px wide in a window of %d: %s", tb.path(), w.Page, w.Window, strings.Join(w.Wide, "\n"))
	}
}

// picture takes a picture of the window at half its size and checks that it is not blank.
func (tb *tab) picture() {
	tb.t.Helper()
	shot := call(tb, page.CaptureScreenshot, page.CaptureScreenshotParams{
		Clip: &page.Viewport{Width: float64(tb.window.width), Height: float64(tb.window.height), Scale: .5},
	})
	if n := colours(tb, shot.Data); n < 8 {
		tb.t.Errorf("%s is blank: it has only %d colours", tb.path(), n)
	}
}

// colours counts the colours of a picture, up to a hundred.
func colours(tb *tab, picture []byte) int {
	tb.t.Helper()
	img, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		tb.t.Fatal(err)
	}
	seen := map[[4]uint32]bool{}
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y && len(seen) < 100; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			r, g, b, a := img.At(x, y).RGBA()
			seen[[4]uint32{r, g, b, a}] = true
		}
	}
	return len(seen)
}

// screenshot checks that the page is not blank. With UPDATE_DOCS=true it also writes the
// upper part of its picture to docs/screenshots, if docs/dashboard.md shows it.
func (tb *tab) screenshot(name string) {
	tb.t.Helper()
	tb.picture()
	if !named() || !slices.Contains(pictures(tb.t), name) {
		return
	}
	const sharp = 2 // device pixels per CSS pixel
	tb.viewportAt(tb.window, sharp)
	height := min(tallest(tb.window), mustAsk[int64](tb, "document.scrollingElement.scrollHeight"))
	whole := true
	shot := call(tb, page.CaptureScreenshot, page.CaptureScreenshotParams{
		CaptureBeyondViewport: &whole, Clip: &page.Viewport{Width: float64(tb.window.width), Height: float64(height), Scale: 1},
	})
	tb.viewportAt(tb.window, 1)
	file := filepath.Join(lab.Root(), "docs", "screenshots", name+".png")
	if err := os.WriteFile(file, fewColours(tb, shot.Data), 0o644); err != nil {
		tb.t.Fatal(err)
	}
}

// pictures are the names of the pictures that docs/dashboard.md shows.
func pictures(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "dashboard.md"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, found := range regexp.MustCompile(`\]\(screenshots/([a-z-]+)\.png\)`).FindAllStringSubmatch(string(text), -1) {
		names = append(names, found[1])
	}
	return names
}

// TestDocumentHasItsPictures checks that docs/screenshots has exactly the pictures that
// the document shows.
func TestDocumentHasItsPictures(t *testing.T) {
	t.Parallel()
	shown := pictures(t)
	files, err := filepath.Glob(filepath.Join(lab.Root(), "docs", "screenshots", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("docs/screenshots is empty (%v): run `task screenshots`", err)
	}
	var there []string
	for _, file := range files {
		there = append(there, strings.TrimSuffix(filepath.Base(file), ".png"))
	}
	slices.Sort(shown)
	slices.Sort(there)
	if !slices.Equal(shown, there) {
		t.Errorf("docs/dashboard.md shows %q, docs/screenshots has %q: run `task screenshots` for missing ones", shown, there)
	}
}

func tallest(window size) int64 { return window.height * 5 / 4 }

// fewColours encodes a picture with its 256 most frequent colours, which reduces it to a
// third of its size. Pages have few colours; the rest are the edges of letters.
func fewColours(tb *tab, picture []byte) []byte {
	tb.t.Helper()
	img, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		tb.t.Fatal(err)
	}
	count := map[color.Color]int{}
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			count[img.At(x, y)]++
		}
	}
	palette := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] })
	few := image.NewPaletted(img.Bounds(), palette[:min(len(palette), 256)])
	draw.Draw(few, img.Bounds(), img, img.Bounds().Min, draw.Src)
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&out, few); err != nil {
		tb.t.Fatal(err)
	}
	return out.Bytes()
}
