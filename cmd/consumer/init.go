package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/payload"
)

type initCmd struct {
	File     string   `help:"File to write." default:"certpost.yaml" placeholder:"FILE"`
	Host     string   `help:"Relay: host name of the SMTP server." placeholder:"HOST"`
	Port     int      `help:"Port of the relay: 587 (STARTTLS), 465 (TLS) or 25 (plaintext)." default:"587"`
	Username string   `help:"User name at the relay; without one, no login." placeholder:"NAME"`
	From     string   `help:"Sender's address." placeholder:"ADDRESS"`
	To       []string `help:"Recipient's address (repeatable)." placeholder:"ADDRESS"`
	Names    []string `help:"DNS names whose certificates are sent, such as *.example.com (repeatable; default: all)." placeholder:"GLOB"`
	Payload  string   `help:"What is attached: pem, der, pkcs7 or zip; kinds with a private key need secrets, which you add by hand." enum:"pem,der,pkcs7,zip" default:"pem"`
	MailHost string   `name:"mail-host" help:"Write the configuration of a mail host instead: the name of this host, such as mx1. --names are its DNS names." placeholder:"NAME"`
	Programs []string `name:"program" help:"Program on the mail host: postfix or dovecot (repeatable)." enum:"postfix,dovecot" default:"postfix,dovecot"`
	Force    bool     `help:"Replace the file if it exists."`

	natsURL string // --nats-url: the server of an agent
}

// Help is shown below the usage.
func (*initCmd) Help() string {
	return "With --mail-host, --nats-url is the NATS server elsewhere, to which an agent on the mail host connects."
}

// Run writes a commented configuration. What no flag gives is asked for in a terminal.
func (c *initCmd) Run(a *app) error {
	c.natsURL = a.natsURL
	if _, err := os.Lstat(c.File); err == nil && !c.Force {
		return usage("%s exists: --force replaces it, --file writes another file", c.File)
	}
	if err := c.ask(a); err != nil {
		return err
	}
	text := c.text()
	if c.MailHost != "" {
		text = c.mailHostText()
	}
	if err := c.check(a, text); err != nil {
		return err
	}
	if err := writePrivately(c.File, []byte(text)); err != nil {
		return &failure{exitFailed, err}
	}
	fmt.Fprintf(a.stdout, "%s is written. Next:\n", c.File)
	if c.MailHost != "" {
		fmt.Fprint(a.stdout, c.nextOnMailHost())
		return nil
	}
	fmt.Fprint(a.stdout, c.next())
	return nil
}

// next says what to do next, in the order in which it works: until the first run there is neither a NATS server nor a seed to log in with.
func (c *initCmd) next() string {
	password := ""
	if c.Username != "" {
		password = fmt.Sprintf("  export SMTP_PASSWORD=...    # the password of %s\n", c.Username)
	}
	return fmt.Sprintf(`%[2]s  certpost run -c %[1]s    # starts NATS and the dashboard, http://127.0.0.1:8080; leave it running
In another terminal, in the same directory:
%[2]s  certpost check --live -c %[1]s    # connects to NATS and the relay, and sends nothing
  certpost send-test --target mail -c %[1]s    # sends a test certificate
`, c.File, password)
}

