//go:build !unix

package lab

import (
	"os"
	"os/exec"
)

// Without process groups only the server itself ends. Servers that start other processes
// are tested only on Unix.

func ownGroup(*exec.Cmd) {}

func terminate(p *os.Process) { p.Kill() }

func killGroup(int) {}

func guard(int) (dismiss func(), err error) { return func() {}, nil }
