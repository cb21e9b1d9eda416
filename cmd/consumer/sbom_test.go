package main

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// The bill of materials has each linked module once, with the version and hash of go.sum,
// and the Go release.
func TestSBOM(t *testing.T) {
	t.Parallel()
	out := command(t, nil, "version", "--sbom").done(t)
	if again := command(t, nil, "version", "--sbom").done(t); again != out {
		t.Error("the second time it prints something else")
	}
	b := read[bom](t, out)
	if b.Format != "CycloneDX" || b.SpecVersion != "1.6" || b.Metadata.Component.Type != "application" || !strings.HasPrefix(b.Metadata.Component.PURL, "pkg:golang/github.com/certpost/certpost@") {
		t.Errorf("%+v", b.Metadata)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if other := command(t, nil, "version", "--sbom", "--program", self).done(t); other != out {
		t.Errorf("read from the file: %s", other)
	}
	if said := command(t, nil, "version", "--sbom", "--program", filepath.Join(lab.Root(), "go.mod")); said.code != exitFailed || !strings.Contains(said.stderr, "has no record of modules") {
		t.Errorf("%+v", said)
	}
	if said := command(t, nil, "version", "--program", self); said.code != exitUsage {
		t.Errorf("%+v", said)
	}
	sums, err := os.ReadFile(filepath.Join(lab.Root(), "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range b.Components {
		if seen[c.Name] {
			t.Errorf("%s is there twice", c.Name)
		}
		seen[c.Name] = true
		if c.Name == "std" {
			if "go"+c.Version != runtime.Version() {
				t.Errorf("the Go release is %s, not %s", runtime.Version(), c.Version)
			}
			continue
		}
		if len(c.Properties) != 1 || !strings.Contains(string(sums), c.Name+" "+c.Version+" "+c.Properties[0].Value+"\n") {
			t.Errorf("go.sum does not have %+v", c)
		}
	}
	for _, name := range []string{"std", "github.com/nats-io/nats-server/v2", "github.com/wneessen/go-mail", "golang.org/x/crypto"} {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
	if len(b.Dependencies) != 1 || len(b.Dependencies[0].DependsOn) != len(b.Components) || b.Dependencies[0].Ref != b.Metadata.Component.Ref {
		t.Errorf("dependencies: %+v", b.Dependencies)
	}
	replaced := billOfMaterials(&debug.BuildInfo{GoVersion: "go1.26.10", Deps: []*debug.Module{{Path: "example.com/a", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/b", Version: "v2.0.0+incompatible", Sum: "h1:x="}}}})
	if got := replaced.Components[1]; got.Name != "example.com/b" || got.PURL != "pkg:golang/example.com/b@v2.0.0%2Bincompatible" || got.Properties[0].Value != "h1:x=" {
		t.Errorf("a replaced module: %+v", got)
	}
}
