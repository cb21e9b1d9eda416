package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type hookCmd struct {
	Install hookInstallCmd `cmd:"" help:"Write the hook of an ACME client, after showing it. step, Caddy, win-acme and Posh-ACME need no file: docs/publishing.md has their lines."`
}

type hookInstallCmd struct {
	Client string   `arg:"" help:"The client: certbot, lego, acme.sh or dehydrated." enum:"certbot,lego,acme.sh,dehydrated"`
	File   string   `help:"File to write (default: certbot's directory for deploy hooks, else below /etc/certpost/hooks)." placeholder:"FILE"`
	Yes    bool     `help:"Write without asking." short:"y"`
	Force  bool     `help:"Replace a file that is not one of certpost's hooks."`
	Args   []string `arg:"" optional:"" help:"Flags of certpost publish for the hook, after --, such as -- --store-key vault:secret/certs/{lineage}#private_key."`
}

// clientHook is what `hook install` knows about a client.
type clientHook struct {
	file string // where the hook is written by default
	args string // what the hook passes on, in the shell's words
	next string // how the client is told, with %s for the file
	test string // how the hook is run by hand
}

var clientHooks = map[string]clientHook{
	"certbot": {
		file: "/etc/letsencrypt/renewal-hooks/deploy/certpost",
		next: "certbot runs it after each renewal. For a first certificate give it too: certbot certonly ... --deploy-hook %s",
		test: "RENEWED_LINEAGE=/etc/letsencrypt/live/NAME %s",
	},
	"lego": {
		file: "/etc/certpost/hooks/lego",
		next: "Give it to lego: lego ... run --run-hook %[1]s, and lego ... renew --renew-hook %[1]s (since version 5: --deploy-hook %[1]s)",
		test: "LEGO_CERT_DOMAIN=NAME LEGO_CERT_PATH=.lego/certificates/NAME.crt LEGO_CERT_KEY_PATH=.lego/certificates/NAME.key %s",
	},
	"acme.sh": {
		file: "/etc/certpost/hooks/acme.sh",
		next: "Give it to acme.sh once: acme.sh --issue ... --post-hook %s",
		test: "Le_Domain=NAME CERT_FULLCHAIN_PATH=~/.acme.sh/NAME_ecc/fullchain.cer CERT_KEY_PATH=~/.acme.sh/NAME_ecc/NAME.key %s",
	},
	"dehydrated": {
		file: "/etc/certpost/hooks/dehydrated", args: ` -- "$@"`,
		next: "Add it to dehydrated's configuration: HOOK=%s",
		test: "%s deploy_cert NAME certs/NAME/privkey.pem certs/NAME/cert.pem certs/NAME/fullchain.pem certs/NAME/chain.pem 0",
	},
}

// hookMark is in every hook that certpost has written.
const hookMark = "written by certpost hook install"

// Run shows the hook, asks, and writes it.
func (c *hookInstallCmd) Run(a *app) error {
	hook := clientHooks[c.Client]
	if c.File == "" {
		c.File = hook.file
	}
	path, err := filepath.Abs(c.File)
	if err != nil {
		return err
	}
	cfg, problems := loadConnection(a.config, a.env)
	if err := a.usable(problems); err != nil {
		return err
	}
	if err := c.checkFlags(a, cfg); err != nil {
		return err
	}
	text, err := c.script(a, cfg, hook)
	if err != nil {
		return err
	}
	before, err := readFile(path)
	switch {
	case err == nil && string(before) == text:
		fmt.Fprintf(a.stdout, "%s is there already\n", path)
		return nil
	case err == nil && !bytes.Contains(before, []byte(hookMark)) && !c.Force:
		return usage("%s exists and is not one of certpost's hooks: --force replaces it, --file writes another file", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	for _, variable := range a.env {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, overridePrefix) && name != configVariable {
			fmt.Fprintf(a.stderr, "certpost: warning: %s is set here, but not where the client runs the hook: put it into the configuration\n", printable(name))
		}
	}
	fmt.Fprintf(a.stdout, "%s:\n\n%s\n", path, text)
	if err := c.ask(a, path); err != nil {
		return err
	}
	if err := writeHook(path, text); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s is written.\n  Next: %s\n  Test: %s\n", path, fmt.Sprintf(hook.next, shellQuote(path)), fmt.Sprintf(hook.test, shellQuote(path)))
	return nil
}

// checkFlags refuses what `publish` would refuse at the next renewal, when no person reads the error,
// by the same rules.
func (c *hookInstallCmd) checkFlags(a *app, cfg *Config) error {
	if slices.Contains(c.Args, "--") {
		return usage("flags for the hook: give only flags of certpost publish")
	}
	words := append([]string{"publish", "--from", c.Client}, c.Args...)
	line, ended := newCLI(), false
	parser, err := newParser(line, kong.Vars{"version": ""}, kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) { ended = true }))
	if err != nil {
		return err
	}
	if err := emptyValue(parser, words); err != nil {
		return usage("flags for the hook: %w", err)
	}
	parsed, err := parser.Parse(words)
	if ended { // --help, --version
		return usage("flags for the hook: --help and --version end the program before anything is published")
	}
	if err == nil {
		err = c.misplaced(parsed, &line.Publish)
	}
	if err == nil {
		err = line.Publish.rehearseWith(a, cfg)
	}
	if err != nil {
		return usage("flags for the hook: %w", err)
	}
	return nil
}

