package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// stand is a program that takes no time to pack: a script that runs the real one.
func stand(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "certpost")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec "+lab.Build(t)+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPackages: two builds are the same; lintian finds no error; dpkg and rpm install the files
// with their modes, what they installed runs, and what an administrator has changed stays.
func TestPackages(t *testing.T) {
	lintian, dpkg, rpm, nfpm := lab.Need(t, "lintian"), lab.Need(t, "dpkg"), lab.Need(t, "rpm"), lab.Need(t, "nfpm")
	if os.Geteuid() != 0 {
		lab.Skip(t, "dpkg and rpm install only as root")
	}
	b := build{version: "v1.2.3-rc.1", arch: "amd64", program: stand(t), nfpm: nfpm, maintainer: "Ada <ada@example.com>", log: io.Discard}
	t.Chdir(lab.Root())
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	const debName, rpmName = "certpost_1.2.3~rc.1-1_amd64.deb", "certpost-1.2.3~rc.1-1.x86_64.rpm"
	var outs []string
	for range 2 {
		again := b
		again.out = t.TempDir()
		outs = append(outs, again.out)
		if err := again.run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{debName, rpmName} {
		if first := readFile(t, outs[0], name); !bytes.Equal(first, readFile(t, outs[1], name)) {
			t.Errorf("%s: two builds differ", name)
		}
	}
	deb := filepath.Join(outs[0], debName)
	if said := lab.Output(t, lintian, "--allow-root", "--fail-on", "error", deb); strings.Contains(said, "E: ") {
		t.Errorf("lintian:\n%s", said)
	}

	root := t.TempDir()
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lab.Write(t, filepath.Join(root, "var/lib/dpkg/status"), nil)
	install := []string{"--root=" + root, "--force-script-chrootless", "--force-confdef", "-i", deb}
	lab.Output(t, dpkg, install...)
	installed(t, root, "lib/systemd/system", "usr/share/zsh/vendor-completions")
	config := filepath.Join(root, "etc/certpost/certpost.yaml")
	lab.Write(t, config, []byte("targets: []\n"))
	lab.Output(t, dpkg, install...)
	if text := readFile(t, config); string(text) != "targets: []\n" {
		t.Errorf("installing again has replaced the configuration:\n%s", text)
	}
	lab.Output(t, dpkg, "--root="+root, "--force-script-chrootless", "-r", "certpost")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/certpost")); err == nil {
		t.Error("the program is still there after removal")
	}
	readFile(t, config)

	other := t.TempDir()
	lab.Output(t, rpm, "--root", other, "-i", "--nodeps", "--noscripts", filepath.Join(outs[0], rpmName))
	installed(t, other, "usr/lib/systemd/system", "usr/share/zsh/site-functions")
}

func installed(t *testing.T, root, units, zsh string) {
	t.Helper()
	for name, mode := range map[string]os.FileMode{
		"usr/bin/certpost": 0o755, "etc/certpost/certpost.yaml": 0o644, "etc/certpost/watch.yaml": 0o644, "etc/certpost": 0o755 | os.ModeDir,
		"etc/certpost/credentials": 0o700 | os.ModeDir, "usr/share/man/man1/certpost.1.gz": 0o644, zsh + "/_certpost": 0o644,
		"usr/share/bash-completion/completions/certpost": 0o644, "usr/share/fish/vendor_completions.d/certpost.fish": 0o644,
		"usr/share/doc/certpost/examples/certpost.yaml": 0o644, units + "/certpost.service": 0o644, units + "/certpost-watch.service": 0o644,
	} {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), mode)
		}
	}
	program := filepath.Join(root, "usr/bin/certpost")
	for _, file := range []string{"certpost.yaml", "watch.yaml"} {
		lab.Output(t, program, "check", "--config", filepath.Join(root, "etc/certpost", file))
	}
}

// TestScripts: an installation starts nothing, an upgrade restarts what runs, a removal stops
// everything, and without a running systemd, or below another root, nothing is called.
func TestScripts(t *testing.T) {
	t.Parallel()
	const units = " certpost.service certpost-watch.service\n"
	restart, stop := "daemon-reload\ntry-restart"+units, "--no-reload disable --now"+units
	for _, test := range []struct{ script, args, want string }{
		{"postinstall.sh", "configure", restart},
		{"postinstall.sh", "configure 1.2.2-1", restart},
		{"postinstall.sh", "1", restart},
		{"preremove.sh", "upgrade 1.2.4-1", ""},
		{"preremove.sh", "remove", stop},
		{"preremove.sh", "1", ""},
		{"preremove.sh", "0", stop},
		{"postremove.sh", "purge", "daemon-reload\n"},
		{"postremove.sh", "0", "daemon-reload\n"},
	} {
		for _, state := range []string{"", "DPKG_ROOT=/mnt", "no systemd"} {
			dir := t.TempDir()
			lab.Write(t, filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\necho \"$@\"\n"))
			if err := os.Chmod(filepath.Join(dir, "systemctl"), 0o755); err != nil {
				t.Fatal(err)
			}
			if state != "no systemd" {
				if err := os.Mkdir(filepath.Join(dir, "run"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			script := strings.ReplaceAll(string(readFile(t, test.script)), "/run/systemd/system", filepath.Join(dir, "run"))
			cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, test.script}, strings.Fields(test.args)...)...)
			cmd.Env = []string{"PATH=" + dir + ":" + os.Getenv("PATH"), state}
			out, err := cmd.CombinedOutput()
			want := test.want
			if state != "" {
				want = ""
			}
			if err != nil || string(out) != want {
				t.Errorf("%s %s (%s): %v, %q, want %q", test.script, test.args, state, err, out, want)
			}
		}
	}
}

func readFile(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
