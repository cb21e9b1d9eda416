package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// need is a program or file that tests use, the Debian packages that have it,
// and what cannot be tested without.
type need struct {
	program  string
	packages []string
	without  string
}

// needs lists what Go itself cannot build. The programs are probed first, so
// a machine that has them, from wherever, gets nothing installed.
var needs = []need{
	{"/etc/ssl/certs/ca-certificates.crt", []string{"ca-certificates"}, "modules cannot be downloaded"},
	{"gcc", []string{"gcc", "libc6-dev"}, "tests run without the race detector"},
	{"git", []string{"git"}, "rules about the files that belong to the checkout"},
	{"postfix", []string{"postfix"}, "delivery through a real Postfix"},
	{"dovecot", []string{"dovecot-core"}, "AUTH by and delivery into a real Dovecot"},
	{"/usr/lib/dovecot/imap", []string{"dovecot-imapd"}, "reading mail by IMAP"},
	{"/usr/lib/dovecot/lmtp", []string{"dovecot-lmtpd"}, "delivery into a real mailbox"},
	{"certbot", []string{"certbot"}, "certbot's deploy hook"},
	{"openssl", []string{"openssl"}, "reading attachments with OpenSSL"},
	{"certtool", []string{"gnutls-bin"}, "reading attachments with GnuTLS"},
	{"pk12util", []string{"libnss3-tools"}, "reading PKCS#12 with NSS"},
	{"python3", []string{"python3"}, "reading mails with Python"},
	{"chromium", []string{"chromium"}, "the dashboard in a browser"},
	{"/usr/share/fonts/opentype/inter/Inter-Regular.otf", []string{"fonts-inter", "fonts-dejavu-core"}, "the dashboard in the typeface of its pictures"},
	{"keytool", []string{"default-jre-headless"}, "reading PKCS#12 with Java"},
}

// installPackages installs what is missing, where that is possible: as root
// on Debian or Ubuntu. Elsewhere it says what is missing and what that costs.
func (s *session) installPackages(ctx context.Context) error {
	lacking := missing(needs)
	if len(lacking) == 0 {
		fmt.Println("    everything is there")
		return nil
	}
	if why := cannotInstall(); why != "" {
		for _, n := range lacking {
			s.note("%s (Debian: %s) is not here, and %s; not tested: %s", n.program, strings.Join(n.packages, " "), why, n.without)
		}
		return nil
	}
	restore, err := holdServices()
	if err != nil {
		return err
	}
	err = s.aptInstall(ctx, lacking)
	if restoring := restore(); err == nil {
		err = restoring
	}
	if err != nil {
		return err
	}
	if still := missing(lacking); len(still) > 0 {
		return fmt.Errorf("%s is still not there after installing %s", still[0].program, strings.Join(still[0].packages, " "))
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		s.note("Postfix and Dovecot were installed but not started; `systemctl disable postfix dovecot` keeps them from starting at the next boot")
	}
	return nil
}

// missing keeps the order of the list.
func missing(list []need) []need {
	return slices.DeleteFunc(slices.Clone(list), func(n need) bool {
		if filepath.IsAbs(n.program) {
			_, err := os.Stat(n.program)
			return err == nil
		}
		// A user's PATH on Debian lacks sbin, where Postfix and Dovecot are.
		for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
			if _, err := exec.LookPath(filepath.Join(dir, n.program)); err == nil {
				return true
			}
		}
		return false
	})
}

// cannotInstall says why packages cannot be installed here, or "".
func cannotInstall() string {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "this is neither Debian nor Ubuntu"
	}
	if os.Geteuid() != 0 {
		return "only root can install it"
	}
	return ""
}

// aptInstall installs the packages of what is lacking.
func (s *session) aptInstall(ctx context.Context, lacking []need) error {
	var packages []string
	for _, n := range lacking {
		packages = append(packages, n.packages...)
	}
	fmt.Println("    installing", strings.Join(packages, " "))
	// Without an answer Postfix's installation would configure a mail server for this host.
	answers := s.command(ctx, "debconf-set-selections")
	answers.Stdin = strings.NewReader("postfix postfix/main_mailer_type select No configuration\n")
	if err := answers.Run(); err != nil {
		return fmt.Errorf("debconf-set-selections: %w", err)
	}
	return s.apt(ctx, s.root, append([]string{"install", "-y", "--no-upgrade", "--no-install-recommends"}, packages...)...)
}

// apt runs apt-get in a directory. It is patient: a mirror's hiccup or another
// apt at work must not fail a test run.
func (s *session) apt(ctx context.Context, dir string, args ...string) error {
	get := func(args ...string) error {
		args = append([]string{"-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3", "-o", "Dpkg::Use-Pty=0"}, args...)
		cmd := s.command(ctx, "apt-get", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		// It says a thousand lines, which matter only when it fails.
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Run(); err != nil {
			os.Stdout.Write(said.Bytes())
			return fmt.Errorf("apt-get %s: %w", strings.Join(args, " "), err)
		}
		return nil
	}
	const tries = 4
	stale := listsAreStale(time.Now())
	var err error
	for try := range tries {
		if try > 0 {
			wait := time.Duration(try) * 10 * time.Second
			fmt.Printf("    %v\n    again in %s\n", err, wait)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		// Lists that are too old name packages that the mirror has replaced since.
		if stale {
			if err = get("update"); err != nil {
				continue
			}
		}
		if err = get(args...); err == nil {
			return nil
		}
		stale = true
	}
	return err
}

// listsAreStale says whether apt's lists are missing or older than a day.
func listsAreStale(now time.Time) bool {
	lists, err := filepath.Glob("/var/lib/apt/lists/*Release")
	if err != nil || len(lists) == 0 {
		return true
	}
	for _, list := range lists {
		info, err := os.Stat(list)
		if err == nil && now.Sub(info.ModTime()) < 24*time.Hour {
			return false
		}
	}
	return true
}

// holdServices keeps packages from starting their services while they are
// installed, by the policy that Debian's maintainer scripts ask
// (invoke-rc.d(8): 101 is "action forbidden by policy"). The function it
// returns puts back what was there before.
func holdServices() (restore func() error, err error) {
	const (
		policy = "/usr/sbin/policy-rc.d"
		saved  = policy + ".before-certpost-tests"
		forbid = "#!/bin/sh\n# Certpost's tools/test put this here while it installs packages.\nexit 101\n"
	)
	// A run that was killed has left its policy, with the one before it beside it or none.
	if data, err := os.ReadFile(policy); err == nil && string(data) != forbid {
		if err := os.Rename(policy, saved); err != nil {
			return nil, err
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.WriteFile(policy, []byte(forbid), 0o755); err != nil {
		return nil, err
	}
	return func() error {
		err := os.Rename(saved, policy)
		if errors.Is(err, fs.ErrNotExist) {
			return os.Remove(policy)
		}
		return err
	}, nil
}
