//go:build unix

package mailhost

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

func TestDeploy(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		a := newAuthority(t)
		var reloads func() int
		d.ReloadCommand, reloads = counter(t)
		first, second := a.fresh(t), a.fresh(t)
		mustDeploy(t, deployer(), d, first, Deployed)
		wantContents(t, d, first)
		mustDeploy(t, deployer(), d, first, Unchanged)
		if reloads() != 1 {
			t.Errorf("%d reloads, want 1: nothing changed the second time", reloads())
		}
		mustDeploy(t, deployer(), d, second, Deployed)
		wantContents(t, d, second)

		// The bytes, as the programs expect them: key, leaf, chain.
		leaf, chain, key := lab.PEM(&lab.Issued{Certificate: second.Bundle.Leaf}), lab.PEM(a.between), second.Key
		want := map[string][]byte{d.CertPath: slices.Concat(leaf, chain), d.KeyPath: key}
		if d.ChainPath != "" {
			want[d.CertPath], want[d.ChainPath] = leaf, chain
		}
		if combined(d) {
			want[d.KeyPath] = slices.Concat(key, leaf, chain)
		}
		for path, bytes := range want {
			if got, err := os.ReadFile(path); err != nil || string(got) != string(bytes) {
				t.Errorf("%s: %v\n%s", path, err, got)
			}
		}
		for path, e := range snapshot(t, filepath.Dir(d.CertPath)) {
			mode := os.FileMode(0o600)
			if !strings.HasPrefix(path, "key") && !strings.HasPrefix(path, "tls") {
				mode = 0o644
			}
			if e.mode != mode {
				t.Errorf("%s has mode %v, want %v", path, e.mode, mode)
			}
		}
	})
}

// TestUnchangedIsMoreThanBytes: a key that others may read is put right.
func TestUnchangedIsMoreThanBytes(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		m := newAuthority(t).fresh(t)
		mustDeploy(t, deployer(), d, m, Deployed)
		if err := os.Chmod(d.KeyPath, 0o644); err != nil {
			t.Fatal(err)
		}
		mustDeploy(t, deployer(), d, m, Deployed)
		wantContents(t, d, m)
	})
}

