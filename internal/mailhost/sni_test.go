//go:build unix

package mailhost

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/verdict"
)

func TestSNIMapLines(t *testing.T) {
	t.Parallel()
	got := parseMap([]byte("# x\n\nmx1.example.com /a/key.pem, /a/cert.pem\n  /a/chain.pem\n.example.org\t/b.pem\n"))
	if len(got) != 2 || !slices.Equal(got[0].files, []string{"/a/key.pem", "/a/cert.pem", "/a/chain.pem"}) || got[1].name != ".example.org" || got[1].files[0] != "/b.pem" {
		t.Errorf("got %+v", got)
	}
	for name, want := range map[string]bool{"mx.example.org": true, "a.b.Example.org": true, "example.org": false, "mx1.example.com": false} {
		if got[1].serves(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
	for table, ok := range map[string]bool{"hash:/etc/postfix/sni.map": true, "lmdb:/x": true, "/etc/postfix/sni.map": false, "texthash:/x": false, "hash:sni": false, "hash:/a/../b": false} {
		if (SNIMap{Table: table}.problem() == "") != ok {
			t.Errorf("%s: %q", table, SNIMap{Table: table}.problem())
		}
	}
}

// A table that would show the keys, or would not serve the file, is refused before anything is
// touched.
//
// Fault: an SNI table that others can read, that lacks the file, or has one that is missing. Result: fails
// (DEPLOY_WRITE or DEPLOY_VALIDATE) before anything is touched.
func TestSNIMapIsChecked(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	dir := privateDir(t)
	d := layouts["combined"](dir)
	table := filepath.Join(dir, "sni.map")
	d.SNI, d.Verify.ServerName = SNIMap{Table: "hash:" + table, Command: Command{"true"}}, serverName
	mine := serverName + " " + d.KeyPath + "\n"
	for name, test := range map[string]struct {
		text   string
		mode   os.FileMode
		db     os.FileMode // 0: none
		code   verdict.Code
		reason string
	}{
		"open table":    {mine, 0o644, 0, verdict.DeployWrite, "chmod 0600 " + table},
		"open database": {mine, 0o600, 0o644, verdict.DeployWrite, table + ".db has mode 0644"},
		"not in it":     {"other.example.com " + dir + "/sni.map\n", 0o600, 0, verdict.DeployValidate, "has no line with " + d.CertPath + " for " + serverName},
		"another name":  {"other.example.com " + d.KeyPath + "\n", 0o600, 0, verdict.DeployValidate, "has no line"},
		"a missing one": {mine + "other.example.com " + dir + "/nix.pem\n", 0o600, 0, verdict.DeployValidate, "for other.example.com, and without it postmap would leave that name out"},
		"no table":      {"", 0, 0, verdict.DeployValidate, "does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			os.Remove(table)
			os.Remove(table + ".db")
			write := func(path, text string, mode os.FileMode) {
				if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
					t.Fatal(err)
				}
			}
			if test.mode != 0 {
				write(table, test.text, test.mode)
			}
			if test.db != 0 {
				write(table+".db", "x", test.db)
			}
			before := snapshot(t, dir)
			step := StepCheck
			if test.code == verdict.DeployWrite {
				step = StepPaths
			}
			f := wantFailure(t, deployer(), d, a.fresh(t), test.code, step, NotNeeded)
			if !strings.Contains(f.Reason, test.reason) {
				t.Errorf("%s, want %s", f.Reason, test.reason)
			}
			wantSame(t, before, snapshot(t, dir))
		})
	}
}
