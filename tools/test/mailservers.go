package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
)

const (
	eximPackage = "exim4-daemon-light"
	// eximUser is compiled into Debian's Exim; without this user it does not start.
	eximUser = "Debian-exim"
)

// unpackExim unpacks Exim into .tools/exim, with the user that it needs.
func (s *session) unpackExim(ctx context.Context) error {
	binary := filepath.Join(s.root, ".tools", "exim", "usr", "sbin", "exim4")
	// Exim starts only if its libraries and its user exist.
	starts := func(path string) error { return exec.CommandContext(ctx, path, "-C", "/dev/null", "-bV").Run() }
	if starts(binary) == nil || starts("exim4") == nil {
		fmt.Println("    already installed")
		return nil
	}
	if why := cannotInstall(); why != "" {
		s.note("exim4 (Debian: %s) is not installed, and %s; not tested: delivery to a real Exim", eximPackage, why)
		return nil
	}
	if err := s.unpack(ctx, "exim", eximPackage, binary); err != nil {
		return err
	}
	if _, err := user.Lookup(eximUser); err != nil {
		useradd := s.command(ctx, "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", eximUser)
		if err := useradd.Run(); err != nil {
			return fmt.Errorf("useradd %s: %w", eximUser, err)
		}
	}
	if err := starts(binary); err != nil {
		return fmt.Errorf("%s -bV: %w", binary, err)
	}
	return nil
}

// unpackOpenSMTPD unpacks OpenSMTPD into .tools/opensmtpd. The tests give it its users and
// directories in a mount namespace.
func (s *session) unpackOpenSMTPD(ctx context.Context) error {
	const name = "opensmtpd"
	binary := filepath.Join(s.root, ".tools", name, "usr", "sbin", "smtpd")
	// It ends with 1 after its usage, and without its libraries it says nothing of itself.
	starts := func() bool {
		said, _ := exec.CommandContext(ctx, binary, "-h").CombinedOutput()
		return bytes.Contains(said, []byte("OpenSMTPD"))
	}
	if starts() {
		fmt.Println("    already installed")
		return nil
	}
	if why := cannotInstall(); why != "" {
		s.note("OpenSMTPD (Debian: %s) is not unpacked, and %s; not tested: certificates of a real OpenSMTPD", name, why)
		return nil
	}
	if err := s.unpack(ctx, name, name, binary); err != nil {
		return err
	}
	if !starts() {
		return fmt.Errorf("%s -h does not start", binary)
	}
	return nil
}

// unpack unpacks a mail server into .tools, because Debian installs only one at a time, and
// that is Postfix. The libraries that it needs are installed.
func (s *session) unpack(ctx context.Context, dir, name, binary string) error {
	home := filepath.Join(s.root, ".tools", dir)
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	if err := s.apt(ctx, home, "download", name); err != nil {
		return err
	}
	packages, err := filepath.Glob(filepath.Join(home, "*.deb"))
	if err != nil || len(packages) != 1 {
		return fmt.Errorf("apt-get download left %d packages in %s, want 1", len(packages), home)
	}
	if err := s.command(ctx, "dpkg-deb", "-x", packages[0], home).Run(); err != nil {
		return fmt.Errorf("dpkg-deb -x: %w", err)
	}
	// The packaged binary is setuid root, which a file in a checkout must not be.
	if err := os.Chmod(binary, 0o755); err != nil {
		return err
	}
	depends, err := exec.CommandContext(ctx, "dpkg-deb", "-f", packages[0], "Depends").Output()
	if err != nil {
		return fmt.Errorf("dpkg-deb -f: %w", err)
	}
	return s.aptInstall(ctx, []need{{packages: libraries(string(depends))}})
}

// libraries returns the libraries in the Depends field of a Debian package, such as
// "libc6 (>= 2.34), adduser".
func libraries(depends string) []string {
	var names []string
	for dependency := range strings.SplitSeq(depends, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(dependency), " ")
		if strings.HasPrefix(name, "lib") {
			names = append(names, name)
		}
	}
	return names
}
