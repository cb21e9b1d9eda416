//go:build unix

package main

import (
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
	unit := filepath.Join(dir, "certpost-mailhost.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(block("ini")[0], "/usr/local/bin/certpost", "/bin/true")), 0o644); err != nil {
		t.Fatal(err)
	}
	if analyze := lab.Find("systemd-analyze"); analyze != "" {
		if said := lab.Output(t, analyze, "verify", "--man=no", unit); said != "" {
			t.Errorf("systemd says of the unit: %s", said)
		}
	}
	rules := filepath.Join(dir, "sudoers")
	if err := os.WriteFile(rules, []byte(block("sudoers")[0]), 0o440); err != nil {
		t.Fatal(err)
	}
	if visudo := lab.Find("visudo"); visudo != "" {
		if said := lab.Output(t, visudo, "-q", "-c", "-f", rules); said != "" {
			t.Errorf("sudo says of the lines: %s", said)
		}
	}
}
