package lab

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
	"time"
)

// DexClient is a client that is registered at the provider.
type DexClient struct {
	ID            string   `json:"id"`
	Secret        string   `json:"secret"`
	Redirects     []string `json:"redirects"`
	AfterSignOut  []string `json:"after_sign_out"`
	TokenLifetime string   `json:"token_lifetime,omitempty"` // a Go duration; an hour when empty
}

// DexUser is a user who signs in at the provider with e-mail address and password.
type DexUser struct {
	ID         string   `json:"id"`
	Email      string   `json:"email"`
	Unverified bool     `json:"unverified"` // the address
	Name       string   `json:"name"`
	Password   string   `json:"password"`
	Groups     []string `json:"groups"`
}

// DexServer is a real OpenID Connect provider (tools/dex) for one test.
type DexServer struct {
	// Issuer is its address.
	Issuer string

	stop func()
}

// Dex starts a provider on a free port of loopback and stops it when the test ends.
// The test is skipped, or fails with CI=true, if dex-dev is not built.
func Dex(t testing.TB, client DexClient, users ...DexUser) *DexServer {
	t.Helper()
	cmd := exec.Command(Need(t, "dex-dev"))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	d := &DexServer{stop: func() {
		if ended {
			return
		}
		ended = true
		_ = stdin.Close() // it ends when its input ends
		late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_ = cmd.Wait()
	}}
	t.Cleanup(d.stop)
	if err := json.NewEncoder(stdin).Encode(map[string]any{"client": client, "users": users}); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("dex-dev did not start: %v", err)
	}
	var said struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(line, &said); err != nil || said.Issuer == "" {
		t.Fatalf("dex-dev said %q: %v", line, err)
	}
	d.Issuer = said.Issuer
	return d
}

// Stop ends the provider before the test does.
func (d *DexServer) Stop() { d.stop() }