// Fault: key of another certificate; encrypted or no key; chain for the leaf; garbage;
// expired; broken or missing chain. Result: fails (SMTP_PAYLOAD or DEPLOY_VALIDATE) before
// anything is touched.
func TestMaterialIsChecked(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	other := a.issue(t)
	expired := func(c *x509.Certificate) { c.NotAfter = lab.TestNow.Add(-time.Hour) }
	future := func(c *x509.Certificate) { c.NotBefore = lab.TestNow.Add(time.Hour) }
	client := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	notCA := lab.Issue(t, a.root, lab.NewKey(t, "p256"), "Test CA", unique)
	late := lab.Issue(t, a.root, lab.NewKey(t, "p256"), "Old CA", lab.AsCA, unique, func(c *x509.Certificate) { c.NotAfter = lab.TestNow.Add(-time.Hour) })
	selfMade := lab.Issue(t, nil, lab.NewKey(t, "p256"), "Someone's Root", lab.AsCA, unique)
	leaf := a.issue(t)
	with := func(m Material, edit func(*Material)) Material {
		edit(&m)
		return m
	}
	for name, c := range map[string]struct {
		m    Material
		code verdict.Code
		text string
	}{
		"no certificate":       {Material{Key: lab.KeyPEM(t, leaf.Key)}, verdict.SMTPPayload, "no certificate"},
		"no key":               {with(a.material(t, leaf), func(m *Material) { m.Key = nil }), verdict.SMTPPayload, "no private_key"},
		"another's key":        {with(a.material(t, leaf), func(m *Material) { m.Key = lab.KeyPEM(t, other.Key) }), verdict.SMTPPayload, "does not match"},
		"encrypted key":        {with(a.material(t, leaf), func(m *Material) { m.Key = encryptedKey }), verdict.SMTPPayload, "encrypted"},
		"garbage as key":       {with(a.material(t, leaf), func(m *Material) { m.Key = []byte("garbage") }), verdict.SMTPPayload, "private key"},
		"expired":              {a.material(t, a.issue(t, expired)), verdict.SMTPPayload, "expired"},
		"not yet valid":        {a.material(t, a.issue(t, future)), verdict.SMTPPayload, "not valid before"},
		"client certificate":   {a.material(t, a.issue(t, client)), verdict.SMTPPayload, "serverAuth"},
		"CA certificate":       {Material{Bundle: &payload.Bundle{Leaf: a.between.Certificate}, Key: lab.KeyPEM(t, a.between.Key)}, verdict.SMTPPayload, "CA's certificate"},
		"chain before leaf":    {Material{Bundle: &payload.Bundle{Leaf: a.between.Certificate, Chain: []*x509.Certificate{leaf.Certificate}}, Key: lab.KeyPEM(t, leaf.Key)}, verdict.SMTPPayload, "does not match"},
		"another's chain":      {Material{Bundle: &payload.Bundle{Leaf: leaf.Certificate, Chain: []*x509.Certificate{a.root.Certificate}}, Key: lab.KeyPEM(t, leaf.Key)}, verdict.SMTPPayload, "chain is broken"},
		"chain of no CA":       {with(a.material(t, leaf), func(m *Material) { m.Bundle.Chain = append(m.Bundle.Chain, notCA.Certificate) }), verdict.SMTPPayload, "not a CA's certificate"},
		"expired in the chain": {Material{Bundle: &payload.Bundle{Leaf: lab.Issue(t, late, leaf.Key, serverName).Certificate, Chain: []*x509.Certificate{late.Certificate}}, Key: lab.KeyPEM(t, leaf.Key)}, verdict.SMTPPayload, `"Old CA" expired`},
		"another name":         {a.material(t, lab.Issue(t, a.between, leaf.Key, "www.example.com", lab.DNSNames("www.example.com"))), verdict.DeployValidate, "server_name"},
		"only a common name":   {a.material(t, lab.Issue(t, a.between, leaf.Key, serverName)), verdict.DeployValidate, "server_name"},
		"unknown root":         {Material{Bundle: &payload.Bundle{Leaf: lab.Issue(t, selfMade, leaf.Key, serverName, lab.DNSNames(serverName)).Certificate}, Key: lab.KeyPEM(t, leaf.Key)}, verdict.DeployValidate, "trusted root"},
		"incomplete chain":     {with(a.material(t, leaf), func(m *Material) { m.Bundle = &payload.Bundle{Leaf: leaf.Certificate} }), verdict.DeployValidate, "trusted root"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			for layout, make := range layouts {
				d := make(privateDir(t))
				var reloads func() int
				d.ReloadCommand, reloads = counter(t)
				d.Verify = Verification{ServerName: serverName, Roots: a.roots}
				before := snapshot(t, filepath.Dir(d.CertPath))
				f := wantFailure(t, deployer(), d, c.m, c.code, StepCheck, NotNeeded)
				if !strings.Contains(f.Reason, c.text) {
					t.Errorf("%s, want it to say %q", f.Reason, c.text)
				}
				if after := snapshot(t, filepath.Dir(d.CertPath)); len(after) != len(before) || reloads() != 0 {
					t.Errorf("%s: the directory was touched: %v, %d reloads", layout, after, reloads())
				}
			}
		})
	}
}

// encryptedKey has the form of one; its content is of no interest.
var encryptedKey = []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGbMFcGCSqGSIb3DQEFDTBK\n-----END ENCRYPTED PRIVATE KEY-----\n")

