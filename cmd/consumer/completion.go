package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"The shell: bash, zsh or fish."`
}

// completionScripts ask the program itself for what may follow the words that were typed.
// A shell that gets no answer completes file names.
var completionScripts = map[string]string{
	"bash": `# eval "$(certpost completion bash)"
_certpost() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$(certpost complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _certpost certpost
`,
	"zsh": `#compdef certpost
# source <(certpost completion zsh), or the file _certpost in a directory of fpath
_certpost() {
  local -a candidates
  candidates=("${(@f)$(certpost complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "${candidates[1]}" ]]; then compadd -- "${candidates[@]}"; else _files; fi
}
if [[ $funcstack[1] == _certpost ]]; then _certpost "$@"; else compdef _certpost certpost; fi
`,
	"fish": `# certpost completion fish | source
complete -c certpost -f -a '(certpost complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
`,
}

// Run prints the script of a shell.
func (c *completionCmd) Run(a *app) error {
	_, err := fmt.Fprint(a.stdout, completionScripts[c.Shell])
	return err
}

// completeCmd prints what may follow; the completion scripts call it.
type completeCmd struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

func (c *completeCmd) Run(a *app, k *kong.Kong) error {
	words := c.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	for _, candidate := range candidates(a, k.Model.Node, words) {
		fmt.Fprintln(a.stdout, candidate)
	}
	return nil
}

// candidates returns what may stand in place of the last of the words: a command, a flag, a
// value of a flag or an argument.
func candidates(a *app, node *kong.Node, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	var awaits *kong.Flag // the flag whose value comes next
	for _, word := range words[:len(words)-1] {
		if awaits != nil {
			awaits = nil
			continue
		}
		if name, isFlag := strings.CutPrefix(word, "-"); isFlag {
			if f := flagNamed(node, name); f != nil && !f.IsBool() && !strings.Contains(word, "=") {
				awaits = f
			}
			continue
		}
		if i := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == word }); i >= 0 {
			node = node.Children[i]
		}
	}
	var all []string
	switch name, _, value := strings.Cut(last, "="); {
	case awaits != nil:
		all = valuesOf(a, awaits.Value)
	case strings.HasPrefix(last, "-") && value:
		if f := flagNamed(node, strings.TrimPrefix(name, "-")); f != nil {
			for _, v := range valuesOf(a, f.Value) {
				all = append(all, name+"="+v)
			}
		}
	case strings.HasPrefix(last, "-"):
		for _, group := range flagged(node).AllFlags(true) {
			for _, f := range group {
				all = append(all, "--"+f.Name)
			}
		}
	case len(node.Children) > 0:
		for _, child := range node.Children {
			if !child.Hidden {
				all = append(all, child.Name)
			}
		}
	default:
		for _, p := range node.Positional {
			all = append(all, valuesOf(a, p)...)
		}
	}
	all = slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, last) })
	slices.Sort(all)
	return slices.Compact(all)
}

// flagged is the command whose flags may follow: that of a group which may be left out has its own.
func flagged(node *kong.Node) *kong.Node {
	if node.DefaultCmd != nil {
		return node.DefaultCmd
	}
	return node
}

// flagNamed returns a flag by its name with one dash left, or by its letter.
func flagNamed(node *kong.Node, name string) *kong.Flag {
	name, _, _ = strings.Cut(name, "=")
	for _, group := range flagged(node).AllFlags(false) {
		for _, f := range group {
			if "-"+f.Name == name || f.Short != 0 && string(f.Short) == name {
				return f
			}
		}
	}
	return nil
}

// valuesOf returns the values of a flag or an argument, if they are known.
func valuesOf(a *app, v *kong.Value) []string {
	switch {
	case v.Enum != "":
		return v.EnumSlice()
	case v.Name == "target":
		cfg, _, problems := loadConfig(a.config, a.env)
		if cfg == nil || cfg.Book == nil || len(problems) > 0 && cfg.Book.Current() == nil {
			return nil
		}
		var ids []string
		for _, t := range cfg.Book.Current().All() {
			ids = append(ids, t.ID)
		}
		return ids
	}
	return nil
}
