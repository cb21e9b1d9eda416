//go:build unix

package broker

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// A seed that a stranger put into the data directory would let him in as its role; and whoever may
// write to the directory can put one there.
//
// Fault: another user puts a seed, a key or a link into data_dir. Result: a stranger's seed or key is refused, a link is not
// written to, and a directory where everybody may write is named in the log.
func TestFilesOfStrangers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var log bytes.Buffer
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openSeeds(dir, zerolog.New(&log)); err != nil || strings.Count(log.String(), "can replace the files in data_dir") != 1 {
		t.Errorf("a directory for everybody: %v\n%s", err, &log)
	}
	log.Reset()
	if err := os.Chmod(dir, os.ModeSticky|0o777); err != nil { // such as /tmp: only owners replace files
		t.Fatal(err)
	}
	if _, err := openSeeds(dir, zerolog.New(&log)); err != nil || log.Len() > 0 {
		t.Errorf("a sticky directory: %v\n%s", err, &log)
	}

	elsewhere, path := filepath.Join(t.TempDir(), "of another user"), filepath.Join(dir, "key")
	if err := errors.Join(os.WriteFile(elsewhere, []byte("before"), 0o666), os.Symlink(elsewhere, path+".new"), WritePrivate(path, []byte("secret"))); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(elsewhere); err != nil || string(text) != "before" {
		t.Errorf("the link was written to: %q, %v", text, err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "secret" {
		t.Errorf("%q, %v", text, err)
	}

	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	seed := SeedFile(dir, Administrator)
	for _, c := range []struct {
		file, directory int // owners
		refused         bool
	}{
		{65534, 0, true}, {65534, 4321, true}, {4321, 4321, false}, {0, 4321, false}, {0, 0, false},
	} {
		if err := errors.Join(os.Chown(seed, c.file, -1), os.Chown(dir, c.directory, -1)); err != nil {
			t.Fatal(err)
		}
		_, err := openSeeds(dir, zerolog.Nop())
		if c.refused != (err != nil && strings.Contains(err.Error(), "it belongs to user ")) || !c.refused && err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
