package secrets

import "errors"

// ErrCoreDumps is what ForbidCoreDumps returns when it could not do all of it.
var ErrCoreDumps = errors.New("core dumps could not be switched off: a crash of this process may write its secrets to disk")

// ForbidCoreDumps keeps the kernel from writing the memory of this process to a
// file when it crashes, and on Linux other processes of the same user from
// reading it (PR_SET_DUMPABLE, see prctl(2)). Call it once at start. Where the
// system knows no such thing it does nothing.
func ForbidCoreDumps() error { return forbidCoreDumps() }
