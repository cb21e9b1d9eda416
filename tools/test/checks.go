package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

type check struct {
	name string
	run  func(context.Context) error
}

// kubernetesModule is the directory of certpost-kubernetes, a module of its own.
const kubernetesModule = "cmd/certpost-kubernetes"

// checks lists the checks of the source, fast ones first.
func (s *session) checks() []check {
	goRun := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error { return s.command(ctx, "go", args...).Run() }
	}
	return []check{
		{"gofmt", s.checkFormat},
		{"go.mod is tidy", goRun("mod", "tidy", "-diff")},
		{"modules are those of go.sum", goRun("mod", "verify")},
		{"go vet", goRun("vet", "./...")},
		{"go vet of nightly tests", goRun("vet", "-tags=apiserver", "./cmd/consumer", "./internal/lab")},
		{kubernetesModule, goRun("test", "-C", kubernetesModule, "-vet=all", "./...")},
		{"tools/test itself", goRun("test", "-C", "tools/test", "-vet=all", "./...")},
		{"Taskfile.yml", goRun("tool", "-modfile=tools/task/go.mod", "task", "--list-all", "--color=false")},
		{"staticcheck", s.runStaticcheck},
		{"govulncheck", s.runGovulncheck},
	}
}

func (s *session) checkFormat(ctx context.Context) error {
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	gofmt := s.command(ctx, filepath.Join(strings.TrimSpace(string(goroot)), "bin", "gofmt"), "-l", ".")
	var out bytes.Buffer
	gofmt.Stdout = &out
	if err := gofmt.Run(); err != nil {
		return fmt.Errorf("gofmt: %w", err)
	}
	if out.Len() > 0 {
		fmt.Print(out.String())
		return errors.New("these files are not formatted: run gofmt -w on them")
	}
	return nil
}

func (s *session) runStaticcheck(ctx context.Context) error {
	return s.command(ctx, filepath.Join(s.root, ".tools", "bin", "staticcheck"), "./...").Run()
}
