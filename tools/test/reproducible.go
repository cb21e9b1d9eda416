package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// reproducible builds the committed source twice, from directories with different names and
// with empty build caches, and compares the programs. It compiles everything twice, which
// takes minutes, so it is not part of a normal run.
func (s *session) reproducible(ctx context.Context) error {
	source, err := exec.CommandContext(ctx, "git", "-C", s.root, "archive", "--format=tar", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("git archive: %w", err)
	}
	var sums []string
	for _, name := range []string{"a", "another-place/with a longer name"} {
		sum, err := s.buildIn(ctx, name, source)
		if err != nil {
			return err
		}
		fmt.Printf("    sha256 %s\n", sum)
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] {
		return errors.New("two builds of the same source differ")
	}
	return nil
}

// buildIn builds the source as releases are built, and returns the program's SHA-256.
func (s *session) buildIn(ctx context.Context, name string, source []byte) (sum string, err error) {
	base, err := os.MkdirTemp("", "certpost-build-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	dir, program := filepath.Join(base, name), filepath.Join(base, "certpost")
	if err := unpack(source, dir); err != nil {
		return "", err
	}
	cmd := s.command(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", program, "./cmd/consumer")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOCACHE="+filepath.Join(base, "cache"))
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go build: %w", err)
	}
	built, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(built)), nil
}

// unpack writes the files of a tar archive below a directory.
func unpack(archive []byte, dir string) error {
	for files := tar.NewReader(bytes.NewReader(archive)); ; {
		entry, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(entry.Name))
		if entry.Typeflag != tar.TypeReg || !strings.HasPrefix(path, dir+string(filepath.Separator)) {
			continue // directories are made for their files; the source needs nothing else
		}
		content, err := io.ReadAll(files)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, entry.FileInfo().Mode().Perm()); err != nil {
			return err
		}
	}
}
