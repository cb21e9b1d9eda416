package main

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
)

// bom is a bill of materials in CycloneDX 1.6, JSON (ECMA-424). It has no serial number
// and no time, so that the same program always prints the same.
type bom struct {
	Schema       string          `json:"$schema"`
	Format       string          `json:"bomFormat"`
	SpecVersion  string          `json:"specVersion"`
	Version      int             `json:"version"`
	Metadata     bomMetadata     `json:"metadata"`
	Components   []bomComponent  `json:"components"`
	Dependencies []bomDependency `json:"dependencies"`
}

type bomMetadata struct {
	Component bomComponent `json:"component"`
}

type bomComponent struct {
	Type       string        `json:"type"` // application or library
	Ref        string        `json:"bom-ref"`
	Name       string        `json:"name"`
	Version    string        `json:"version"`
	PURL       string        `json:"purl"`
	Properties []bomProperty `json:"properties,omitempty"`
}

type bomProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type bomDependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// sbom prints the modules that are linked into this very program, as the Go linker has
// recorded them, and the Go release. With a file, it describes that program, which may be one for another
// machine, and gives it the version of this one.
func (a *app) sbom(file string) error {
	if file != "" {
		info, err := buildinfo.ReadFile(file)
		if err != nil {
			return fmt.Errorf("--program %s has no record of modules: %w", file, err)
		}
		return a.json(billOfMaterials(info))
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("the program was built without the record of its modules")
	}
	return a.json(billOfMaterials(info))
}

func billOfMaterials(info *debug.BuildInfo) bom {
	main := newComponent("application", info.Main.Path, programVersion(), "")
	if main.Name == "" { // a program that was built from files
		main = newComponent("application", "github.com/certpost/certpost", programVersion(), "")
	}
	b := bom{Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", SpecVersion: "1.6", Version: 1, Metadata: bomMetadata{main}}
	b.Components = append(b.Components, newComponent("library", "std", strings.TrimPrefix(info.GoVersion, "go"), ""))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		b.Components = append(b.Components, newComponent("library", m.Path, m.Version, m.Sum))
	}
	direct := bomDependency{Ref: main.Ref}
	for _, c := range b.Components {
		direct.DependsOn = append(direct.DependsOn, c.Ref)
	}
	b.Dependencies = []bomDependency{direct}
	return b
}

// newComponent is a module. Its sum is that of go.sum: a hash over the hashes of its files,
// which CycloneDX has no field for.
func newComponent(kind, path, version, sum string) bomComponent {
	// A version may have a "+", which a package URL must not.
	purl := "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
	c := bomComponent{Type: kind, Ref: purl, Name: path, Version: version, PURL: purl}
	if sum != "" {
		c.Properties = []bomProperty{{"go.sum", sum}}
	}
	return c
}
