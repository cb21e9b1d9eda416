package browser

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/page"
)

// everyLook is a directory for pictures of every page at every width, light and dark, for
// people who judge the design: `task looks`.
var everyLook = flag.String("looks", "", "write a picture of every page at every width, light and dark, to this `directory`")

// widths are those of small and large phones, tablets in both directions, and screens, and
// the two sides of the width at which tables become cards.
var widths = []int64{320, 360, 740, 768, 820, 960, 1024, 1215, 1216, 1440}

const (
	// fewCharacters is the least width of a column that breaks its text, in average characters.
	fewCharacters = 20
	// manyLines is the height of a table's row that still can be read as a row.
	manyLines = 8
)

// atEveryWidth checks that the page fits into windows of all widths, and that its tables can
// be read in them.
func (tb *tab) atEveryWidth(name string) {
	tb.t.Helper()
	for _, width := range widths {
		tb.viewport(size{width, desktop.height})
		tb.fits()
		for _, fault := range tb.cramped() {
			tb.t.Errorf("%s in a window of %d px: %s", tb.path(), width, fault)
		}
		tb.portray(name, width)
	}
	tb.viewport(desktop)
}

// cramped returns the cells of tables that break their text in a narrow column, and the rows
// that are too high. Tables that are shown as cards have neither.
func (tb *tab) cramped() []string {
	tb.t.Helper()
	return mustAsk[[]string](tb, fmt.Sprintf(`(() => {
		const few = %d, many = %d, faults = [];
		const pen = document.createElement("canvas").getContext("2d");
		const lines = cell => {
			const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), found = [];
			for (let node; node = walk.nextNode();) {
				if (!node.data.trim() || !seen(node.parentElement)) continue;
				const range = document.createRange();
				range.selectNodeContents(node);
				found.push(new Set([...range.getClientRects()].map(r => Math.round(r.top))).size);
			}
			return Math.max(0, ...found);
		};
		for (const table of document.querySelectorAll("table")) {
			if (!seen(table) || getComputedStyle(table).display !== "table") continue;
			for (const cell of table.querySelectorAll("td, th")) {
				if (!seen(cell)) continue;
				const style = getComputedStyle(cell);
				pen.font = style.font;
				const sample = "the certificate of example.com", character = pen.measureText(sample).width / sample.length;
				const width = cell.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
				const n = lines(cell);
				if (n > 1 && width < few * character) faults.push(Math.round(width / character) + " characters in " + n + " lines: " + squeeze(cell.innerText).slice(0, 80));
			}
			for (const row of table.rows) {
				const n = row.clientHeight / parseFloat(getComputedStyle(row).lineHeight);
				if (n > many + 1) faults.push("a row of " + Math.round(n) + " lines: " + squeeze(row.innerText).slice(0, 80));
			}
		}
		return faults.slice(0, 6);
	})()`, fewCharacters, manyLines))
}

// portray writes pictures of the whole page if they were asked for.
func (tb *tab) portray(name string, width int64) {
	tb.t.Helper()
	if *everyLook == "" {
		return
	}
	for _, scheme := range []string{"light", "dark"} {
		tb.media("prefers-color-scheme: " + scheme)
		height := min(6000, mustAsk[int64](tb, "document.scrollingElement.scrollHeight"))
		whole := true
		shot := call(tb, page.CaptureScreenshot, page.CaptureScreenshotParams{
			CaptureBeyondViewport: &whole, Clip: &page.Viewport{Width: float64(width), Height: float64(height), Scale: 1},
		})
		file := filepath.Join(*everyLook, fmt.Sprintf("%s-%04d-%s.png", name, width, scheme))
		if err := os.WriteFile(file, shot.Data, 0o644); err != nil {
			tb.t.Fatal(err)
		}
	}
	tb.media("prefers-color-scheme: light")
}

// testCrampedTablesAreFound checks the check: a table with too many columns has faults, the
// same one with room has none.
func testCrampedTablesAreFound(t *testing.T, c *chromium) {
	cell := "<td>a text that is longer than the column in which it stands</td>"
	tb := c.tab(t, pages(t, `<table width="100%"><tr>`+strings.Repeat(cell, 8)+`</tr></table>`))
	tb.open("/")
	tb.viewport(size{700, 800})
	found := strings.Join(tb.cramped(), "\n")
	if !strings.Contains(found, "characters in ") {
		t.Errorf("at 700 px: %q", found)
	}
	tb.viewport(size{320, 800})
	if found := strings.Join(tb.cramped(), "\n"); !strings.Contains(found, "characters in ") {
		t.Errorf("at 320 px: %q", found)
	}
	tb.viewport(size{3000, 800})
	if found := tb.cramped(); len(found) > 0 {
		t.Errorf("at 3,000 px: %q", found)
	}
}
