package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/certpost/certpost/internal/config"
)

// pages are README.md and the pages below docs, by name; decisions are history, and are not
// among them.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(names) < 15 {
		t.Fatalf("%d pages, %v", len(names), err)
	}
	all := map[string]string{}
	for _, name := range append(names, root+"/README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(name, root+"/")] = string(text)
	}
	return all
}

// block finds the blocks of code of a page, with their language.
var block = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

// TestCommandsOnThePages: each command of certpost on a page is one that this program accepts.
// Commands in the text may lack arguments; what they name has to exist.
func TestCommandsOnThePages(t *testing.T) {
	t.Parallel()
	inline := regexp.MustCompile("`(certpost [^`]+)`")
	indented := regexp.MustCompile(`(?m)^    (certpost .*)$`)
	found := 0
	for name, text := range pages(t) {
		t.Run(name, func(t *testing.T) {
			for _, b := range block.FindAllStringSubmatch(text, -1) {
				if !strings.HasPrefix(b[1], "sh") {
					continue
				}
				for line := range strings.Lines(strings.ReplaceAll(b[2], "\\\n", " ")) {
					if command, ok := bare(line); ok {
						understood(t, command)
						found++
					}
				}
			}
			prose := block.ReplaceAllString(text, "")
			for _, m := range indented.FindAllStringSubmatch(prose, -1) {
				if command, ok := bare(m[1]); ok {
					understood(t, command)
					found++
				}
			}
			for _, m := range inline.FindAllStringSubmatch(prose, -1) {
				if command, ok := bare(m[1]); ok {
					mentioned(t, command)
					found++
				}
			}
		})
	}
	if found < 100 {
		t.Errorf("found %d commands", found)
	}
}

// bare returns a command line of certpost without what the shell does with its output; not ok for another
// command, and one that is cut short with dots.
func bare(line string) (string, bool) {
	line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
	for _, more := range []string{" | ", " > ", " && "} {
		line, _, _ = strings.Cut(line, more)
	}
	return line, strings.HasPrefix(line, "certpost ") && !strings.Contains(line, "...") && !strings.Contains(line, "…")
}

// mentioned requires that the command and flags that a text names exist. In a text, "a|b" is a choice, and
// what stands in brackets may be left out.
func mentioned(t *testing.T, line string) {
	t.Helper()
	line = strings.NewReplacer("[", "", "]", "", "NUMBER", "1").Replace(line)
	line = regexp.MustCompile(`"[^"]*"`).ReplaceAllString(line, "text")
	words := strings.Fields(regexp.MustCompile(`\|\S+`).ReplaceAllString(line, ""))[1:]
	parser, err := newParser(newCLI(), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(words)
	if err == nil {
		return
	}
	for _, lacking := range []string{"expected \"<", "expected one of", "missing flags", "but got \"EOL\"", "no letters are selected"} {
		if strings.Contains(err.Error(), lacking) {
			return
		}
	}
	t.Errorf("%s: %v", line, err)
}

// TestConfigurationsOnThePages: each block of YAML on a page that is a configuration, or part of
// one, has only settings that there are, with values of their kinds.
func TestConfigurationsOnThePages(t *testing.T) {
	t.Parallel()
	found := 0
	for name, text := range pages(t) {
		for _, b := range block.FindAllStringSubmatch(text, -1) {
			if b[1] != "yaml" || strings.Contains(b[2], "ulr:") { // that one shows what is reported
				continue
			}
			found++
			path := filepath.Join(t.TempDir(), "certpost.yaml")
			if err := os.WriteFile(path, []byte(b[2]), 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, problems := loadConfig(path, nil)
			for _, p := range problems { // files that are not here, and parts that are left out, are no faults of the page
				if p.Severity == config.Error && (strings.HasPrefix(p.Message, "unknown key") || strings.HasPrefix(p.Message, "want ")) {
					t.Errorf("%s: %v in\n%s", name, p, b[2])
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("found %d configurations", found)
	}
}
