package browser

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/certpost/certpost/internal/lab"
)

// axe-core 4.14.1 as its npm package has it, under the MPL-2.0 that stands beside it.
const axeHash = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

// axeTags are the rules that pages keep: WCAG 2.2 at level AA, and what axe-core
// calls good practice besides.
const axeTags = `["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]`

func axeSource(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), "internal", "browser", "testdata", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	if got := hex.EncodeToString(sum[:]); got != axeHash {
		t.Fatalf("axe.min.js has the SHA-256 %s, want %s: a new version is put in on purpose, with its hash", got, axeHash)
	}
	return string(text)
}

// violation is one rule that a page breaks, as axe-core tells it.
type violation struct {
	ID     string `json:"id"`
	Impact string `json:"impact"`
	Help   string `json:"help"`
	Nodes  []struct {
		Target  []any  `json:"target"`
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

func (v violation) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s (%s): %s", v.ID, v.Impact, v.Help)
	for i, node := range v.Nodes {
		if i == 5 {
			fmt.Fprintf(&text, "\n    and %d more", len(v.Nodes)-i)
			break
		}
		fmt.Fprintf(&text, "\n    %v: %s\n      %s", node.Target, node.HTML, strings.ReplaceAll(node.Summary, "\n", "\n      "))
	}
	return text.String()
}

// violations runs axe-core on the page. It comes in by DevTools and not as a part of
// the page, whose policy allows none but its own scripts.
func (tb *tab) violations() []violation {
	tb.t.Helper()
	if tb.scriptless { // it takes timers; the page's own scripts were not loaded and stay so
		tb.scripts(true)
		defer tb.scripts(false)
	}
	if _, err := tb.evaluate(`typeof axe === "object" || ` + "(() => {" + axeSource(tb.t) + "})()"); err != nil {
		tb.t.Fatalf("%s: loading axe-core: %v", tb.path(), err)
	}
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[[]byte](
		`axe.run(document, {runOnly: `+axeTags+`, resultTypes: ["violations"]}).then(r => r.violations)`, chromedp.EvalAwaitPromise))
	if err != nil {
		tb.t.Fatalf("%s: axe-core: %v", tb.path(), err)
	}
	var found []violation
	if err := json.Unmarshal(text, &found); err != nil {
		tb.t.Fatal(err)
	}
	return found
}

// accessible wants axe-core to find nothing.
func (tb *tab) accessible(where string) {
	tb.t.Helper()
	for _, v := range tb.violations() {
		tb.t.Errorf("%s %s: %s", tb.path(), where, v)
	}
}
