//go:build unix && !linux

package secrets

import "golang.org/x/sys/unix"

func forbidCoreDumps() error {
	if unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) != nil {
		return ErrCoreDumps
	}
	return nil
}
