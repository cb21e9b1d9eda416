//go:build !unix

package mailhost

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
)

var supported = errors.New("certificates are deployed on Unix only: owners, modes and renames are different on this system")

func ownerOf(fs.FileInfo) (uid, gid int) { return -1, -1 }

func lockDirectory(context.Context, string) (*os.File, error) { return nil, supported }

func hangUp(int) error { return supported }

func mayRun(string) bool { return false }

const noFollow = 0

func ownGroup(*exec.Cmd) {}
