//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/lab"
)

// The configurations on docs/mail-hosts.md have no problem, its unit is understood by systemd, and
// its sudoers lines by sudo, where these are installed.
func TestMailHostManual(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(root + "/docs/mail-hosts.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) []string {
		var all []string
		for _, m := range regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
			all = append(all, m[1])
		}
		if len(all) == 0 {
			t.Fatalf("the page has no %s", kind)
		}
		return all
	}
	dir := t.TempDir()
	targets := ""
	for i, text := range block("yaml") {
		path := filepath.Join(dir, "certpost.yaml")
		agent := strings.Contains(text, "targets_file")
		if i == 0 {
			_, targets, _ = strings.Cut(text, "\n") // without mail_host
		}
		if agent {
			if err := os.WriteFile(filepath.Join(dir, "targets.yaml"), []byte(targets), 0o600); err != nil {
				t.Fatal(err)
			}
			if lines := strings.Count(text, "\n"); lines != 5 {
				t.Errorf("the configuration of the agent has %d lines", lines)
			}
			text = strings.ReplaceAll(text, "/etc/certpost/targets.yaml", filepath.Join(dir, "targets.yaml"))
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, _, problems := loadConfig(path, nil)
		for _, p := range problems {
			t.Errorf("%s: %v", text, p)
		}
		lane := "host-mx1"
		if cfg.MailHost != "" {
			lane = cfg.hostLane()
		}
		if !config.Failed(problems) && !cfg.Book.Current().HasLane(lane) {
			t.Errorf("no target is in %s: %s", lane, text)
		}
	}
	units := block("ini")
	whole := strings.ReplaceAll(units[0], "/usr/local/bin/certpost", "/bin/true")
	unprivileged := regexp.MustCompile(`(?m)^CapabilityBoundingSet=.*\n`).ReplaceAllString(whole, units[1])
	if !strings.Contains(unprivileged, "User=certpost\nAmbientCapabilities=CAP_KILL\n") {
		t.Errorf("the unit without root is %s", unprivileged)
	}
	for i, text := range []string{whole, strings.ReplaceAll(unprivileged, "User=certpost", "User=daemon")} {
		unit := filepath.Join(dir, fmt.Sprintf("certpost-mailhost%d.service", i))
		if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if analyze := lab.Find("systemd-analyze"); analyze != "" {
			if said := lab.Output(t, analyze, "verify", "--man=no", unit); said != "" {
				t.Errorf("systemd says of the unit: %s", said)
			}
		}
	}
	trySudo(t, block("sudoers")[0])
}

// trySudo has sudo itself check the lines and run the commands in them, in a mount namespace with these
// lines as /etc/sudoers and a script for each program that says who runs it.
func trySudo(t *testing.T, lines string) {
	t.Helper()
	if os.Geteuid() != 0 {
		lab.Skip(t, "sudo's rules are read from /etc only, which only root can mount over")
	}
	lab.Need(t, "sudo")
	dir := t.TempDir()
	rules, program := filepath.Join(dir, "sudoers"), filepath.Join(dir, "program")
	if err := errors.Join(os.WriteFile(rules, []byte(strings.ReplaceAll(lines, "certpost ", "nobody ")), 0o440),
		os.WriteFile(program, []byte("#!/bin/sh\necho \"$(id -u) $0 $*\"\n"), 0o755), os.Chmod(program, 0o755)); err != nil {
		t.Fatal(err)
	}
	if said := lab.Output(t, lab.Need(t, "visudo"), "-q", "-c", "-f", rules); said != "" {
		t.Errorf("sudo says of the lines: %s", said)
	}
	script := "mount --bind " + rules + " /etc/sudoers\n"
	for _, name := range []string{"/usr/sbin/postfix", "/usr/bin/doveadm"} {
		script += "mount --bind " + program + " " + name + "\n"
	}
	for _, command := range []string{"/usr/sbin/postfix reload", "/usr/sbin/postfix check", "/usr/bin/doveadm reload", "/usr/sbin/postfix stop", "/usr/bin/doveadm stop", "/bin/sh -c id"} {
		script += "setpriv --reuid=65534 --regid=65534 --clear-groups sudo -n " + command + " 2>/dev/null || echo refused " + command + "\n"
	}
	said := lab.Output(t, lab.Need(t, "unshare"), "--mount", "sh", "-ec", script)
	want := "0 /usr/sbin/postfix reload\n0 /usr/sbin/postfix check\n0 /usr/bin/doveadm reload\nrefused /usr/sbin/postfix stop\nrefused /usr/bin/doveadm stop\nrefused /bin/sh -c id\n"
	if said != strings.TrimSpace(want) && said != want {
		t.Errorf("sudo says\n%s\nwant\n%s", said, want)
	}
}
