//go:build !unix

package broker

// runCrashChild: nobody is asked to crash where the tests know no SIGKILL.
func runCrashChild() (asked bool, err error) { return false, nil }
