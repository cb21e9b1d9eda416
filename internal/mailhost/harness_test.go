//go:build unix

package mailhost

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

const serverName = "mx1.example.com"

// authority issues certificates for serverName, by an intermediate CA.
type authority struct {
	root, between *lab.Issued
	roots         *x509.CertPool
}

var serial atomic.Int64

// unique gives certificates serial numbers of their own.
func unique(c *x509.Certificate) { c.SerialNumber = big.NewInt(1000 + serial.Add(1)) }

func newAuthority(t testing.TB) *authority {
	a := &authority{root: lab.Issue(t, nil, lab.NewKey(t, "p256"), "Test Root", lab.AsCA, unique), roots: x509.NewCertPool()}
	a.between = lab.Issue(t, a.root, lab.NewKey(t, "p256"), "Test CA", lab.AsCA, unique)
	a.roots.AddCert(a.root.Certificate)
	return a
}

func (a *authority) issue(t testing.TB, edit ...func(*x509.Certificate)) *lab.Issued {
	return lab.Issue(t, a.between, lab.NewKey(t, "p256"), serverName, append([]func(*x509.Certificate){lab.DNSNames(serverName), unique}, edit...)...)
}

// material is what an event and its key become.
func (a *authority) material(t testing.TB, leaf *lab.Issued) Material {
	t.Helper()
	bundle, err := payload.ParseBundle(lab.PEM(leaf, a.between))
	if err != nil {
		t.Fatal(err)
	}
	return Material{Bundle: bundle, Key: lab.KeyPEM(t, leaf.Key)}
}

// fresh is a new certificate each time.
func (a *authority) fresh(t testing.TB) Material { return a.material(t, a.issue(t)) }

// deployer works at the time at which the lab's certificates are valid.
func deployer() Deployer { return Deployer{Now: func() time.Time { return lab.TestNow }} }

// The layouts of files that most tests go through.
var layouts = map[string]func(dir string) Deployment{
	"combined": func(dir string) Deployment {
		return Deployment{CertPath: filepath.Join(dir, "tls.pem"), KeyPath: filepath.Join(dir, "tls.pem"), BackupRetention: 3}
	},
	"apart": func(dir string) Deployment {
		return Deployment{CertPath: filepath.Join(dir, "cert.pem"), KeyPath: filepath.Join(dir, "key.pem"), BackupRetention: 3}
	},
	"chain": func(dir string) Deployment {
		return Deployment{CertPath: filepath.Join(dir, "cert.pem"), KeyPath: filepath.Join(dir, "key.pem"), ChainPath: filepath.Join(dir, "chain.pem"), BackupRetention: 3}
	},
}

func combined(d Deployment) bool { return d.CertPath == d.KeyPath }

// eachLayout runs a test for every layout, in a directory of its own.
func eachLayout(t *testing.T, test func(t *testing.T, d Deployment)) {
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, layout(privateDir(t)))
		})
	}
}

// privateDir is a directory that only this user can write, whatever the umask.
func privateDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// entry is everything about a file that a rollback has to bring back.
type entry struct {
	content  string
	mode     fs.FileMode
	uid, gid int
	inode    uint64
	modified time.Time
	link     string
}

// snapshot describes all entries of a directory.
func snapshot(t testing.TB, dir string) map[string]entry {
	t.Helper()
	all := map[string]entry{}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		path := filepath.Join(dir, d.Name())
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		stat := info.Sys().(*syscall.Stat_t)
		e := entry{mode: info.Mode(), uid: int(stat.Uid), gid: int(stat.Gid), inode: stat.Ino, modified: info.ModTime()}
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			e.content = string(data)
		}
		e.link, _ = os.Readlink(path)
		all[d.Name()] = e
	}
	return all
}

// mustDeploy deploys and expects a state.
func mustDeploy(t testing.TB, h Deployer, d Deployment, m Material, want State) *Result {
	t.Helper()
	r, err := h.Deploy(t.Context(), d, m)
	if err != nil {
		t.Fatal(err)
	}
	if r.State != want || len(r.Notes) > 0 {
		t.Fatalf("%+v, want %s without notes", r, want)
	}
	return r
}

// wantFailure deploys and expects a failure.
func wantFailure(t testing.TB, h Deployer, d Deployment, m Material, code verdict.Code, step Step, rollback Rollback) *Failure {
	t.Helper()
	r, err := h.Deploy(t.Context(), d, m)
	f, ok := errors.AsType[*Failure](err)
	if !ok {
		t.Fatalf("%+v, %v, want a failure", r, err)
	}
	if f.Code != code || f.Step != step || f.Rollback != rollback || f.Reason == "" {
		t.Fatalf("%v, want %s in %s, rollback %s", f, code, step, rollback)
	}
	return f
}

// wantContents checks that the files have the material, and nothing temporary is beside them.
func wantContents(t testing.TB, d Deployment, m Material) {
	t.Helper()
	c, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	files, err := plan(d.WithDefaults(), c)
	if err == nil {
		err = ownAll(d.WithDefaults(), files)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if current, err := f.current(); !current {
			t.Errorf("%s is not as deployed: %v", f.path, err)
		}
	}
	wantNoStrays(t, d)
}

// wantNoStrays checks that only the files, their backups and the record are in their directories.
func wantNoStrays(t testing.TB, d Deployment) {
	t.Helper()
	for _, path := range []string{d.CertPath, d.KeyPath, d.ChainPath} {
		if path == "" {
			continue
		}
		strays, _ := filepath.Glob(path + ".certpost-[a-z]*")
		strays = slices.DeleteFunc(strays, func(name string) bool { return name == d.CertPath+".certpost-deployed" })
		if len(strays) > 0 {
			t.Errorf("left behind: %v", strays)
		}
	}
}

// script writes a shell script, and returns the command that runs it.
func script(t testing.TB, text string) Command {
	t.Helper()
	path := filepath.Join(privateDir(t), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return Command{path}
}

// counter is a command that counts how often it ran.
func counter(t testing.TB) (count Command, times func() int) {
	file := filepath.Join(privateDir(t), "count")
	return script(t, "echo >> "+file), func() int {
		data, _ := os.ReadFile(file)
		return len(data)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		lab.Skip(t, "this test changes owners, mounts or attributes, and does not run as root")
	}
}

func run(t testing.TB, program string, args ...string) {
	t.Helper()
	if err := (Command(append([]string{lab.Need(t, program)}, args...))).run(t.Context(), time.Minute, nil); err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) {
	if isChild, err := runChildPart(); isChild {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
