package main

import (
	"os"
	"strings"
	"testing"
)

// Saving definitions checks the new and changed targets in the background, and the log
// says what was found.
//
// Fault: a mistake in new or changed definitions that only the relay or the store of
// secrets shows. Result: checked in the background when they are saved; the log names it
// before a certificate is due.
func TestSavedTargetsAreProbed(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "")
	saved, err := os.ReadFile(o.path("targets.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	o.write("wrong", relayPassword+" ")
	wrong := strings.Replace(o.target("wrong", "to: [ops@demo.example]"), o.dir+"/password", o.dir+"/wrong", 1)
	o.write("targets.yaml", string(saved)+o.target("good", "to: [ops@demo.example]")+wrong)
	line := func(parts ...string) bool {
		for l := range strings.Lines(o.log.String()) {
			all := strings.Contains(l, `"message":"check of changed targets"`)
			for _, part := range parts {
				all = all && strings.Contains(l, part)
			}
			if all {
				return true
			}
		}
		return false
	}
	o.until("the good target to be checked", func() bool {
		return line(`"level":"info"`, `"targets":["good"]`, `"check":"relay"`, "AUTH plain accepted")
	})
	o.until("the wrong one to be checked", func() bool {
		return line(`"level":"error"`, `"targets":["wrong"]`, `"check":"relay"`, "535") &&
			line(`"level":"warn"`, `"targets":["wrong"]`, `"check":"secret"`, "ends with a space")
	})
	if strings.Contains(o.log.String(), relayPassword) {
		t.Error("the log has the password")
	}
	if line(`"targets":["ops"`) {
		t.Error("a target that has not changed was checked")
	}
}
