//go:build unix

package road

import (
	"syscall"
	"time"
)

// ProcessorTime is what this process has used so far, relays in it included. On
// a machine that others use as well it is the steadier figure.
func ProcessorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
