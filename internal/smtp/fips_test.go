package smtp

import (
	"context"
	"crypto/fips140"
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Fault: a login that GODEBUG=fips140=only does not allow. Result: dead (SMTP_AUTH), with what to use instead; no panic.
func TestLoginWithFIPS(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestLoginWithFIPSChild$", "-test.count", "1")
	cmd.Env = append(os.Environ(), "GODEBUG=fips140=only", "FIPS_LOGIN=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%.3000s", err, out)
	}
}

// TestLoginWithFIPSChild is the part of TestLoginWithFIPS that needs a process of its own.
func TestLoginWithFIPSChild(t *testing.T) {
	if os.Getenv("FIPS_LOGIN") == "" {
		return
	}
	if !fips140.Enforced() {
		t.Fatal("FIPS 140-3 is not enforced")
	}
	s := &Session{relay: Relay{Username: "certs"}}
	const long = "correct-horse-battery"
	for _, c := range []struct{ method, password, refused string }{
		{"PLAIN", "short", ""}, {"LOGIN", "short", ""}, {"XOAUTH2", "token", ""}, {"SCRAM-SHA-256", long, ""},
		{"CRAM-MD5", long, "requires MD5"}, {"SCRAM-SHA-256", long[:13], "fewer than 14 characters"},
	} {
		m, reason := s.mechanism(c.method, c.password)
		if (m == nil) != (c.refused != "") || !strings.Contains(reason, c.refused) {
			t.Errorf("%s with %d characters: %q, want %q", c.method, len(c.password), reason, c.refused)
		}
	}
	for salt, want := range map[string]error{"a salt of 16 byt": nil, "short": errSalt} {
		m, _ := s.mechanism("SCRAM-SHA-256", long)
		if _, _, err := m.Start(nil); err != nil {
			t.Fatal(err)
		}
		first, err := m.Next(nil, true)
		if err != nil {
			t.Fatal(err)
		}
		_, nonce, _ := strings.Cut(string(first), "r=")
		challenge := "r=" + nonce + "more,s=" + base64.StdEncoding.EncodeToString([]byte(salt)) + ",i=4096"
		if _, err := m.Next([]byte(challenge), true); !errors.Is(err, want) {
			t.Errorf("a salt of %d bytes: %v, want %v", len(salt), err, want)
		}
	}
}
