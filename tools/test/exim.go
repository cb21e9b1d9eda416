package main

import (
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
	// eximUser is compiled into Debian's Exim, which does not start without it.
	eximUser = "Debian-exim"
)

// unpackExim puts Exim into .tools/exim: Debian installs one mail server alone,
// and Postfix is that. What Exim needs besides, libraries and a user, is
// installed as its package would have it.
func (s *session) unpackExim(ctx context.Context) error {
	home := filepath.Join(s.root, ".tools", "exim")
	binary := filepath.Join(home, "usr", "sbin", "exim4")
	// It starts only when its libraries and its user are there.
	starts := func(path string) error { return exec.CommandContext(ctx, path, "-C", "/dev/null", "-bV").Run() }
	if starts(binary) == nil || starts("exim4") == nil {
		fmt.Println("    it is there")
		return nil
	}
	if why := cannotInstall(); why != "" {
		s.note("exim4 (Debian: %s) is not here, and %s; not tested: delivery to a real Exim", eximPackage, why)
		return nil
	}
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	if err := s.apt(ctx, home, "download", eximPackage); err != nil {
		return err
	}
	packages, err := filepath.Glob(filepath.Join(home, "*.deb"))
	if err != nil || len(packages) != 1 {
		return fmt.Errorf("apt-get download left %d packages in %s, want 1", len(packages), home)
	}
	if err := s.command(ctx, "dpkg-deb", "-x", packages[0], home).Run(); err != nil {
		return fmt.Errorf("dpkg-deb -x: %w", err)
	}
	// As packaged it is setuid root; nothing of that kind belongs into a checkout.
	if err := os.Chmod(binary, 0o755); err != nil {
		return err
	}
	depends, err := exec.CommandContext(ctx, "dpkg-deb", "-f", packages[0], "Depends").Output()
	if err != nil {
		return fmt.Errorf("dpkg-deb -f: %w", err)
	}
	if err := s.aptInstall(ctx, []need{{packages: libraries(string(depends))}}); err != nil {
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

// libraries are those among what a Debian package depends on: "libc6 (>= 2.34), adduser".
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
