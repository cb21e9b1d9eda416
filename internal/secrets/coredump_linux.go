package secrets

import "golang.org/x/sys/unix"

func forbidCoreDumps() error {
	limit := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	dumpable := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if limit != nil || dumpable != nil {
		return ErrCoreDumps
	}
	return nil
}
