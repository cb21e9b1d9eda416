//go:build linux && booted

// Apart from the others, because booting takes a while: `task test:booted` runs it.

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
)

// The unit of docs/mail-hosts.md in a systemd that has booted, beside Debian's units of Postfix and
// Dovecot: it may do what a deployment needs, is started again after a kill -9 and goes on, and stops cleanly.
func TestUnitInBootedSystemd(t *testing.T) {
	for _, program := range []string{"postfix", "dovecot", "openssl", "curl"} {
		lab.Need(t, program)
	}
	page, err := os.ReadFile(root + "/docs/mail-hosts.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) string {
		_, after, found := strings.Cut(string(page), "\n```"+kind+"\n")
		text, _, closed := strings.Cut(after, "```")
		if !found || !closed {
			t.Fatalf("docs/mail-hosts.md has no %s", kind)
		}
		return text
	}
	dir := lab.ServerDir(t)
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := newDemoCA()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second", "third", "wrong"} {
		chain, key, err := ca.issue(mailHostName)
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := payload.ParseBundle(chain)
		if err != nil {
			t.Fatal(err)
		}
		if name == "first" {
			chain = append(bytes.Clone(key), chain...)
		}
		write(name+".pem", string(chain))
		write(name+".key", string(key))
		write(name+".serial", serialText(bundle))
	}
	write("main.cf", "compatibility_level = 3.6\nmyhostname = mx1.example.com\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmydestination = localhost\nsmtpd_tls_security_level = may\n"+block("postfix"))
	write("master.cf", strings.ReplaceAll(readText(t, "/usr/share/postfix/master.cf.dist"), "\n       -       y       ", "\n       -       n       "))
	write("dovecot.conf", "protocols = imap\nlisten = 127.0.0.1\nssl = required\npassdb {\n  driver = static\n  args = password=x\n}\nuserdb {\n  driver = static\n  args = uid=mail gid=mail home=/var/mail/%u\n}\n"+block("dovecot"))
	write("certpost.yaml", "events: {file_roots: [/etc/certpost/keys]}\n"+block("yaml"))
	write("certpost-mailhost.service", strings.ReplaceAll(block("ini"), "/usr/local/bin/certpost", "/opt/probe/certpost"))
	write("probe.sh", readText(t, filepath.Join("testdata", "booted.sh")))
	if err := os.WriteFile(filepath.Join(dir, "certpost"), []byte(readText(t, lab.Build(t))), 0o755); err != nil {
		t.Fatal(err)
	}
	said := boot(t, dir)
	var results []string
	for _, m := range regexp.MustCompile(`PROBE ([^\r\n]*)`).FindAllStringSubmatch(said, -1) {
		results = append(results, strings.TrimSpace(m[1]))
	}
	want := []string{`status: CapBnd: 00000000000000eb NoNewPrivs: 1 Seccomp: 2`, `second: served`, `wrong key: dead letter`, `third: served after a kill`,
		`files: 600 root:root`, `strays: 0`, `stopped: success inactive`, `exposure: [0-2]\.\d`, `done`}
	if !regexp.MustCompile("^" + strings.Join(want, "\n") + "$").MatchString(strings.Join(results, "\n")) {
		t.Errorf("results:\n%s\nall of it:\n%s", strings.Join(results, "\n"), said)
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// serialText is a serial number as OpenSSL prints it.
func serialText(b *payload.Bundle) string {
	text := fmt.Sprintf("%X", b.Leaf.SerialNumber)
	return strings.Repeat("0", len(text)%2) + text + "\n"
}

// boot boots the machine's /usr in a container with the directory as /opt/probe, runs probe.sh
// there, and returns what its console said. Nothing of the machine is changed: all but /usr is in
// memory, and there is no network.
func boot(t *testing.T, dir string) string {
	t.Helper()
	nspawn := lab.Need(t, "systemd-nspawn")
	if os.Geteuid() != 0 {
		lab.Skip(t, "systemd-nspawn works only as root, and this test does not run as root")
	}
	units := map[string]string{
		"probe.target":  "[Unit]\nRequires=basic.target probe.service\nAfter=basic.target\nAllowIsolate=yes\n",
		"probe.service": "[Unit]\nAfter=basic.target\n[Service]\nType=oneshot\nExecStart=/bin/sh /opt/probe/probe.sh\nExecStopPost=/bin/systemctl poweroff --no-block\nStandardOutput=journal+console\nStandardError=journal+console\n",
	}
	args := []string{"-q", "--register=no", "--keep-unit", "--private-network", "--volatile=yes", "-D", "/", "--bind-ro=" + dir + ":/opt/probe", "--bind-ro=/etc:/opt/etc",
		"--bind-ro=" + filepath.Join(dir, "certpost-mailhost.service") + ":/etc/systemd/system/certpost-mailhost.service"}
	for name, text := range units {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--bind-ro="+filepath.Join(dir, name)+":/etc/systemd/system/"+name)
	}
	args = append(args, "-b", "systemd.unit=probe.target", "systemd.firstboot=no", "systemd.mask=systemd-networkd.service", "systemd.mask=systemd-networkd-wait-online.service")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	said, err := exec.CommandContext(ctx, nspawn, args...).CombinedOutput()
	if !bytes.Contains(said, []byte("Welcome to")) {
		lab.Skip(t, fmt.Sprintf("systemd does not boot in a container here: %v\n%s", err, said))
	}
	return string(said)
}
