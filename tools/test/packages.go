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

// need is a program or file that tests use, the Debian packages that contain it,
// and what is not tested without it.
type need struct {
	program  string
	packages []string
	without  string
}

// needs lists what Go itself cannot build. Nothing is installed for a program that
// already exists on the machine, whatever its origin.
var needs = []need{
	{"/etc/ssl/certs/ca-certificates.crt", []string{"ca-certificates"}, "modules cannot be downloaded"},
	{"gcc", []string{"gcc", "libc6-dev"}, "tests run without the race detector"},
	{"git", []string{"git"}, "rules about the files that belong to the checkout"},
	{"postfix", []string{"postfix"}, "delivery through a real Postfix"},
	{"strace", []string{"strace"}, "flushes to disk of a mail"},
	{"dovecot", []string{"dovecot-core"}, "AUTH by and delivery into a real Dovecot"},
	{"/usr/lib/dovecot/imap", []string{"dovecot-imapd"}, "reading mail by IMAP"},
	{"/usr/lib/dovecot/lmtp", []string{"dovecot-lmtpd"}, "delivery into a real mailbox"},
	{"/usr/lib/dovecot/pop3", []string{"dovecot-pop3d"}, "certificates of a real POP3 server"},
	{"/usr/lib/dovecot/managesieve", []string{"dovecot-managesieved"}, "certificates of a real ManageSieve server"},
	{"nginx", []string{"nginx"}, "certificates of a real nginx"},
	{"haproxy", []string{"haproxy"}, "certificates of a real HAProxy"},
	{"/usr/share/tomcat10/bin/catalina.sh", []string{"tomcat10-common"}, "key stores of a real Tomcat"},
	{"certbot", []string{"certbot"}, "certbot's deploy hook"},
	{"lego", []string{"lego"}, "lego's hook"},
	{"dehydrated", []string{"dehydrated"}, "dehydrated's hook"},
	{"curl", []string{"curl"}, "posting events with curl"},
	{"openssl", []string{"openssl"}, "reading attachments with OpenSSL"},
	{"certtool", []string{"gnutls-bin"}, "reading attachments with GnuTLS"},
	{"pk12util", []string{"libnss3-tools"}, "reading PKCS#12 with NSS"},
	{"python3", []string{"python3"}, "reading mails with Python"},
	{"chromium", []string{"chromium"}, "the dashboard in a browser"},
	{"/usr/share/fonts/opentype/inter/Inter-Regular.otf", []string{"fonts-inter", "fonts-dejavu-core"}, "the dashboard in the typeface of its pictures"},
	{"gpg", []string{"gpg", "gpg-agent"}, "reading OpenPGP mails with GnuPG"},
	{"gpgsm", []string{"gpgsm"}, "reading certificates and keys with gpgsm"},
	{"/usr/lib/python3/dist-packages/cryptography/__init__.py", []string{"python3-cryptography"}, "reading attachments with Python"},
	{"age", []string{"age"}, "reading files encrypted with age"},
	{"opendkim", []string{"opendkim"}, "verifying DKIM signatures with OpenDKIM"},
	{"/usr/lib/python3/dist-packages/dkim/__init__.py", []string{"python3-dkim", "python3-nacl", "python3-dnspython"}, "verifying DKIM signatures with dkimpy"},
	{"ssh-keygen", []string{"openssh-client"}, "encrypting to SSH keys with age"},
	{"/sbin/mkfs.ext4", []string{"e2fsprogs"}, "power cuts"},
	{"mount", []string{"mount"}, "power cuts"},
	{"unzip", []string{"unzip"}, "the commands in mails that open archives"},
	{"sudo", []string{"sudo"}, "the rights of a mail host that reloads with sudo"},
	{"setsid", []string{"util-linux"}, "the commands in mails, without a terminal"},
	{"promtool", []string{"prometheus"}, "alerts"},
	{"groff", []string{"groff-base"}, "the manual page"},
	{"zsh", []string{"zsh"}, "completion in zsh"},
	{"fish", []string{"fish"}, "completion in fish"},
	{"lintian", []string{"lintian"}, "the Debian package"},
	{"rpm", []string{"rpm"}, "the RPM package"},
	{"systemd-analyze", []string{"systemd"}, "units for systemd"},
	{"systemd-nspawn", []string{"systemd-container"}, "units in a booted systemd"},
	{"keytool", []string{"default-jre-headless"}, "reading PKCS#12 with Java"},
}

