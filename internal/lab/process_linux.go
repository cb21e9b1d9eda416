package lab

import (
	"os"
	"os/exec"
	"syscall"
)

// ownGroup gives the program a session and process group of its own, and has the kernel
// end it when the test's process ends without its cleanups, as on a time-out.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
}

func terminate(p *os.Process) { p.Signal(syscall.SIGTERM) }

// killGroup ends what is left of the group that ownGroup made.
func killGroup(pid int) { syscall.Kill(-pid, syscall.SIGKILL) }
