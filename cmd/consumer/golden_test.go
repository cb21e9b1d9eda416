package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/certpost/certpost/internal/lab"
)

// golden compares a text with a file below testdata. UPDATE_GOLDEN=true writes the file:
//
//	UPDATE_GOLDEN=true go test ./cmd/consumer -run Golden
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if os.Getenv("UPDATE_GOLDEN") == "true" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		lab.Write(t, path, []byte(got))
		return
	}
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; UPDATE_GOLDEN=true go test ./cmd/consumer -run Golden writes it", err)
	}
	if string(stored) == got {
		return
	}
	was, is := strings.Split(string(stored), "\n"), strings.Split(got, "\n")
	for i := range min(len(was), len(is)) {
		if was[i] != is[i] {
			t.Errorf("%s:%d differs:\n%s\nwant\n%s\nIf that is meant, UPDATE_GOLDEN=true go test ./cmd/consumer -run Golden writes it", path, i+1, is[i], was[i])
			return
		}
	}
	t.Errorf("%s has %d lines, got %d; if that is meant, UPDATE_GOLDEN=true go test ./cmd/consumer -run Golden writes it", path, len(was), len(is))
}

// A file for each command of the first level has the help of all its commands.
func TestHelpGolden(t *testing.T) {
	t.Parallel()
	if os.Getenv("COLUMNS") != "" {
		t.Skip("COLUMNS changes the lines of the help")
	}
	parser, err := newParser(newCLI(), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "help/certpost", command(t, nil, "--help").done(t))
	kept := map[string]bool{"certpost.golden": true}
	for _, first := range parser.Model.Children {
		if first.Hidden {
			continue
		}
		var text strings.Builder
		var write func(n *kong.Node)
		write = func(n *kong.Node) {
			fmt.Fprintf(&text, "$ %s --help\n", n.FullPath())
			if n.Name == "help" { // `help --help` is the help of all commands
				text.WriteString("...\n")
				return
			}
			text.WriteString(command(t, nil, append(strings.Fields(commandName(n)), "--help")...).done(t) + "\n")
			for _, child := range n.Children {
				write(child)
			}
		}
		write(first)
		golden(t, "help/"+first.Name, text.String())
		kept[first.Name+".golden"] = true
	}
	stale(t, "help", kept)
}

// stale requires that a directory has the kept files only.
func stale(t *testing.T, dir string, kept map[string]bool) {
	t.Helper()
	files, err := os.ReadDir(filepath.Join("testdata", dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !kept[f.Name()] {
			t.Errorf("testdata/%s/%s belongs to no command: remove it", dir, f.Name())
		}
	}
}

// goldenRuns are command lines whose output is kept, in the order in which they run; the first
// words name the file.
var goldenRuns = []struct{ file, lines string }{
	{"targets", "targets list; targets list -o csv; targets list -o json; targets show java; targets show nowhere"},
	{"dead-letters-list", "dead-letters list; dead-letters list -o wide; dead-letters list -o csv; dead-letters list -o json; dead-letters list --code SMTP_AUTH; dead-letters list --code SMTP_AUTH -o csv; dead-letters list --since 24h --order expiry"},
	{"dead-letters-groups", "dead-letters groups; dead-letters groups -o csv; dead-letters groups -o json"},
	{"dead-letters-show", "dead-letters show 1; dead-letters show 1 -o json; dead-letters show 99"},
	{"dead-letters-preflight", "dead-letters preflight 1; dead-letters preflight 1 --recipients -o csv; dead-letters preflight --all; dead-letters preflight --all -o csv"},
	{"dead-letters-acts", "dead-letters hold 2 --reason wait; dead-letters replay 2; dead-letters release 2 -o json; dead-letters replay --all --dry-run; dead-letters replay --all --dry-run -o json; dead-letters replay --all --reason x; " +
		"dead-letters discard 2 --reason no; dead-letters discard 2 --reason no -q; dead-letters restore 2; dead-letters replay 1 99"},
	{"replays", "replays list; dead-letters replay --all --code SMTP_PERMANENT --reason again --yes --wait; replays list; replays list -o csv; replays list -o json"},
	{"deliveries", "deliveries list; deliveries list -o csv; deliveries list -o json; deliveries list --state waiting; deliveries show first; deliveries show third ops; deliveries show third ops -o json; deliveries show absent"},
	{"deliveries-who", "deliveries who --name www.example.com; deliveries who --name www.example.com -o csv; deliveries who --name www.example.com -o json; deliveries who --name www.example.com --since 24h -o csv; deliveries who --name www.example.com --since 2100-01-01; deliveries who --name example.org"},
	{"relays", "relays list; relays list -o csv; relays suspend nowhere --reason x; relays resume nowhere"},
	{"alerts", "alerts list; alerts list -o csv; alerts list -o json; alerts silence dead_letters --for 1d --reason moved; alerts list; alerts unsilence dead_letters"},
	{"audit", "audit list; audit list -o csv; audit list --action held -o json; audit verify"},
	{"status", "status"},
}

// The lists, in all formats, against a running server. What differs from run to run is masked, and
// so are the widths of columns; TestTablesGolden has these.
func TestListsGolden(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody)
	for _, event := range [][2]string{{"first", "nobody"}, {"second", "keys"}, {"third", "ops"}, {"fourth", "absent"}} { // in turn, so that numbers are the same in each run
		o.publish(event[0], event[1])
		o.settled()
		// Lists are in the order of the attempts' seconds: events of one second would change places.
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
	}
	kept := map[string]bool{}
	masked := strings.NewReplacer(o.dir, "DIR", actor(), "USER@HOST", "@"+hostName(), "@HOST")
	for _, run := range goldenRuns {
		var text strings.Builder
		for line := range strings.SplitSeq(run.lines, "; ") {
			said := o.certpost(strings.Fields(line)...)
			fmt.Fprintf(&text, "$ certpost %s\n%s%s%sexit %d\n\n", line, said.where, said.stdout, said.stderr, said.code)
		}
		got := masked.Replace(text.String())
		for _, m := range masks {
			got = m.what.ReplaceAllString(got, m.by)
		}
		golden(t, "lists/"+run.file, got)
		kept[run.file+".golden"] = true
	}
	stale(t, "lists", kept)
}

