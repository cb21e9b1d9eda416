package dashboard

import (
	"strings"
	"testing"
)

// What a page asks for by itself says so, or a session would not end for as long as a
// page of it is open: the guard knows it by these headers.
func TestScriptsDoNotUseTheSession(t *testing.T) {
	t.Parallel()
	asked := 0
	for _, name := range []string{"app.js", "live.js"} {
		script, err := static.ReadFile("static/" + name)
		must(t, err)
		for line := range strings.Lines(string(script)) {
			if !strings.Contains(line, "fetch(") {
				continue
			}
			asked++
			if !strings.Contains(line, `"HX-Request": "true"`) && !strings.Contains(line, `Accept: "text/event-stream"`) {
				t.Errorf("%s: %s", name, strings.TrimSpace(line))
			}
		}
	}
	if asked < 2 {
		t.Errorf("%d requests were found", asked)
	}
}
