// Package lab finds and starts the real servers and programs that tests talk
// to: Vault, Dex, Postfix, Dovecot, Exim, Pebble, the NATS CLI, OpenSSL. Only tests import it.
package lab

import (
	"net"
	"strconv"
	"strings"

	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Need returns the path of a program: the one built into .tools/bin of the checkout, else
// the one on PATH or in the system's sbin, else the one that tools/test has unpacked. If
// there is none the test is skipped with the reason; with CI=true it fails instead.
// reason; with CI=true it fails, because there nothing may be skipped.
func Need(t testing.TB, program string) string {
	t.Helper()
	if path := Find(program); path != "" {
		return path
	}
	Skip(t, program+" is not on this machine: `go run -C tools/test .` installs what the tests need and runs them")
	return ""
}

// Skip skips a test for a reason that is in the machine; with CI=true the test fails
// instead.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// needRoot skips the test unless it runs as root: the server switches to other users.
func needRoot(t testing.TB, server string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, server+" starts only as root, and this test does not run as root")
	}
}

// Find returns the path of a program as Need does, or "".
func Find(program string) string {
	if filepath.IsAbs(program) {
		path, _ := exec.LookPath(program)
		return path
	}
	dirs := []string{filepath.Join(Root(), ".tools", "bin")}
	dirs = append(dirs, filepath.SplitList(os.Getenv("PATH"))...)
	dirs = append(dirs, "/usr/sbin", "/sbin", "/usr/lib/postfix/sbin", "/usr/lib/dovecot",
		filepath.Join(Root(), ".tools", "exim", "usr", "sbin"))
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	return ""
}

// Root is the directory of the checkout.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Write writes a file that only the test's user may read.
func Write(t testing.TB, path string, data []byte) {
	t.Helper()
	writeFile(t, path, string(data), 0o600)
}

// Output runs a program to its end and returns what it wrote to stdout and stderr. A
// program that fails fails the test.
func Output(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v", filepath.Base(program), strings.Join(args, " "), err)
	}
	return string(out)
}

// HostPort splits the address of a server.
func HostPort(t testing.TB, address string) (host string, port int) {
	t.Helper()
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if port, err = strconv.Atoi(text); err != nil {
		t.Fatal(err)
	}
	return host, port
}
