//go:build !unix

package queue

// runCrashChild does nothing: the crash tests need SIGKILL.
func runCrashChild() (isChild bool, err error) { return false, nil }
