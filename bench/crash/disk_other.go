//go:build !linux

package main

import (
	"context"
	"errors"
)

// disk is a file system of its own whose power can be cut: only on Linux.
type disk struct{ dir string }

func newDisk(context.Context, string) (*disk, error) {
	return nil, errors.New("only Linux has file systems whose power can be cut")
}

func (*disk) cut(context.Context) error     { return nil }
func (*disk) unmount(context.Context) error { return nil }
