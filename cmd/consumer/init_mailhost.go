package main

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/certpost/certpost/internal/broker"
)

// mailProgram is what init knows of a program on a mail host.
type mailProgram struct {
	directory string // of its certificates
	endpoints string // of post_deploy_verify
	settings  func(file string) []string
}

var mailPrograms = map[string]mailProgram{
	"postfix": {"/etc/postfix/certs", `endpoint: "127.0.0.1:25"`, func(file string) []string {
		return []string{"main.cf:       smtpd_tls_chain_files = " + file}
	}},
	"dovecot": {"/etc/dovecot/certs", `endpoints: ["127.0.0.1:993", "imap://127.0.0.1:143"]`, func(file string) []string {
		return []string{"dovecot.conf:  ssl_cert = <" + file, "               ssl_key = <" + file,
			"               service imap-login {", "                 service_count = 0   # or a reload drops connections; pop3-login and managesieve-login likewise", "               }"}
	}},
}

// fileOf is the file with key, leaf and chain: one file is replaced in one rename.
func (c *initCmd) fileOf(program string) string {
	name, _, _ := strings.Cut(c.Names[0], ".")
	return path.Join(mailPrograms[program].directory, name+".pem")
}

// mailHostText is the configuration of a process on a mail host: the whole program, or with a NATS server
// elsewhere an agent.
func (c *initCmd) mailHostText() string {
	var b strings.Builder
	run := "certpost run -c " + filepath.Base(c.File)
	if c.natsURL != "" {
		run += " --mail-host " + c.MailHost
	}
	fmt.Fprintf(&b, "# Certpost on mail host %s: certificates for %s. docs/mail-hosts.md says what a deployment does.\n# certpost check --live", c.MailHost, strings.Join(c.Programs, " and "))
	if c.natsURL != "" {
		fmt.Fprintf(&b, " --mail-host %s", c.MailHost)
	}
	fmt.Fprintf(&b, " -c %s looks at paths, commands and endpoints; %s deploys.\n\n", filepath.Base(c.File), run)
	if c.natsURL == "" {
		fmt.Fprintf(&b, "mail_host: %s\ndata_dir: ./data                          # the embedded NATS\nevents: {file_roots: [/etc/letsencrypt]}  # where events may name private keys; or secret_paths, in Vault\n", c.MailHost)
	} else {
		fmt.Fprintf(&b, `# An agent: it serves the lane of this host alone. certpost nats-account prints its user; the same targets stand in the
# configuration of the processes that resolve events.
nats: {url: %[1]q, user: %[2]s, password: {file: /etc/certpost/nats-password}, inbox_prefix: _INBOX_%[2]s}
audit: {key: {file: /etc/certpost/audit.key}}   # the same on all processes; or {vault: {...}}
events: {file_roots: [/etc/certpost/keys]}      # where events may name private keys; or secret_paths, in Vault
# vault: {address: "https://vault.example.com:8200", auth: {method: approle, role_id: {file: /etc/certpost/role_id}, secret_id: {file: /etc/certpost/secret_id}}}
`, c.natsURL, broker.HostUser(c.MailHost))
	}
	b.WriteString("http: {listen: \"127.0.0.1:8080\"}          # health and metrics\n\ntargets:\n")
	for _, program := range c.Programs {
		fmt.Fprintf(&b, `  - id: %[1]s-%[2]s
    type: %[2]s
    host: %[1]s
    match: {dns_names: [%[3]s]}
    cert_path: %[4]s
    key_path: %[4]s   # the same: one file with key, leaf and chain
    post_deploy_verify: {%[5]s, server_name: %[6]s}
`, c.MailHost, program, quotedList(c.Names), c.fileOf(program), mailPrograms[program].endpoints, c.Names[0])
	}
	return b.String()
}

// nextOnMailHost says what remains to be done.
func (c *initCmd) nextOnMailHost() string {
	var b strings.Builder
	flag := ""
	if c.natsURL != "" {
		flag = " --mail-host " + c.MailHost
	}
	b.WriteString("1. The present key and its certificates into the new files, so that the programs find them from the start:\n")
	for _, program := range c.Programs {
		fmt.Fprintf(&b, "  install -d -m 0755 -o root %s\n  (umask 077; cat PRESENT-KEY.pem PRESENT-CHAIN.pem > %s)\n", mailPrograms[program].directory, c.fileOf(program))
	}
	b.WriteString("2. Only then the programs' configuration, and a reload:\n")
	for _, program := range c.Programs {
		for _, line := range mailPrograms[program].settings(c.fileOf(program)) {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	fmt.Fprintf(&b, "3. Certpost, and once it runs, a look at paths, commands and endpoints:\n  certpost run%[1]s -c %[2]s\n  certpost check --live%[1]s -c %[2]s\n", flag, c.File)
	if c.natsURL == "" { // an agent publishes nothing
		live := "/etc/letsencrypt/live/" + strings.TrimPrefix(c.Names[0], "*.")
		fmt.Fprintf(&b, "4. Each renewed certificate, by hand or from the hook of its client (docs/publishing.md), and what became of it:\n  certpost publish -c %[1]s --cert %[2]s/fullchain.pem --key-ref file:%[2]s/privkey.pem\n  certpost deliveries list -c %[1]s\n", c.File, live)
	}
	return b.String()
}
