//go:build unix

package road

import (
	"syscall"
	"time"
)

// ProcessorTime returns the processor time that this process has used so far, including
// its relays. On a machine with other work it varies less than elapsed time. 0 if the
// system does not report it.
func ProcessorTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
