package main

import (
	"bytes"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// leaves are the commands that the help shows.
func leaves(t *testing.T) []*kong.Node {
	t.Helper()
	parser, err := newParser(newCLI(), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model.Leaves(true)
}

// Every command is in the table, with examples that the parser reads as this very command.
func TestEveryCommandHasExamples(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	var names, lines []string
	for _, leaf := range leaves(t) {
		name := commandName(leaf)
		known[name] = true
		examples := factsOf(leaf).examples
		if len(examples) == 0 {
			t.Errorf("commandTable needs a line for %q: does it connect to NATS, does it change something, and at least one example", name)
		}
		for _, e := range examples {
			names, lines = append(names, name), append(lines, ownCommand(e.line))
			if e.what == "" || strings.HasSuffix(e.what, ".") || len(e.line) > 160 {
				t.Errorf("%s: example %+v: say in a few words, without a full stop, what it is for", name, e)
			}
		}
	}
	for name := range commandTable {
		if !known[name] {
			t.Errorf("commandTable has %q, which is no command", name)
		}
	}
	for _, e := range firstExamples {
		for part := range strings.SplitSeq(e.line, " && ") {
			names, lines = append(names, ""), append(lines, part)
		}
	}
	for i, words := range shellWords(t, lines) {
		parser, err := newParser(newCLI(), kong.Vars{"version": ""}, kong.Exit(func(int) {}))
		if err != nil {
			t.Fatal(err)
		}
		if names[i] == "help" { // its example asks for the help of another command
			words = append([]string{"certpost"}, words[2:]...)
			if commandName(named(parser.Model.Node, words)) != strings.Join(words[1:], " ") {
				t.Errorf("%q asks for no command", lines[i])
			}
			continue
		}
		k, err := parser.Parse(words[1:])
		switch {
		case words[0] != "certpost":
			t.Errorf("%q is no command line of certpost", lines[i])
		case err != nil:
			t.Errorf("%q: %v", lines[i], err)
		case names[i] != "" && commandName(k.Selected()) != names[i]:
			t.Errorf("%q is an example of %q, not of %q", lines[i], commandName(k.Selected()), names[i])
		}
	}
}

// ownCommand is the command of certpost in an example, without what the shell does around it.
func ownCommand(line string) string {
	if before, quoted, ok := strings.Cut(line, "'certpost "); ok && !strings.HasPrefix(before, "certpost ") {
		quoted, _, _ = strings.Cut(quoted, "'")
		return "certpost " + quoted
	}
	line = line[strings.Index(line, "certpost "):]
	for _, end := range []string{" | ", " > ", " && ", `)"`} {
		line, _, _ = strings.Cut(line, end)
	}
	return line
}

// shellWords splits command lines as a shell does.
func shellWords(t *testing.T, lines []string) (all [][]string) {
	t.Helper()
	var script strings.Builder
	for _, line := range lines {
		script.WriteString("set -- " + line + `; for word; do printf '%s\0' "$word"; done; printf '\n'` + "\n")
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script.String()).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		all = append(all, strings.Split(strings.TrimSuffix(string(line), "\x00\n"), "\x00"))
	}
	if len(all) != len(lines) {
		t.Fatalf("%d of %d lines were split", len(all), len(lines))
	}
	return all
}

// -o is the format everywhere: a list has table, wide, json and csv, everything else text and json.
// certpost render has had -o for its file since before; it takes a format there, too.
func TestOutputIsOneThing(t *testing.T) {
	t.Parallel()
	lists := []string{"list", "groups", "who", "preflight"}
	for _, leaf := range leaves(t) {
		name := commandName(leaf)
		for _, f := range leaf.Flags {
			switch {
			case f.Short == 'o' && f.Name != "output" && name != "render":
				t.Errorf("%s: -o is --%s", name, f.Name)
			case f.Name != "output" || name == "render":
				continue
			case f.Short != 'o':
				t.Errorf("%s: --output has no -o", name)
			}
			want := []string{"text", "json"}
			if slices.Contains(lists, leaf.Name) {
				want = []string{"table", "wide", "json", "csv"}
			}
			if f.Name == "output" && !slices.Equal(f.EnumSlice(), want) {
				t.Errorf("%s: --output is one of %q, want %q", name, f.EnumSlice(), want)
			}
		}
		if slices.Contains(lists, leaf.Name) && !slices.ContainsFunc(leaf.Flags, func(f *kong.Flag) bool { return f.Name == "output" }) {
			t.Errorf("%s has no --output", name)
		}
	}
}

// A command that changes something by order of an operator can be told to say nothing of it, and
// reads the settings of all commands.
func TestCommonFlags(t *testing.T) {
	t.Parallel()
	for _, leaf := range leaves(t) {
		help := command(t, nil, append(strings.Fields(commandName(leaf)), "--help")...)
		facts := factsOf(leaf)
		if commandName(leaf) == "help" {
			continue
		}
		if got := strings.Contains(help.stdout, "--quiet"); got != facts.acts {
			t.Errorf("%s: its help has --quiet: %t", commandName(leaf), got)
		}
		if got := strings.Contains(help.stdout, "--nats-url"); got != facts.nats && commandName(leaf) != "init" {
			t.Errorf("%s: its help has --nats-url: %t", commandName(leaf), got)
		}
		if !strings.Contains(help.stdout, "\nExamples:\n  # ") {
			t.Errorf("%s: its help has no examples", commandName(leaf))
		}
	}
	// The addresses in the environment and in the flag: the flag wins.
	a := (&cli{NATSURL: "nats://b"}).app(t.Context(), nil, []string{"CERTPOST_NATS_URL=nats://a"}, &bytes.Buffer{}, &bytes.Buffer{})
	cfg, problems := loadConnection("", a.env)
	if len(problems) > 0 || cfg.NATS.URL != "nats://b" || !reflect.DeepEqual(a.natsURL, "nats://b") {
		t.Errorf("%+v, %v", cfg.NATS.URL, problems)
	}
}