// installPackages installs what is missing, as root on Debian or Ubuntu. Elsewhere it
// notes what is missing and what is not tested for that reason.
func (s *session) installPackages(ctx context.Context) error {
	lacking := missing(needs)
	if len(lacking) == 0 {
		fmt.Println("    everything is installed")
		return nil
	}
	if why := cannotInstall(); why != "" {
		for _, n := range lacking {
			s.note("%s (Debian: %s) is not installed, and %s; not tested: %s", n.program, strings.Join(n.packages, " "), why, n.without)
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
		return fmt.Errorf("%s was not found after installing %s", still[0].program, strings.Join(still[0].packages, " "))
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		s.note("Postfix and Dovecot were installed but not started; to prevent their start at the next boot, run `systemctl disable postfix dovecot`")
	}
	return nil
}

// missing returns the needs that are not on the machine, in the order of the list.
func missing(list []need) []need {
	return slices.DeleteFunc(slices.Clone(list), func(n need) bool {
		if filepath.IsAbs(n.program) {
			_, err := os.Stat(n.program)
			return err == nil
		}
		// On Debian the PATH of a user lacks sbin, where Postfix and Dovecot are.
		for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
			if _, err := exec.LookPath(filepath.Join(dir, n.program)); err == nil {
				return true
			}
		}
		return false
	})
}

// cannotInstall returns why packages cannot be installed on this machine, or "".
func cannotInstall() string {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "this is neither Debian nor Ubuntu"
	}
	if os.Geteuid() != 0 {
		return "only root can install it"
	}
	return ""
}

// aptInstall installs the packages of the missing needs.
func (s *session) aptInstall(ctx context.Context, lacking []need) error {
	var packages []string
	for _, n := range lacking {
		packages = append(packages, n.packages...)
	}
	fmt.Println("    installing", strings.Join(packages, " "))
	// Without this answer, installing Postfix would configure a mail server for this host.
	answers := s.command(ctx, "debconf-set-selections")
	answers.Stdin = strings.NewReader("postfix postfix/main_mailer_type select No configuration\n")
	if err := answers.Run(); err != nil {
		return fmt.Errorf("debconf-set-selections: %w", err)
	}
	return s.apt(ctx, s.root, append([]string{"install", "-y", "--no-upgrade", "--no-install-recommends"}, packages...)...)
}

// apt runs apt-get in a directory. It retries and waits for locks: a short failure of a
// mirror, or another apt that is running, must not fail a test run.
func (s *session) apt(ctx context.Context, dir string, args ...string) error {
	get := func(args ...string) error {
		args = append([]string{"-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3", "-o", "Dpkg::Use-Pty=0"}, args...)
		cmd := s.command(ctx, "apt-get", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		// apt-get prints a thousand lines, which matter only if it fails.
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
			fmt.Printf("    %v\n    retry in %s\n", err, wait)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		// Old lists name packages that the mirror has replaced in the meantime.
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

// listsAreStale reports whether apt's lists are missing or older than a day.
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

// holdServices prevents packages from starting their services during installation,
// with the policy script that Debian's maintainer scripts call
// (invoke-rc.d(8): 101 is "action forbidden by policy"). The function that it
// returns restores the previous policy.
func holdServices() (restore func() error, err error) {
	const (
		policy = "/usr/sbin/policy-rc.d"
		saved  = policy + ".before-certpost-tests"
		forbid = "#!/bin/sh\n# Certpost's tools/test put this here while it installs packages.\nexit 101\n"
	)
	// A killed run leaves our policy behind, and the previous one, if any, under its saved name.
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
