package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

type check struct {
	name string
	run  func(context.Context) error
}

// checks lists the checks of the source, fast ones first.
func (s *session) checks() []check {
	goRun := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error { return s.command(ctx, "go", args...).Run() }
	}
	return []check{
		{"gofmt", s.checkFormat},
		{"go.mod is tidy", goRun("mod", "tidy", "-diff")},
		{"go vet", goRun("vet", "./...")},
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

// runGovulncheck needs the vulnerability database, which is on the network
// (GOVULNDB sets another one). If it is not reachable, the check is only noted
// as not done.
func (s *session) runGovulncheck(ctx context.Context) error {
	database := os.Getenv("GOVULNDB")
	if database == "" {
		database = "https://vuln.go.dev"
	}
	if err := reachable(ctx, database); err != nil {
		s.note("not checked for known vulnerabilities: the database is not reachable: %v", err)
		return nil
	}
	return s.command(ctx, filepath.Join(s.root, ".tools", "bin", "govulncheck"), "./...").Run()
}

// reachable returns an error if the vulnerability database does not answer. A
// file: database is not checked.
func reachable(ctx context.Context, database string) error {
	if strings.HasPrefix(database, "file:") {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, strings.TrimSuffix(database, "/")+"/index/db.json", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", database, resp.Status)
	}
	return nil
}
