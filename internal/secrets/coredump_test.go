//go:build unix

package secrets

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// It cannot be undone, so it is tested in a process of its own.
func TestForbidCoreDumps(t *testing.T) {
	if os.Getenv("CERTPOST_TEST_FORBID") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestForbidCoreDumps$", "-test.v")
		cmd.Env = append(os.Environ(), "CERTPOST_TEST_FORBID=yes")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "PASS: TestForbidCoreDumps") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := ForbidCoreDumps(); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Cur != 0 || limit.Max != 0 {
		t.Errorf("the limit is %+v, %v", limit, err)
	}
	dumpableIsOff(t)
}