// ask completes what the flags do not give. Without a terminal it names the flags.
func (c *initCmd) ask(a *app) error {
	var missing []string
	var lines *bufio.Scanner
	if a.answers != nil {
		lines = bufio.NewScanner(a.answers)
	}
	question := func(flag, text, proposal string, given bool, set func(string)) {
		switch {
		case given:
		case lines == nil && proposal == "":
			missing = append(missing, flag)
		case lines != nil:
			if proposal != "" {
				text += " [" + proposal + "]"
			}
			fmt.Fprint(a.stderr, text+": ")
			answer := ""
			if lines.Scan() {
				answer = strings.TrimSpace(lines.Text())
			}
			if answer = cmp.Or(answer, proposal); answer == "" {
				missing = append(missing, flag)
				return
			}
			set(answer)
		}
	}
	if c.MailHost != "" {
		question("--names", "DNS name of the mail host", "", len(c.Names) > 0, func(s string) { c.Names = []string{s} })
		if missing != nil {
			return usage("init --mail-host needs %s", strings.Join(missing, ", "))
		}
		if strings.Contains(c.Names[0], "*") {
			return usage("--names: the first is the name that clients use, so it has no wildcard: %q", c.Names[0])
		}
		return nil
	}
	if c.natsURL != "" {
		return usage("--nats-url is for --mail-host")
	}
	question("--host", "Host name of the SMTP relay", "", c.Host != "", func(s string) { c.Host = s })
	question("--from", "Address of the sender", "", c.From != "", func(s string) { c.From = s })
	question("--to", "Address of the recipient", "", len(c.To) > 0, func(s string) { c.To = []string{s} })
	if lines != nil && c.Username == "" {
		fmt.Fprint(a.stderr, "User name at the relay (empty for no login): ")
		if lines.Scan() {
			c.Username = strings.TrimSpace(lines.Text())
		}
	}
	if missing != nil {
		return usage("init needs %s", strings.Join(missing, ", "))
	}
	return nil
}

// text is the configuration.
func (c *initCmd) text() string {
	match := `issuers: ["*"]`
	comment := "# every certificate; or dns_names: [\"*.example.com\"], labels: {env: prod}"
	if len(c.Names) > 0 {
		match, comment = "dns_names: ["+quotedList(c.Names)+"]", "# issuers and labels may be added; all have to fit"
	}
	login := "    auth_method: none\n"
	if c.Username != "" {
		login = fmt.Sprintf("    username: %q\n    password: {env: SMTP_PASSWORD}        # or {file: PATH}, or {vault: {mount: secret, path: smtp/relay, key: password}}\n", c.Username)
	}
	return fmt.Sprintf(`# Certpost: who gets which certificates, and how. docs/configuration.md has every setting.
# certpost check -c %[1]s says what is wrong with this file; run reads changes to targets by itself.

data_dir: ./data                          # the embedded NATS; or nats: {url: nats://nats.example.com:4222}
http: {listen: "127.0.0.1:8080"}          # dashboard, health, metrics; another address needs http.tls and http.sign_in
# vault: {address: "https://vault.example.com:8200", auth: {method: approle, role_id: {env: ROLE_ID}, secret_id: {file: /run/secret_id}}}
# events: {file_roots: [/etc/letsencrypt]}   # where events may name private keys; needed by payloads with a key

targets:
  - id: mail
    match: {%[2]s}   %[3]s
    host: %[4]q
    port: %[5]d
%[6]s    from_address: %[7]q
    to: [%[8]s]
    payload: %[9]s                        # pem_and_key, pkcs12 and jks need a private key in the event
`, filepath.Base(c.File), match, comment, c.Host, c.Port, login, c.From, quotedList(c.To), cmp.Or(c.Payload, payload.PEM))
}

// quotedList is a list of texts for a sequence in YAML.
func quotedList(all []string) string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = strconv.Quote(s)
	}
	return strings.Join(out, ", ")
}

// check refuses answers with which the configuration would be invalid.
func (c *initCmd) check(a *app, text string) error {
	dir, err := os.MkdirTemp("", "certpost-init-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	draft := filepath.Join(dir, filepath.Base(c.File))
	if err := os.WriteFile(draft, []byte(text), 0o600); err != nil {
		return err
	}
	var wrong []error
	_, _, problems := loadConfig(draft, a.env)
	for _, p := range problems {
		if p.Severity != config.Warning {
			wrong = append(wrong, fmt.Errorf("%s: %s", p.Path, p.Message))
		}
	}
	if wrong != nil {
		return usage("nothing was written: %w", errors.Join(wrong...))
	}
	return nil
}