// TestFailuresRestoreEverything: after a failure in any step the directory is what it
// was, to the inode; and the program was reloaded again if it may have seen the new files.
//
// Fault: a command fails; hangs; does not exist. Result: fails (DEPLOY_VALIDATE or
// DEPLOY_RELOAD); the former files are back.
func TestFailuresRestoreEverything(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	silent := closedAddress(t)
	for name, c := range map[string]struct {
		set      func(t *testing.T, d *Deployment)
		code     verdict.Code
		step     Step
		rollback Rollback
	}{
		"validate": {func(t *testing.T, d *Deployment) { d.ValidateCommand = script(t, "echo broken; exit 3") }, verdict.DeployValidate, StepValidate, NotNeeded},
		"reload once": {func(t *testing.T, d *Deployment) {
			mark := filepath.Join(privateDir(t), "mark")
			d.ReloadCommand = script(t, "test -e "+mark+" && exit 0; touch "+mark+"; echo stopped >&2; exit 1")
		}, verdict.DeployReload, StepReload, Restored},
		"reload always": {func(t *testing.T, d *Deployment) { d.ReloadCommand = Command{"false"} }, verdict.DeployReload, StepReload, RollbackFailed},
		"reload hangs": {func(t *testing.T, d *Deployment) {
			d.ReloadCommand, d.CommandTimeout = Command{"sleep", "600"}, 100*time.Millisecond
		}, verdict.DeployReload, StepReload, RollbackFailed},
		"validate hangs": {func(t *testing.T, d *Deployment) {
			d.ValidateCommand, d.CommandTimeout = Command{"sleep", "600"}, 100*time.Millisecond
		}, verdict.DeployValidate, StepValidate, NotNeeded},
		"no such command": {func(t *testing.T, d *Deployment) { d.ReloadCommand = Command{"no-such-program"} }, verdict.DeployReload, StepReload, RollbackFailed},
		"verify": {func(t *testing.T, d *Deployment) {
			d.Verify = Verification{Endpoints: []Endpoint{{silent, TLS}}, Attempts: 1}
		}, verdict.DeployVerify, StepVerify, RollbackFailed},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			eachLayout(t, func(t *testing.T, d Deployment) {
				dir := filepath.Dir(d.CertPath)
				broken := d
				c.set(t, &broken)
				// There was none before: then there is none again. Nothing former can be verified.
				want := c.rollback
				if name == "verify" {
					want = Restored
				}
				wantFailure(t, deployer(), broken, a.fresh(t), c.code, c.step, want)
				if left := snapshot(t, dir); len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}

				mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
				if err := os.Chmod(d.CertPath, 0o640); err != nil {
					t.Fatal(err)
				}
				if os.Geteuid() == 0 {
					if err := os.Chown(d.KeyPath, 65534, 8); err != nil {
						t.Fatal(err)
					}
				}
				before := snapshot(t, dir)
				c.set(t, &broken) // forgets what the first failure has left
				wantFailure(t, deployer(), broken, a.fresh(t), c.code, c.step, c.rollback)
				wantSame(t, before, snapshot(t, dir))
			})
		})
	}
}

func wantSame(t testing.TB, before, after map[string]entry) {
	t.Helper()
	for name, e := range before {
		if after[name] != e {
			t.Errorf("%s was %+v and is %+v", name, e, after[name])
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			t.Errorf("%s was left behind", name)
		}
	}
}

// Fault: a clock that is behind the newest backup. Result: only the files and the newest
// backups are left.
func TestBackups(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		a, dir := newAuthority(t), filepath.Dir(d.CertPath)
		d.KeyMode = 0o640
		d.BackupRetention = 2
		var all []Material
		for range 5 { // in the same millisecond by this clock
			all = append(all, a.fresh(t))
			mustDeploy(t, deployer(), d, all[len(all)-1], Deployed)
		}
		files := map[string]bool{d.CertPath: true, d.KeyPath: true}
		if d.ChainPath != "" {
			files[d.ChainPath] = true
		}
		if got := len(snapshot(t, dir)); got != 3*len(files) {
			t.Errorf("%d files, want %d and two backups of each", got, len(files))
		}
		for _, path := range (&file{path: d.KeyPath}).backups() {
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
		for _, path := range []string{"/.certpost-20260101T000000.000Z", ".certpost-note", ".certpost-2026"} {
			if err := os.WriteFile(d.CertPath+strings.TrimPrefix(path, "/"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{".certpost-note", ".certpost-2026"} {
			if err := os.Remove(d.CertPath + name); err != nil {
				t.Errorf("what is no backup was removed: %v", err)
			}
		}

		d.BackupRetention = 0
		mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
		if got := len(snapshot(t, dir)); got != len(files) {
			t.Errorf("%d files with backup_retention 0, want %d", got, len(files))
		}
		_, err := deployer().Former(t.Context(), d, "")
		if f, ok := errors.AsType[*Failure](err); !ok || !strings.Contains(f.Reason, "no backup") {
			t.Error(err)
		}
	})
}

// Fault: very many rotations. Result: their number stays the same.
func TestRotationsLeaveNoStray(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		pairs := []Material{a.fresh(t), a.fresh(t)}
		var first int
		for i := range 200 {
			mustDeploy(t, published(uint64(i+1)), d, pairs[i%2], Deployed)
			switch n := len(snapshot(t, filepath.Dir(d.CertPath))); {
			case i == 3:
				first = n
			case i > 3 && n != first:
				t.Fatalf("%d files after %d rotations, %d after the first four", n, i+1, first)
			}
		}
		if open, err := os.ReadDir("/proc/self/fd"); err == nil && len(open) > 200 {
			t.Errorf("%d files are open", len(open))
		}
	})
}

