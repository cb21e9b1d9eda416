package dashboard

import (
	"strings"
	"testing"
)

// Requests that a page sends automatically must have headers by which the guard
// recognises them; otherwise a session would not end while one of its pages is open.
func TestScriptsDoNotUseTheSession(t *testing.T) {
	t.Parallel()
	asked := 0
	for _, name := range []string{"app.js", "live.js", "times.js"} {
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
		t.Errorf("found only %d requests", asked)
	}
}
