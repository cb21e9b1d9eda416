package main

import (
	"slices"
	"strings"
	"testing"
)

func TestFindings(t *testing.T) {
	const output = `{"config": {"scan_level": "package"}}
{"osv": {"id": "GO-2026-0001"}}
{"finding": {"osv": "GO-2026-0001", "fixed_version": "v1.26.9", "trace": [{"module": "stdlib", "version": "v1.26.8"}]}}
{"finding": {"osv": "GO-2026-0001", "fixed_version": "v1.26.9", "trace": [{"module": "stdlib", "version": "v1.26.8", "package": "net/http"}]}}
{"finding": {"osv": "GO-2026-0002", "fixed_version": "v1.26.10", "trace": [{"module": "stdlib", "version": "v1.26.8", "package": "os"}]}}
{"finding": {"osv": "GO-2026-0003", "fixed_version": "v2.0.0", "trace": [{"module": "example.com/m", "version": "v1.0.0"}]}}
{"finding": {"osv": "GO-2026-0004", "trace": [{"module": "example.com/m", "version": "v1.0.0", "package": "example.com/m/p"}]}}
{"finding": {"osv": "GO-2026-0005", "fixed_version": "v1.0.1", "trace": [{"module": "example.com/m", "version": "v1.0.0", "package": "example.com/m/p", "function": "F"}, {"module": "here"}]}}
`
	for level, want := range map[string][]string{
		"package": {"GO-2026-0004 in example.com/m/p v1.0.0 (no version fixes it)", "GO-2026-0005 in example.com/m/p v1.0.0 (fixed in v1.0.1)"},
		"symbol":  {"GO-2026-0005 in example.com/m/p v1.0.0 (fixed in v1.0.1)"},
	} {
		found, err := readFindings(strings.NewReader(output), level)
		if err != nil || !slices.Equal(found.ofDependencies(), want) {
			t.Errorf("%s: %v, %q", level, err, found.ofDependencies())
		}
		ids, fixed := found.ofGo()
		if level == "package" && (!slices.Equal(ids, []string{"GO-2026-0001", "GO-2026-0002"}) || fixed != "go1.26.10") || level == "symbol" && len(ids) != 0 {
			t.Errorf("%s: of Go: %q, %s", level, ids, fixed)
		}
	}
	for _, broken := range []string{"", `{"finding": `, "no JSON"} {
		if _, err := readFindings(strings.NewReader(broken), "package"); err == nil {
			t.Errorf("%q was read without an error", broken)
		}
	}
}
