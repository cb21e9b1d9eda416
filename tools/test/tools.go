package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// tool is a module whose programs the tests or checks run. Each tool has its own module, so
// that its dependencies do not become dependencies of Certpost.
type tool struct {
	module   string
	dir      string   // of the module; "" means the directory of that name below tools/
	programs []string // built into .tools/bin
	pkg      string   // argument of go build; "tool" means the tools of the module's go.mod
	lint     bool     // needed by the source checks; the others only by tests
}

var tools = []tool{
	{module: "lint", programs: []string{"staticcheck", "govulncheck"}, pkg: "tool", lint: true},
	{module: "pebble", programs: []string{"pebble", "pebble-challtestsrv"}, pkg: "tool"},
	{module: "nats", programs: []string{"nats"}, pkg: "tool"},
	{module: "vault", programs: []string{"vault-dev"}, pkg: "."},
	{module: "cloudevents", programs: []string{"cloudevents-publish"}, pkg: "."},
	{module: "dex", programs: []string{"dex-dev"}, pkg: "."},
	{module: "caddy", dir: "examples/caddy", programs: []string{"caddy-certpost"}, pkg: "./cmd/caddy"},
	{module: "stepca", programs: []string{"step-ca-dev"}, pkg: "."},
	{module: "consultemplate", programs: []string{"consul-template"}, pkg: "tool"},
	{module: "step", programs: []string{"step-dev"}, pkg: "."},
	{module: "containers", programs: []string{"containers-check"}, pkg: "."},
	{module: "chart", programs: []string{"chart-check"}, pkg: "."},
	{module: "nfpm", programs: []string{"nfpm"}, pkg: "tool"},
}

// buildTools builds the tools that are missing or whose source has changed.
func (s *session) buildTools(ctx context.Context, lintOnly bool) error {
	if err := os.MkdirAll(filepath.Join(s.root, ".tools", "bin"), 0o755); err != nil {
		return err
	}
	var failures []error
	for _, t := range tools {
		if lintOnly && !t.lint {
			continue
		}
		if err := s.buildTool(ctx, t); err != nil {
			failures = append(failures, fmt.Errorf("tool %s: %w", t.module, err))
		}
	}
	return errors.Join(failures...)
}

func (s *session) buildTool(ctx context.Context, t tool) error {
	source := filepath.Join(s.root, filepath.FromSlash(cmp.Or(t.dir, "tools/"+t.module)))
	sum, err := fingerprint(source)
	if err != nil {
		return err
	}
	stamp := filepath.Join(s.root, ".tools", t.module+".built")
	if s.built(t, stamp, sum) {
		fmt.Printf("    %v: up to date\n", t.programs)
		return nil
	}
	fmt.Printf("    %v: building\n", t.programs)
	// Absolute, because with -C a relative path would be relative to the module. For
	// several programs go build needs a directory, with a separator at its end.
	output := filepath.Join(s.root, ".tools", "bin") + string(filepath.Separator)
	if len(t.programs) == 1 {
		output += t.programs[0]
	}
	if err := s.command(ctx, "go", "build", "-C", source, "-o", output, t.pkg).Run(); err != nil {
		return fmt.Errorf("go build: %w", err)
	}
	return os.WriteFile(stamp, sum, 0o644)
}

// built reports whether the programs exist and were built from this source.
func (s *session) built(t tool, stamp string, sum []byte) bool {
	before, err := os.ReadFile(stamp)
	if err != nil || !bytes.Equal(before, sum) {
		return false
	}
	for _, program := range t.programs {
		if _, err := os.Stat(filepath.Join(s.root, ".tools", "bin", program)); err != nil {
			return false
		}
	}
	return true
}

// fingerprint is a hash over the names and contents of a directory's files,
// and over the compiler's version.
func fingerprint(dir string) ([]byte, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %x\n", name, sha256.Sum256(data))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []byte(hex.EncodeToString(h.Sum(nil)) + "\n"), nil
}
