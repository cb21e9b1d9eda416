package secrets

import "errors"

// ErrCoreDumps is returned by ForbidCoreDumps when a part of it failed.
var ErrCoreDumps = errors.New("core dumps could not be disabled: a crash of this process may write its secrets to disk")

// ForbidCoreDumps keeps the kernel from writing the memory of this process to a file
// when it crashes. On Linux it also keeps other processes of the same user from
// reading that memory (PR_SET_DUMPABLE, see prctl(2)). Call it once at start. On
// systems that are not Unix it does nothing.
func ForbidCoreDumps() error { return forbidCoreDumps() }
