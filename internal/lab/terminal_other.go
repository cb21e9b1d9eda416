//go:build !linux

package lab

import (
	"errors"
	"os"
)

func openTerminal() (person, program *os.File, err error) {
	return nil, nil, errors.New("tests know how to open one on Linux alone")
}