// masks replace what differs from run to run.
var masks = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z)`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d`), "DATE"},
	{regexp.MustCompile(`\b(localhost|127\.0\.0\.1)([:-])\d+`), "$1${2}PORT"},
	{regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`), "ULID"},
	{regexp.MustCompile(`<[a-z0-9]{20}@demo\.example>`), "<ID@demo.example>"},
	{regexp.MustCompile(`\b[0-9a-f]{12,64}\b`), "HEX"},
	{regexp.MustCompile(`"(definition|version)": "[0-9a-f]{8}"`), `"$1": "HEX"`},
	{regexp.MustCompile(`(?m)(^Version +|^Definition +|,)[0-9a-f]{8}(,|$)`), "${1}HEX$2"},
	{regexp.MustCompile(`\bD\d{6}\b`), "QUEUE-ID"},
	{regexp.MustCompile(`\b1\d{4}( bytes\b|,)`), "SIZE$1"},
	{regexp.MustCompile(`"(size|[a-z_]+_(ms|ns))": \d+`), `"$1": N`},
	{regexp.MustCompile(`\b(secrets|render|connect|banner|ehlo|starttls|tls|auth|mail|rcpt|data|accept) \d[\d.]*(ns|µs|ms|s)\b`), "$1 DURATION"},
	{regexp.MustCompile(`\b\d[\d.]*(ns|µs|ms)\b|\b\d+\.\d+s\b`), "DURATION"},
	{regexp.MustCompile(`(TIME +)\d[\d.]*s\b`), "${1}DURATION"},
	{regexp.MustCompile(`-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----`), "CERTIFICATE"},
	{regexp.MustCompile(`\d+ days left`), "N days left"},
	{regexp.MustCompile(`\bSIZE=\d+`), "SIZE=N"},
	{regexp.MustCompile(`"value": "\d{5}"`), `"value": "PORT"`},
	{regexp.MustCompile(`(?m)^port +\d+$`), "port  PORT"},
	{regexp.MustCompile(`(delivers|ready) +(\d of \d|-)`), "STATE  LAST HOUR"},             // processes report every few seconds
	{regexp.MustCompile(`(localhost-PORT +localhost:PORT +\d+ +)\d+( +STATE)`), "${1}N$2"}, // and with it what they are sending
	{regexp.MustCompile(`(localhost-PORT,localhost:PORT,,\d+,)\d+,`), "${1}N,"},
	{regexp.MustCompile(` {2,}`), "  "},
}
