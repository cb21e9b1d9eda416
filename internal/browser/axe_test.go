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

// axeHash is the SHA-256 of axe-core 4.14.1, unchanged from its npm package. Its license,
// MPL-2.0, is in the same directory.
const axeHash = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"

// axeTags are the rules that pages must satisfy: WCAG 2.2 at level AA, and axe-core's
// best practices.
const axeTags = `["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]`

func axeSource(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), "internal", "browser", "testdata", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	if got := hex.EncodeToString(sum[:]); got != axeHash {
		t.Fatalf("axe.min.js has the SHA-256 %s, want %s: to update it on purpose, change the hash too", got, axeHash)
	}
	return string(text)
}

// violation is one rule that a page breaks, as axe-core reports it.
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

// violations runs axe-core on the page. It is injected through DevTools, because the
// page's policy allows only its own scripts.
func (tb *tab) violations() []violation {
	tb.t.Helper()
	if tb.scriptless { // axe-core needs timers; the page's own scripts stay unloaded
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

// accessible fails the test if axe-core finds a violation.
func (tb *tab) accessible(where string) {
	tb.t.Helper()
	for _, v := range tb.violations() {
		tb.t.Errorf("%s %s: %s", tb.path(), where, v)
	}
}
