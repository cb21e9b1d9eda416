// Package inputfile opens and reads the files that people, clients and directories name:
// certificates, keys, configurations. A path may lead to anything, also in a directory in which
// others may write, so there is one rule for all of them: only regular files are read.
package inputfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrNotRegular is the error of a path that leads to a named pipe, a device, a socket or a directory.
// An error of Open or Read says which.
var ErrNotRegular = errors.New("not a regular file")

// Open opens a regular file for reading. It never waits for the writer of a named pipe, and judges
// what it has opened, so it does not matter if the path leads elsewhere a moment later.
//
// What this process has open already may be anything: /dev/stdin, and /dev/fd/63 of a shell's <(...).
//
// Errors are an *fs.PathError: ErrNotRegular, or of the file system.
func Open(path string) (*os.File, error) {
	// Stat first: to open a device may do something, and to open a socket says nothing.
	info, err := os.Stat(path)
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		at.Op = "open"
	}
	if err == nil {
		err = regular(path, info)
	}
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err = file.Stat(); err == nil {
		err = regular(path, info)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Read returns the content of a file that Open opens, and has at most the given number of bytes.
func Read(path string, most int64) ([]byte, error) {
	file, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(text)) > most {
		err = &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has more than %d bytes, which no such file has", most)}
	}
	if err != nil {
		clear(text) // perhaps a part of a key
		return nil, err
	}
	return text, nil
}

func regular(path string, info fs.FileInfo) error {
	mode := info.Mode()
	if mode.IsRegular() || isOpen(path) && !mode.IsDir() {
		return nil
	}
	kind := "a device"
	switch {
	case mode.IsDir():
		kind = "a directory"
	case mode&fs.ModeNamedPipe != 0:
		kind = "a named pipe"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	}
	return &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("it is %s, %w", kind, ErrNotRegular)}
}

// isOpen reports whether a path is a name of a file that this process has open. A link to one is not
// such a name: it may be anybody's.
func isOpen(path string) bool {
	path = filepath.Clean(path)
	return path == "/dev/stdin" || strings.HasPrefix(path, "/dev/fd/") || strings.HasPrefix(path, "/proc/self/fd/")
}
