package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/access"
)

func TestHashPassword(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		in, password string // "": refused
		warned       bool
		refused      string
	}{
		"a line":          {"correct horse battery staple\n", "correct horse battery staple", false, ""},
		"without its end": {"correct horse battery staple", "correct horse battery staple", false, ""},
		"of Windows":      {"correct horse battery staple\r\n", "correct horse battery staple", false, ""},
		"blanks belong":   {"  correct horse  \nanother line\n", "  correct horse  ", false, ""},
		"short":           {"canary\n", "canary", true, ""},
		"empty":           {"\n", "", false, "the password is empty"},
		"nothing":         {"", "", false, "the password is empty"},
		"long":            {strings.Repeat("x", access.MaxPassword+1), "", false, "longer than 1024 bytes"},
		"not UTF-8":       {"\xff\xfecanary\xff\n", "", false, "not UTF-8"},
	} {
		path := filepath.Join(t.TempDir(), "in")
		if err := os.WriteFile(path, []byte(test.in), 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		var out, errs writings
		err = hashPassword(&app{ctx: t.Context(), stdout: &out, stderr: &errs}, in)
		in.Close()
		if test.refused != "" {
			if err == nil || !strings.Contains(err.Error(), test.refused) || out.String() != "" || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: %v %s", name, err, out.String())
			}
			continue
		}
		hash, parseErr := access.ParseHash(strings.TrimSuffix(out.String(), "\n"))
		if err != nil || parseErr != nil || !hash.Fits(test.password) {
			t.Errorf("%s: %v, %v: %s", name, err, parseErr, out.String())
		}
		if warned := strings.Contains(errs.String(), "less than 12 characters"); warned != test.warned || strings.Contains(errs.String(), "canary") {
			t.Errorf("%s: said %q", name, errs.String())
		}
	}
}
