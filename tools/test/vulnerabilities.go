package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// runGovulncheck compares the packages that Certpost is built from with the database of known
// vulnerabilities. One in a dependency fails the check if Certpost calls what is
// vulnerable. Those of the Go release are a note: only another release helps.
func (s *session) runGovulncheck(ctx context.Context) error {
	database, err := vulnerabilityDatabase(ctx)
	if err != nil {
		s.note("not checked for known vulnerabilities: %v", err)
		return nil
	}
	for _, program := range []struct{ name, dir string }{{"Certpost", "."}, {"certpost-kubernetes", kubernetesModule}} {
		if err := s.checkVulnerabilities(ctx, database, program.name, program.dir); err != nil {
			return err
		}
	}
	return nil
}

// checkVulnerabilities looks at the module of a program.
func (s *session) checkVulnerabilities(ctx context.Context, database, program, dir string) error {
	// The scan of packages takes seconds, that of calls minutes: it is needed only if
	// there is something to look for.
	found, err := s.scan(ctx, dir, database, "package")
	if err != nil {
		return err
	}
	if ids, fixed := found.ofGo(); len(ids) > 0 {
		s.note("this Go release has %d known vulnerabilities in packages that %s uses (%s); build releases with %s or later", len(ids), program, strings.Join(ids, " "), fixed)
	}
	if len(found.ofDependencies()) == 0 {
		return nil
	}
	if found, err = s.scan(ctx, dir, database, "symbol"); err != nil {
		return err
	}
	if list := found.ofDependencies(); len(list) > 0 {
		return fmt.Errorf("%s calls what is known to be vulnerable: %s", program, strings.Join(list, "; "))
	}
	return nil
}

// vulnerabilityDatabase returns the address of a database: that of GOVULNDB, the public one,
// or, where only modules can be downloaded, the module that the public one is made from.
func vulnerabilityDatabase(ctx context.Context) (string, error) {
	if own := os.Getenv("GOVULNDB"); own != "" {
		return own, reachable(ctx, own)
	}
	const public = "https://vuln.go.dev"
	unreachable := reachable(ctx, public)
	if unreachable == nil {
		return public, nil
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", "golang.org/x/vulndb@latest")
	cmd.Dir = os.TempDir() // outside a module, so that no go.mod or go.sum changes
	answer, err := cmd.Output()
	var module struct{ Dir string }
	if err != nil || json.Unmarshal(answer, &module) != nil || module.Dir == "" {
		return "", fmt.Errorf("the database is not reachable (%w), nor is the module golang.org/x/vulndb", unreachable)
	}
	return "file://" + filepath.ToSlash(filepath.Join(module.Dir, "data", "osv")), nil
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

// scan runs govulncheck in a module's directory: level is package or symbol.
func (s *session) scan(ctx context.Context, dir, database, level string) (findings, error) {
	cmd := s.command(ctx, filepath.Join(s.root, ".tools", "bin", "govulncheck"), "-db", database, "-scan", level, "-format", "json", "./...")
	cmd.Dir = filepath.Join(s.root, dir)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("govulncheck: %w", err)
	}
	return readFindings(&out, level)
}

// finding is one place at which a vulnerability is reached; govulncheck's JSON has other
// fields too.
type finding struct {
	OSV          string `json:"osv"` // its id: GO-2026-1234
	FixedVersion string `json:"fixed_version"`
	Trace        []struct {
		Module   string `json:"module"`
		Version  string `json:"version"`
		Package  string `json:"package"`
		Function string `json:"function"`
	} `json:"trace"` // what is vulnerable comes first
}

type findings []finding

// readFindings reads govulncheck's stream of JSON objects. It leaves out findings of a
// coarser level than the scan: a package that is not imported, a function that is not called.
func readFindings(r io.Reader, level string) (all findings, err error) {
	objects := 0
	for decoder := json.NewDecoder(r); ; objects++ {
		var object struct {
			Finding *finding `json:"finding"`
		}
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("govulncheck's output: %w", err)
		}
		f := object.Finding
		if f != nil && len(f.Trace) > 0 && f.Trace[0].Package != "" && (level == "package" || f.Trace[0].Function != "") {
			all = append(all, *f)
		}
	}
	if objects == 0 {
		return nil, errors.New("govulncheck printed nothing")
	}
	return all, nil
}

// standardLibrary is the name of Go's own module in findings.
const standardLibrary = "stdlib"

// ofGo returns the ids of vulnerabilities in the standard library, and the first release that
// has none of them.
func (f findings) ofGo() (ids []string, fixed string) {
	for _, one := range f {
		if one.Trace[0].Module == standardLibrary {
			ids = append(ids, one.OSV)
			if later(one.FixedVersion, fixed) {
				fixed = one.FixedVersion
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), strings.Replace(fixed, "v", "go", 1)
}

// ofDependencies describes the vulnerabilities in other modules, one for each line.
func (f findings) ofDependencies() []string {
	lines := map[string]bool{}
	for _, one := range f {
		if at := one.Trace[0]; at.Module != standardLibrary {
			fixed := "no version fixes it"
			if one.FixedVersion != "" {
				fixed = "fixed in " + one.FixedVersion
			}
			lines[fmt.Sprintf("%s in %s %s (%s)", one.OSV, at.Package, at.Version, fixed)] = true
		}
	}
	return slices.Sorted(maps.Keys(lines))
}

// later reports whether version a is later than b: vMAJOR.MINOR.PATCH, "" is before all.
func later(a, b string) bool {
	var x, y [3]int
	_, _ = fmt.Sscanf(a, "v%d.%d.%d", &x[0], &x[1], &x[2]) // what is not a number stays 0
	_, _ = fmt.Sscanf(b, "v%d.%d.%d", &y[0], &y[1], &y[2])
	return slices.Compare(x[:], y[:]) > 0
}
