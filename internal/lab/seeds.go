package lab

import (
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"
)

// Seed is the file with the seed of a role (admin, publisher) of the NATS server that a
// program embeds, by the program's data directory.
func Seed(dataDir, role string) string { return filepath.Join(dataDir, "nats", role+".nk") }

// SeedEnv is the variable of the NATS CLI that makes it log in with a role.
func SeedEnv(dataDir, role string) string { return "NATS_NKEY=" + Seed(dataDir, role) }

// Login connects to the NATS server that a program embeds, with a role; the connection ends
// with the test.
func Login(t testing.TB, url, dataDir, role string, options ...nats.Option) *nats.Conn {
	t.Helper()
	login, err := nats.NkeyOptionFromSeed(Seed(dataDir, role))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(url, append(options, login)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Admin is Login as an administrator.
func Admin(t testing.TB, url, dataDir string, options ...nats.Option) *nats.Conn {
	t.Helper()
	return Login(t, url, dataDir, "admin", options...)
}
