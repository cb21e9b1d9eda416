//go:build !unix

package lab

import (
	"os"
	"os/exec"
)

// Without process groups a server ends alone. Those that start others are
// tested on Unix only.

func ownGroup(*exec.Cmd) {}

func terminate(p *os.Process) { p.Kill() }

func killGroup(int) {}

func guard(int) (dismiss func(), err error) { return func() {}, nil }
