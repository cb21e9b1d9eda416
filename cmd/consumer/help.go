package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/certpost/certpost/internal/legible"
)

// helpCmd is only in the help: helpArguments turns `help CMD` into `CMD --help`.
type helpCmd struct {
	Command []string `arg:"" optional:"" help:"The command."`
}

// helpArguments returns the arguments with `help CMD` as `CMD --help`; none are a question, too.
func helpArguments(args []string) []string {
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "help" && !slices.Contains(args, "--help") && !slices.Contains(args, "-h"):
		return append(args[1:len(args):len(args)], "--help")
	}
	return args
}

// widestHelp is the length of the help's lines, which a narrower terminal shortens.
const widestHelp = 80

// printHelp prints the help of a command: usage, flags, commands, and examples, which are not
// wrapped, so that they can be copied.
func printHelp(options kong.HelpOptions, k *kong.Context) error {
	command := k.Selected()
	if command == nil {
		command = k.Model.Node
	}
	facts := factsOf(command)
	hideCommonFlags(k.Model.Node, facts)
	out := screenOf(k.Stdout)
	var text bytes.Buffer
	k.Stdout = &text
	if options.WrapUpperBound = widestHelp; out.width > 0 {
		options.WrapUpperBound = min(widestHelp, out.width)
	}
	err := kong.DefaultHelpPrinter(options, k)
	if k.Stdout = out; err != nil {
		return err
	}
	if len(facts.examples) > 0 {
		text.WriteString("\nExamples:\n")
	}
	for _, e := range facts.examples {
		fmt.Fprintf(&text, "  # %s\n  %s\n", e.what, e.line)
	}
	for line := range strings.Lines(text.String()) {
		if plain := strings.TrimSuffix(line, "\n"); strings.HasSuffix(plain, ":") && !strings.HasPrefix(plain, " ") {
			line = out.paint(bold, plain) + "\n"
		}
		if _, err := io.WriteString(out, line); err != nil {
			return err
		}
	}
	return nil
}

// hideCommonFlags hides the flags of all commands that a command has no use for.
func hideCommonFlags(root *kong.Node, facts commandFacts) {
	for _, f := range root.Flags {
		f.Hidden = f.Name == "nats-url" && !facts.nats || f.Name == "quiet" && !facts.acts
	}
}

// outputOf returns the format that a command was told to print, "" if it has only one.
func outputOf(command *kong.Node) string {
	for _, f := range command.Flags {
		if f.Name == "output" {
			return f.Target.String()
		}
	}
	return ""
}

// commonError says that a flag of all commands does not fit a command.
type commonError struct{ what, command string }

func (e *commonError) Error() string { return e.what }

// misused prints what is wrong with a command line, and the command whose help helps. A group
// without its command is a question: its help answers it.
func misused(err error, args []string, stderr io.Writer) int {
	command := "certpost"
	var wrong *kong.ParseError
	if empty := (*emptyError)(nil); errors.As(err, &empty) {
		command = empty.command
	}
	if common := (*commonError)(nil); errors.As(err, &common) {
		command = common.command
	}
	if errors.As(err, &wrong) && wrong.Context != nil {
		root := wrong.Context.Model.Node
		node := named(root, args)
		if !node.Leaf() && strings.HasPrefix(wrong.Error(), "expected ") {
			wrong.Context.Stdout = stderr
			if wrong.Context.PrintUsage(false) == nil {
				return exitUsage
			}
		}
		command = node.FullPath()
		if err = missing(wrong, node); err == nil {
			err = plainly(wrong, node, args)
		}
	}
	complain(stderr, err)
	fmt.Fprintf(stderr, "See %s --help.\n", command)
	return exitUsage
}

// named returns the innermost command that the arguments name.
func named(node *kong.Node, args []string) *kong.Node {
	for _, arg := range args {
		if i := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == arg }); i >= 0 {
			node = node.Children[i]
		}
	}
	return node
}

var (
	missingArgument = regexp.MustCompile(`^expected "<([^>]+)>`)
	noNumber        = regexp.MustCompile(`^(.*): expected an? (?:valid \d+ bit )?u?int but got (".*")`)
	noValue         = regexp.MustCompile(`^(.*): expected .* value but got "EOL" \(<EOL>\)$`)
	unknownFlag     = regexp.MustCompile(`^unknown flag (-\S+?)(?:, did you mean .*)?$`)
	strayArgument   = regexp.MustCompile(`^unexpected argument (.*?)(?:, did you mean .*)?$`)
	noChoice        = regexp.MustCompile(`^(.*) must be one of (.*) but got "(.*)"$`)
	argumentName    = regexp.MustCompile(`^\[?<([^>]+)>(?: \.\.\.)?\]?$`)
)

