package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gofrs/flock"
)

// Build returns the path of the program, built from this checkout. If it is already
// built, the go command does nothing; a lock keeps the test processes of several packages
// from building it at the same time.
func Build(t testing.TB) string {
	t.Helper()
	dir := mkdir(t, Root(), ".tools", "build")
	lock := flock.New(filepath.Join(dir, "lock"))
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	program := filepath.Join(dir, "certpost")
	if os.PathSeparator == '\\' {
		program += ".exe"
	}
	// A checkout that belongs to another user has no readable version, which would stop the build.
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, "./cmd/consumer")
	cmd.Dir = Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/consumer: %v\n%s", err, out)
	}
	return program
}
