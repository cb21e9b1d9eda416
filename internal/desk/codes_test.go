package desk

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// TestCodesOnThePage keeps docs/codes.md equal to what pages and commands say of each code.
func TestCodesOnThePage(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("| code | class | retried | what happened | what to do |\n|---|---|---|---|---|\n")
	for _, code := range verdict.Codes() {
		w, ok := byCode[code]
		if !ok {
			t.Fatalf("%s has no words", code)
		}
		retried := map[bool]string{true: "yes", false: "no"}[code.Retried()]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", code, code.Class(), retried, w.cause, w.remedy)
		occasions := slices.DeleteFunc(slices.Collect(maps.Keys(byPhase)), func(o occasion) bool { return o.code != code })
		phases := verdict.Phases()
		slices.SortFunc(occasions, func(a, b occasion) int {
			return cmp.Compare(slices.Index(phases, a.phase), slices.Index(phases, b.phase))
		})
		for _, o := range occasions {
			fmt.Fprintf(&b, "| - in %s | | | %s | %s |\n", o.phase, byPhase[o].cause, byPhase[o].remedy)
		}
	}
	lab.Document(t, "docs/codes.md", map[string]string{"codes": b.String()})
}
