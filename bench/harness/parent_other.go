//go:build !linux

package harness

import "syscall"

// endWithParent returns attributes of a process that ends with its parent: this system has
// none.
func endWithParent() *syscall.SysProcAttr { return nil }
