package main

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/certpost/certpost/internal/desk"
)

func TestHelp(t *testing.T) {
	t.Parallel()
	whole := command(t, nil, "--help").done(t)
	for _, name := range []string{"run", "demo", "init", "publish", "check", "render", "send-test", "status", "targets", "completion", "help", "dead-letters", "replays", "audit", "deliveries", "schema", "backup", "restore", "version"} {
		if !regexp.MustCompile(`(?m)^  ` + name + ` +[A-Z]`).MatchString(whole) {
			t.Errorf("the help has no line for %s:\n%s", name, whole)
		}
		if out := command(t, nil, name, "--help").done(t); !strings.HasPrefix(out, "Usage: certpost "+name+" ") {
			t.Errorf("%s --help: %s", name, out)
		}
	}
	if out := command(t, nil).done(t); out != whole {
		t.Errorf("without arguments:\n%s", out)
	}
}

// The help of a group names all of its commands.
func TestGroupsNameTheirCommands(t *testing.T) {
	t.Parallel()
	parser, err := newParser(newCLI(), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range parser.Model.Children {
		var names []string
		for _, command := range group.Children {
			if !command.Hidden {
				names = append(names, command.Name)
			}
		}
		_, list, _ := strings.Cut(strings.TrimSuffix(group.Help, "."), ": ")
		got := strings.Split(list, ", ")
		slices.Sort(names)
		slices.Sort(got)
		if names != nil && !slices.Equal(got, names) {
			t.Errorf("%s: its help names %q, and its commands are %q", group.Name, got, names)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"deliver":                           "unexpected argument deliver, did you mean \"deliveries\"?",
		"run --dat x":                       "unknown flag --dat, did you mean \"--data-dir\"?",
		"run fast":                          "unexpected argument fast",
		"show 5":                            "unexpected argument show, did you mean one of targets show, dead-letters show, replays show, deliveries show?",
		"letters":                           "unexpected argument letters, did you mean \"dead-letters\"?",
		"dead-letters 5":                    "unexpected argument 5, did you mean \"show 5\"?",
		"-o json status":                    "flag -o is one of status: write it after the command",
		"--reason x dead-letters discard 1": "flag --reason is one of dead-letters discard: write it after the command",
		"status -o jsno":                    "--output: unknown value \"jsno\": did you mean json?",
		"relays suspend":                    "relays suspend: LANE is missing: the lane (see certpost relays list)",
		"alerts silence":                    "alerts silence: ALERT is missing: the alert (see certpost alerts list), a kind such as dead_letters, or all",
		"alerts silence all --reason x":     "missing flags: --for=DURATION",
		"replay 45":                         "unexpected argument replay, did you mean \"dead-letters replay\"?",
		"list dead-letters":                 "unexpected argument list, did you mean \"dead-letters list\"?",
		"dead":                              "unexpected argument dead, did you mean one of dead-letters, demo?",
		"dead-letters lits":                 "unexpected argument lits, did you mean \"list\"?",
		"dead-letters list --x":             "unknown flag --x",
		"dead-letters replay y":             `NUMBER: want a number, not "y"`,
		"schema event --nats-url nats://a":  "--nats-url: certpost schema does not connect to NATS",
		"--config":                          "--config: the value is missing",
		"dead-letters show":                 "dead-letters show: NUMBER is missing: number of the letter (its sequence in CERTPOST_DEAD_LETTERS)",
		"dead-letters show one":             `NUMBER: want a number, not "one"`,
		"dead-letters replay":               "dead-letters replay: no letters are selected: give their numbers (see certpost dead-letters list), or --all",
		"deliveries resend --event e --reason r --force":       "deliveries resend: --force requires --to-target: what was delivered is sent again to its target without it",
		"dead-letters replay 1 --all":                          "dead-letters replay: give numbers or --all, not both",
		"dead-letters replay 1 --code X":                       "dead-letters replay: filters, --hash and --with-superseded require --all, and are not allowed with numbers",
		"dead-letters discard 1":                               "dead-letters discard: a reason is required: the audit keeps it",
		"dead-letters discard 1 --reason=":                     "--reason is empty: give a value, or leave the flag out",
		"dead-letters discard --reason=x":                      "dead-letters discard: no letters are selected: give their numbers (see certpost dead-letters list), or --all",
		"dead-letters list --certainty no":                     `dead-letters list: invalid filter: certainty: unknown value "no": want one of not-sent, may-have-been-sent, accepted`,
		"dead-letters list --from today":                       "dead-letters list: invalid filter: from: want a date (2026-01-31) or a time (2026-01-31T15:04:05Z), not \"today\"",
		"dead-letters replay 1 --canary":                       "dead-letters replay: canary and rate require a filter, or all: letters given by number are replayed at once",
		"dead-letters replay 1 --wait --dry-run":               "dead-letters replay: --wait does not go with --dry-run: nothing is replayed",
		"dead-letters replay 1 --timeout 1m":                   "dead-letters replay: --timeout goes with --wait, and is a duration such as 90s or 10m",
		"dead-letters replay --all --rate":                     "--rate: the value is missing",
		"dead-letters replay --all":                            "dead-letters replay: a reason is required: the audit keeps it",
		"dead-letters replay --all --rate=1":                   "dead-letters replay: --rate: want a number of mails and a period (s, min, h, day), such as 14/s or 500/day",
		"audit accept --record 1":                              "audit accept: a reason is required: the audit keeps it",
		"audit accept":                                         "audit accept: --record or --revision is required: the number at which audit verify found a break",
		"audit verify --key-file k":                            "audit verify: --key-file goes with --file",
		"audit export --signed --lane a":                       "audit export: --signed exports all records: a part cannot be verified, so it takes no filter but --from-record",
		"audit verify --anchor 1":                              "audit verify: --anchor: invalid anchor \"1\": want a record's number, a colon and its SHA-256 in hexadecimal, as printed by `certpost audit verify`",
		"deliveries list --state gone":                         `deliveries list: invalid filter: state: unknown value "gone": want one of waiting, sending, sent, dead, discarded, skipped`,
		"alerts silence all --for 32d --reason x":              "alerts silence: --for: a silence lasts 1s to 31d, not 32d",
		"alerts silence all --for 0s --reason x":               "alerts silence: --for: a silence lasts 1s to 31d, not 0s",
		"alerts silence all --for 3w --reason x":               "--for: want a duration such as 30s, 5m, 72h or 3d",
		"deliveries list --since 3":                            `deliveries list: invalid filter: since: want a duration such as 30m, 24h or 7d, or a date or time such as 2026-01-31 or 2026-01-31T15:04:05Z, not "3"`,
		"deliveries list --since 2026-01-31 --from 2026-01-30": "deliveries list: invalid filter: from: is given twice",
		"deliveries who --name a --since 3":                    `deliveries who: since: want a duration such as 30m, 24h or 7d, or a date or time such as 2026-01-31 or 2026-01-31T15:04:05Z, not "3"`,
		"deliveries show":                                      "deliveries show: EVENT is missing: id of the event",
		"publish":                                              "missing flags: --cert=FILE or --from=CLIENT or --flush",
		"publish --cert a --from lego":                         "--cert and --from can't be used together",
		"publish --cert a b":                                   "publish: unexpected argument b: arguments are allowed only with --from, from the client's hook",
		"publish --cert a --no-key":                            "publish: --no-key requires --from: without --from the event has no key file",
		"publish --cert a --key b":                             "publish: --key requires --store-key: to reference a stored key use --key-ref",
		"publish --cert a --label b":                           `--label: expected "<key>=<value>" but got "b"`,
		"check --target a":                                     "check: --target requires --live: without --live all targets are checked",
		"check -o xml":                                         `--output: unknown value "xml": want one of text, json`,
		"render --cert a --event b":                            "--cert and --event can't be used together",
		"schema target":                                        `SCHEMA: unknown value "target": want one of event, outcome, config`,
	} {
		// The error leads to the help of the command that was meant.
		command(t, nil, strings.Fields(args)...).failed(t, exitUsage, "certpost: "+want+"\nSee "+meantCommand(args)+" --help.\n")
	}
}

// A flag or an argument that is given empty, as by a variable that is not set, is an error for
// every command; it does not count as left out.
//
// Fault: a flag or an argument that is given empty, such as by a variable that is not set.
// Result: refused (exit 2).
func TestEmptyValues(t *testing.T) {
	t.Parallel()
	parser, err := newParser(newCLI(), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	var try func(node *kong.Node, words []string)
	try = func(node *kong.Node, words []string) {
		for _, child := range node.Children {
			try(child, append(slices.Clip(words), child.Name))
		}
		for _, f := range node.Flags {
			kind := f.Target.Type()
			if kind.Kind() == reflect.Slice {
				kind = kind.Elem()
			}
			if !node.Leaf() || kind.Kind() != reflect.String {
				continue
			}
			tried++
			for _, given := range [][]string{{"--" + f.Name + "="}, {"--" + f.Name, ""}, {"--" + f.Name, " "}} {
				args := append(slices.Clip(words), given...)
				if err := emptyValue(parser, args); err == nil || err.Error() != "--"+f.Name+" is empty: give a value, or leave the flag out" {
					t.Errorf("%q: %v", args, err)
				}
			}
			if err := emptyValue(parser, append(slices.Clip(words), "--"+f.Name, "x")); err != nil {
				t.Errorf("%s %s: %v", words, f.Name, err)
			}
		}
	}
	try(parser.Model.Node, nil)
	if tried < 60 {
		t.Errorf("%d flags were tried", tried)
	}
	for want, args := range map[string][]string{
		"--id is empty: give a value, or leave the flag out\nSee certpost publish":           {"publish", "--cert", "a", "--id", ""},
		"--key-ref is empty: give a value, or leave the flag out\nSee certpost publish":      {"publish", "--cert", "a", "--key-ref", " "},
		"--label is empty: give a value, or leave the flag out\nSee certpost publish":        {"publish", "--cert", "a", "--label="},
		"--config is empty: give a value, or leave the flag out\nSee certpost status":        {"-c", "", "status"},
		"--to is empty: give a value, or leave the flag out\nSee certpost dead-letters edit": {"dead-letters", "edit", "1", "--reason", "x", "--to", "a@example.com", "--to", ""},
		"<event> is empty\nSee certpost deliveries show":                                     {"deliveries", "show", ""},
		"[<target>] is empty\nSee certpost deliveries show":                                  {"deliveries", "show", "e", ""},
		"--out is empty: give a value, or leave the flag out\nSee certpost render":           {"render", "--cert", "a", "--target", "b", "-o", ""},
	} {
		command(t, nil, args...).failed(t, exitUsage, "certpost: "+want+" --help.\n")
	}
}

// meantCommand is the longest beginning of a command line that is a command.
func meantCommand(line string) string {
	command := "certpost"
	if line == "list dead-letters" {
		return "certpost dead-letters"
	}
	switch line {
	case "replay 45", "show 5":
		return command
	case "-o json status":
		return "certpost status"
	case "--reason x dead-letters discard 1":
		return "certpost dead-letters discard"
	}
	for _, word := range strings.Fields(line) {
		if strings.HasPrefix(word, "-") || !commandWords[word] {
			break
		}
		command += " " + word
	}
	return command
}

// commandWords are the commands in the lines of TestWrongUsage.
var commandWords = map[string]bool{"run": true, "dead-letters": true, "show": true, "replay": true, "discard": true, "list": true, "audit": true, "verify": true, "export": true, "accept": true,
	"deliveries": true, "publish": true, "check": true, "render": true, "schema": true, "alerts": true, "silence": true, "who": true, "resend": true, "status": true, "relays": true, "suspend": true}

// A group of commands alone is a question, and so is help.
func TestHelpOfGroups(t *testing.T) {
	t.Parallel()
	want := command(t, nil, "dead-letters", "--help").done(t)
	if got := command(t, nil, "help", "dead-letters").done(t); got != want {
		t.Errorf("help dead-letters:\n%s\nwant\n%s", got, want)
	}
	command(t, nil, "dead-letters").failed(t, exitUsage, want)
	if got, want := command(t, nil, "--version").done(t), command(t, nil, "version").done(t); got != want {
		t.Errorf("--version prints %q, version %q", got, want)
	}
	if got, want := command(t, nil, "help", "dead-letters", "list").done(t), command(t, nil, "dead-letters", "list", "--help").done(t); got != want {
		t.Errorf("help dead-letters list:\n%s\nwant\n%s", got, want)
	}
}

// The operator has to type the number of letters.
func TestConfirm(t *testing.T) {
	t.Parallel()
	frozen := &desk.Frozen{Count: 12, Held: 2, Superseded: 1}
	for answer, want := range map[string]int{"12\n": exitDone, " 12 \r\n": exitDone, "y\n": exitFailed, "\n": exitFailed, "": exitFailed, "1": exitFailed} {
		var asked strings.Builder
		a := &app{ctx: t.Context(), stderr: &asked, answers: strings.NewReader(answer)}
		err := a.confirm(frozen, nil, "nats://nats.example.com:4222", "replayed", false)
		var f *failure
		if answer == "y\n" && !strings.Contains(fmt.Sprint(err), `you typed "y"; the answer is the number of letters, 12`) {
			t.Errorf("%q: %v", answer, err)
		}
		if (err == nil) != (want == exitDone) || err != nil && (!errors.As(err, &f) || f.code != want) {
			t.Errorf("%q: %v", answer, err)
		}
		if asked.String() != "12 dead letters would be replayed (skipped: 2 held, 1 superseded), at nats://nats.example.com:4222. Type 12 to continue: " {
			t.Errorf("it asks %q", asked.String())
		}
	}
	if err := (&app{}).confirm(frozen, nil, "", "replayed", true); err != nil {
		t.Errorf("with --yes: %v", err)
	}
	if newBar(&strings.Builder{}).out != nil {
		t.Error("a progress bar without a terminal")
	}
	var out strings.Builder
	b := &bar{out: &out}
	b.show(1, 4, "running")
	b.end()
	if !strings.Contains(out.String(), "[#######.......................] 1/4 running") || !strings.HasSuffix(out.String(), "\r\x1b[K") {
		t.Errorf("the bar is %q", out.String())
	}
}