// missing returns the error for a required argument or flag that is missing, nil if none is. A
// command checks its flags before the parser sees that. It says itself that a reason is missing, and why
// it is required.
func missing(err *kong.ParseError, node *kong.Node) error {
	if !strings.HasPrefix(err.Error(), commandName(node)+": ") { // else it has not read all arguments
		return nil
	}
	for _, p := range node.Positional {
		if p.Required && !slices.ContainsFunc(err.Context.Path, func(at *kong.Path) bool { return at.Positional == p }) {
			return argumentMissing(node, p)
		}
	}
	for _, f := range node.Flags {
		if f.Required && len(f.Xor) == 0 && f.Name != "reason" && !slices.ContainsFunc(err.Context.Path, func(at *kong.Path) bool { return at.Flag == f }) {
			return fmt.Errorf("missing flags: %s", f.Summary())
		}
	}
	return nil
}

func argumentMissing(node *kong.Node, p *kong.Positional) error {
	return fmt.Errorf("%s: %s is missing: %s", commandName(node), strings.ToUpper(p.Name), lowerFirst(strings.TrimSuffix(p.Help, ".")))
}

// plainly says in words of users what the parser says about a command line.
func plainly(err error, node *kong.Node, args []string) error {
	text := err.Error()
	if m := missingArgument.FindStringSubmatch(text); m != nil {
		for _, p := range node.Positional {
			if p.Name == m[1] {
				return argumentMissing(node, p)
			}
		}
	}
	if m := noNumber.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s: want a number, not %s", inUsage(m[1]), m[2])
	}
	if m := noChoice.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s: unknown value %q%s", inUsage(m[1]), m[3], legible.Meant(m[3], strings.Split(strings.ReplaceAll(m[2], `"`, ""), ",")))
	}
	if m := noValue.FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s: the value is missing", m[1])
	}
	if m := unknownFlag.FindStringSubmatch(text); m != nil {
		var known []string
		for _, group := range node.AllFlags(true) {
			for _, f := range group {
				if m[1] == "--"+f.Name || f.Short != 0 && m[1] == "-"+string(f.Short) { // it stands before its command
					return fmt.Errorf("flag %s is one of %s: write it after the command", m[1], commandName(node))
				}
				known = append(known, f.Name)
			}
		}
		var flags []string
		for _, name := range similar(strings.TrimLeft(m[1], "-"), known) {
			flags = append(flags, "--"+name)
		}
		return didYouMean("unknown flag "+m[1], flags)
	}
	if m := strayArgument.FindStringSubmatch(text); m != nil {
		if node.Leaf() {
			return fmt.Errorf("unexpected argument %s", m[1])
		}
		return didYouMean("unexpected argument "+m[1], meant(node, m[1], args))
	}
	return err
}

// inUsage is an argument or a flag as the usage and the examples name it: NUMBER, --output.
func inUsage(what string) string {
	if name := argumentName.FindStringSubmatch(what); name != nil {
		return strings.ToUpper(name[1])
	}
	return what
}

// didYouMean is the error of a word that is none, with those that may be meant.
func didYouMean(what string, candidates []string) error {
	switch len(candidates) {
	case 0:
		return errors.New(what)
	case 1:
		return fmt.Errorf("%s, did you mean %q?", what, candidates[0])
	}
	return fmt.Errorf("%s, did you mean one of %s?", what, strings.Join(candidates, ", "))
}

// similar returns the names that begin with a word, or end with it, and the one that it may misspell.
func similar(word string, names []string) (found []string) {
	for _, name := range names {
		if len(word) > 2 && (strings.HasPrefix(name, word) || strings.HasSuffix(name, "-"+word)) {
			found = append(found, name)
		}
	}
	if near := legible.Nearest(word, names...); near != "" && !slices.Contains(found, near) {
		found = append(found, near)
	}
	return found
}

// meant returns the commands that a word was probably meant for: one of the group with a similar
// name, or any with this very name, such as replay for dead-letters replay.
func meant(group *kong.Node, word string, args []string) []string {
	var names, paths []string
	for _, child := range group.Children {
		if !child.Hidden {
			names = append(names, child.Name)
		}
	}
	root := group
	for root.Parent != nil {
		root = root.Parent
	}
	for _, leaf := range root.Leaves(true) {
		if leaf.Name != word || leaf.Parent == root {
			continue
		}
		if slices.Contains(args, leaf.Parent.Name) { // the words are in the wrong order
			return []string{commandName(leaf)}
		}
		paths = append(paths, commandName(leaf))
	}
	if len(paths) > 0 {
		return paths
	}
	if _, err := strconv.ParseUint(word, 10, 64); err == nil && slices.Contains(names, "show") {
		return []string{"show " + word}
	}
	return similar(word, names)
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}
