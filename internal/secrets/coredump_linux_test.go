package secrets

import (
	"testing"

	"golang.org/x/sys/unix"
)

func dumpableIsOff(t *testing.T) {
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 0 {
		t.Errorf("dumpable is %d, %v", dumpable, err)
	}
}
