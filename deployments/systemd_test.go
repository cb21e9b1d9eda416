package deployments

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// exposure has the units that cannot keep below 1.5 on the scale of `systemd-analyze security`.
var exposure = map[string]string{}

// TestUnits has systemd's own tool read the units, and measure what a broken-into service could
// reach. For unknown keys and wrong values it only writes a line, and ends well.
func TestUnits(t *testing.T) {
	t.Parallel()
	analyze := lab.Need(t, "systemd-analyze")
	program := lab.Build(t)
	units, err := filepath.Glob("systemd/*.service")
	if err != nil || len(units) < 2 {
		t.Fatalf("found %q, %v", units, err)
	}
	for _, unit := range units {
		text := strings.Replace(read(t, unit), "\nExecStart=certpost ", "\nExecStart="+program+" ", 1)
		file := filepath.Join(t.TempDir(), filepath.Base(unit))
		lab.Write(t, file, []byte(text))
		for _, args := range [][]string{{"verify", "--man=no"}, {"security", "--no-pager", "--offline=yes", "--threshold=" + threshold(unit)}} {
			cmd := exec.CommandContext(t.Context(), analyze, append(args, file)...)
			var said, complaints bytes.Buffer
			cmd.Stdout, cmd.Stderr = &said, &complaints
			if err := cmd.Run(); err != nil || complaints.Len() > 0 {
				t.Errorf("systemd-analyze %s %s: %v\n%s%s", args[0], unit, err, complaints.String(), said.String())
			}
		}
		for _, want := range []string{"\nType=notify\n", "\nWatchdogSec=", "\nRestart=always\n", "\nExecStart=" + program + " "} {
			if !strings.Contains(text, want) {
				t.Errorf("%s has no %q", unit, strings.TrimSpace(want))
			}
		}
	}
}

func threshold(unit string) string {
	if t, there := exposure[filepath.Base(unit)]; there {
		return t
	}
	return "15"
}