// misplaced returns what is wrong with a flag in a hook, though not in a command line.
func (c *hookInstallCmd) misplaced(parsed *kong.Context, publish *publishCmd) error {
	given := func(name string) bool {
		return slices.ContainsFunc(parsed.Path, func(p *kong.Path) bool { return p.Flag != nil && p.Flag.Name == name })
	}
	switch {
	case given("config"):
		return errors.New("the hook has the configuration of this command: give certpost --config FILE before hook install")
	case publish.From != c.Client:
		return fmt.Errorf("--from: the hook is one of %s", c.Client)
	case len(publish.Args) > 0:
		return fmt.Errorf("unexpected argument %s: %s passes the arguments", printable(publish.Args[0]), c.Client)
	case publish.ID != "":
		return errors.New("--id: each certificate needs an id of its own; without the flag it gets one")
	case publish.Key != "" && !filepath.IsAbs(publish.Key):
		return fmt.Errorf("--key %s: give the path in full, because %s runs the hook in another directory", printable(publish.Key), c.Client)
	}
	return nil
}

// script is the hook. It runs this program with this configuration, whatever the client's
// directory and PATH are then.
func (c *hookInstallCmd) script(a *app, cfg *Config, hook clientHook) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the program: %w", err)
	}
	words := []string{program}
	var settings string
	if file := configPath(a.config, a.env); file != "" {
		if file, err = filepath.Abs(file); err != nil {
			return "", err
		}
		words = append(words, "--config", file)
	}
	if !filepath.IsAbs(cfg.DataDir) { // it would be relative to the client's directory
		dir, err := filepath.Abs(cfg.DataDir)
		if err != nil {
			return "", err
		}
		settings = "export CERTPOST_DATA_DIR=" + shellQuote(dir) + "\n"
	}
	words = append(words, "publish", "--from", c.Client)
	words = append(words, c.Args...)
	for i, word := range words {
		words[i] = shellQuote(word)
	}
	return "#!/bin/sh\n# Publishes what " + c.Client + " has issued; " + hookMark + ". What cannot be published at once is kept and published later.\n" +
		settings + "exec " + strings.Join(words, " ") + hook.args + "\n", nil
}

func (c *hookInstallCmd) ask(a *app, path string) error {
	if c.Yes {
		return nil
	}
	if a.answers == nil {
		return usage("nothing was written: --yes writes it without asking")
	}
	fmt.Fprintf(a.stderr, "Write %s? [y/N] ", path)
	lines := bufio.NewScanner(a.answers)
	if lines.Scan() {
		if answer := strings.ToLower(strings.TrimSpace(lines.Text())); answer == "y" || answer == "yes" {
			return nil
		}
	}
	return &failure{exitFailed, errors.New("nothing was written")}
}

// writeHook writes an executable file that is complete or not there.
func writeHook(path, text string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".certpost-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o755), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// shellQuote is a word as a shell reads it back.
func shellQuote(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:=,@%+", r)
	}
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool { return !plain(r) }) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