// TestConcurrentDeployments: one after the other, and no reload sees a mixed pair.
//
// Fault: several deployments at the same time. Result: no reload sees a mixed pair.
func TestConcurrentDeployments(t *testing.T) {
	t.Parallel()
	openssl := lab.Need(t, "openssl")
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		d.ReloadCommand = script(t, `test "$(`+openssl+" x509 -noout -pubkey -in "+d.CertPath+`)" = "$(`+openssl+" pkey -pubout -in "+d.KeyPath+`)" || { echo mixed; exit 1; }`)
		var group sync.WaitGroup
		var materials []Material
		for range 6 {
			materials = append(materials, a.fresh(t))
		}
		for _, m := range materials {
			group.Go(func() {
				if r, err := deployer().Deploy(t.Context(), d, m); err != nil || r.State != Deployed {
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
		group.Wait()
		got := certificatesIn(d.CertPath)[0]
		for _, m := range materials {
			if m.Bundle.Leaf.Equal(got) {
				wantContents(t, d, m)
				return
			}
		}
		t.Errorf("%s is none of them", shortName(got))
	})
}

// TestLockIsWaitedFor: until the context ends; then nothing has happened.
//
// Fault: several deployments at the same time. Result: one after the other.
func TestLockIsWaitedFor(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		m := newAuthority(t).fresh(t)
		dir, err := lockDirectory(t.Context(), filepath.Dir(d.CertPath))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if r, err := deployer().Deploy(ctx, d, m); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v, %v", r, err)
		}
		if left := snapshot(t, filepath.Dir(d.CertPath)); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		dir.Close()
		mustDeploy(t, deployer(), d, m, Deployed)
	})
}

// Fault: a shutdown during a deployment; a claim that is lost. Result: the deployment is
// completed; without a claim nothing is changed.
func TestClaim(t *testing.T) {
	t.Parallel()
	eachLayout(t, func(t *testing.T, d Deployment) {
		m, dir := newAuthority(t).fresh(t), filepath.Dir(d.CertPath)
		lost := errors.New("another process has it")
		h := deployer()
		h.Claim = func(time.Time) error { return lost }
		if _, err := h.Deploy(t.Context(), d, m); !errors.Is(err, lost) {
			t.Error(err)
		}
		if left := snapshot(t, dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		ctx, cancel := context.WithCancel(t.Context())
		claims := 0
		h.Claim = func(until time.Time) error {
			claims++
			if left := snapshot(t, dir); len(left) > 0 || !until.After(lab.TestNow.Add(2*d.CommandTimeout)) {
				t.Errorf("until %v, with %v", until, left)
			}
			cancel() // a shutdown from here on does not leave the deployment half done
			return nil
		}
		d.ReloadCommand = Command{"true"}
		if r, err := h.Deploy(ctx, d, m); err != nil || r.State != Deployed {
			t.Errorf("%+v, %v", r, err)
		}
		wantContents(t, d, m)
		mustDeploy(t, h, d, m, Unchanged)
		if claims != 1 {
			t.Errorf("%d claims", claims)
		}
		if r, err := deployer().Deploy(ctx, d, newAuthority(t).fresh(t)); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}
