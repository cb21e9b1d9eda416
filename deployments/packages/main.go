// Command packages makes the deb and the rpm of Certpost:
//
//	go run ./deployments/packages -version 1.2.3
//
// With -describe DIR it writes only the manual page and the completions, for archives.
//
// With the same source, Go and version it makes the same bytes: the time in them is that of the
// last commit, or SOURCE_DATE_EPOCH.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	b := build{log: os.Stdout}
	flag.StringVar(&b.version, "version", "", "version of the packages, such as 1.2.3 (required)")
	flag.StringVar(&b.arch, "arch", "amd64", "architecture, as Go names it")
	flag.StringVar(&b.out, "out", "dist", "directory for the packages")
	flag.StringVar(&b.program, "program", "", "program to pack, for this machine; without it, it is built")
	flag.StringVar(&b.nfpm, "nfpm", "", "nfpm to use; without it, it is built from tools/nfpm")
	flag.StringVar(&b.maintainer, "maintainer", "Certpost maintainers <certpost@users.noreply.github.com>", "maintainer of the packages")
	flag.StringVar(&b.describeIn, "describe", "", "directory for the manual page and the completions, instead of packages")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "packages:", err)
		os.Exit(1)
	}
}

// build is one run, in the root of the checkout.
type build struct {
	version, arch, out, program, nfpm, maintainer string
	describeIn                                    string

	log   io.Writer
	stage string // what is packed and is not in the checkout
	epoch int64  // seconds since 1970
}

func (b *build) run(ctx context.Context) (err error) {
	if b.version = strings.TrimPrefix(b.version, "v"); b.version == "" {
		return errors.New("-version is required")
	}
	if _, err := os.Stat("deployments/packages/nfpm.yaml"); err != nil {
		return fmt.Errorf("run this in the root of the checkout: %w", err)
	}
	if b.epoch, err = epoch(ctx); err != nil {
		return err
	}
	if b.describeIn != "" {
		b.stage = b.describeIn
		return errors.Join(os.MkdirAll(b.stage, 0o755), b.describe(ctx))
	}
	if b.stage, err = os.MkdirTemp("", "certpost-packages-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.stage)) }()
	if err := errors.Join(b.compile(ctx), b.describe(ctx), b.changelog(), os.MkdirAll(b.out, 0o755)); err != nil {
		return err
	}
	for _, packager := range []string{"deb", "rpm"} {
		if err := b.pack(ctx, packager); err != nil {
			return err
		}
	}
	return nil
}

// epoch is the time of everything in the packages.
func epoch(ctx context.Context) (int64, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return 0, fmt.Errorf("git log: %w; without a repository, set SOURCE_DATE_EPOCH", err)
		}
		text = strings.TrimSpace(string(out))
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return seconds, nil
}

// compile builds the program, static and without the tables that only debuggers read.
func (b *build) compile(ctx context.Context) error {
	if b.program != "" {
		program, err := os.ReadFile(b.program)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(b.stage, "certpost"), program, 0o755)
	}
	_, err := b.command(ctx, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + b.arch}, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -X main.version=v"+b.version, "-o", filepath.Join(b.stage, "certpost"), "./cmd/consumer")
	return err
}

// describe writes what the program says of itself.
func (b *build) describe(ctx context.Context) error {
	program := []string{"go", "run", "-buildvcs=false", "-ldflags=-X main.version=v" + b.version, "./cmd/consumer"} // on this machine
	if b.program != "" {
		program = []string{b.program}
	}
	for file, args := range map[string][]string{
		"certpost.1.gz": {"man"}, "certpost.bash": {"completion", "bash"}, "certpost.fish": {"completion", "fish"}, "_certpost": {"completion", "zsh"},
	} {
		text, err := b.command(ctx, nil, program[0], append(program[1:len(program):len(program)], args...)...)
		if err != nil {
			return err
		}
		if err := b.write(file, text); err != nil {
			return err
		}
	}
	return nil
}

// changelog writes the changelog that Debian requires.
func (b *build) changelog() error {
	when := time.Unix(b.epoch, 0).UTC().Format(time.RFC1123Z)
	return b.write("changelog.Debian.gz", fmt.Appendf(nil, "certpost (%s-1) unstable; urgency=medium\n\n  * See https://github.com/certpost/certpost/blob/main/CHANGELOG.md\n\n -- %s  %s\n",
		debianVersion(b.version), b.maintainer, when))
}

// debianVersion sorts before the release what semantic versioning sorts before it.
func debianVersion(version string) string { return strings.Replace(version, "-", "~", 1) }

// write stages a file; *.gz is compressed as `gzip -9n` does it.
func (b *build) write(name string, text []byte) error {
	if strings.HasSuffix(name, ".gz") {
		var packed bytes.Buffer
		w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		text = packed.Bytes()
	}
	return os.WriteFile(filepath.Join(b.stage, name), text, 0o644)
}

func (b *build) pack(ctx context.Context, packager string) error {
	nfpm := []string{"go", "tool", "-modfile=tools/nfpm/go.mod", "nfpm"}
	if b.nfpm != "" {
		nfpm = []string{b.nfpm}
	}
	args := append(nfpm[1:], "package", "--config", "deployments/packages/nfpm.yaml", "--packager", packager, "--target", b.out)
	out, err := b.command(ctx, []string{"STAGE=" + b.stage, "ARCH=" + b.arch, "VERSION=" + b.version, "MAINTAINER=" + b.maintainer}, nfpm[0], args...)
	if err == nil {
		_, err = b.log.Write(out)
	}
	return err
}

// command runs a program with the time of the packages, and returns what it prints.
func (b *build) command(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(b.epoch, 10)), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}
