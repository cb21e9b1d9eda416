package harness

import "syscall"

// endWithParent returns attributes of a process that ends with its parent.
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
