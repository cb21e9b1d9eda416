//go:build unix

package lab

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// ownGroup starts the program in its own session, and so in its own process group.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
}

// terminate sends SIGTERM.
func terminate(p *os.Process) { p.Signal(syscall.SIGTERM) }

// killGroup kills the remaining processes of the group that ownGroup made.
func killGroup(pid int) { syscall.Kill(-pid, syscall.SIGKILL) }

// guard ends a process group if this process ends without its cleanups, as it does on a
// time-out: a shell waits for the end of a pipe. (Linux has PR_SET_PDEATHSIG for that, but
// it is lost when a program changes its user, as Postfix does.) dismiss ends the guard.
func guard(pid int) (dismiss func(), err error) {
	cmd := exec.Command("sh", "-c", `read -r dismissed && exit
kill -s TERM -- "-$1"; sleep 5; kill -s KILL -- "-$1"`, "guard", strconv.Itoa(pid))
	ownGroup(cmd)
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the guard of its process group: %w", err)
	}
	return func() {
		io.WriteString(pipe, "dismissed\n")
		cmd.Wait()
	}, nil
}
