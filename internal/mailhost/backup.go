package mailhost

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// stampLayout is the time in the names of backups, in UTC. Names sort by it.
const stampLayout = "20060102T150405.000Z"

// backup is the name of a file's backup with a stamp.
func (f *file) backup(stamp string) string { return f.path + ".certpost-" + stamp }

// keepFormer makes the former file a backup. One with a key is for its owner only,
// whatever mode the key had.
func (t *transaction) keepFormer(f *file) error {
	if t.d.BackupRetention == 0 {
		return remove(f.old())
	}
	if _, err := os.Lstat(f.old()); err != nil {
		return nil // the first deployment
	}
	if f.holdsKey {
		if err := os.Chmod(f.old(), 0o600); err != nil {
			return err
		}
	}
	// The newest backup sorts last even if the clock was put back.
	if list := f.backups(); len(list) > 0 && list[0] >= f.backup(t.stamp) {
		newest, err := time.Parse(stampLayout, strings.TrimPrefix(list[0], f.backup("")))
		if err != nil {
			return err
		}
		t.stamp = newest.Add(time.Millisecond).Format(stampLayout)
	}
	if err := os.Rename(f.old(), f.backup(t.stamp)); err != nil {
		return err
	}
	t.reached(pointBackedUp)
	return nil
}

// backups returns a file's backups, the newest first.
func (f *file) backups() (paths []string) {
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), filepath.Base(f.path)+".certpost-")
		if _, err := time.Parse(stampLayout, stamp); ok && err == nil && e.Type().IsRegular() {
			paths = append(paths, f.backup(stamp))
		}
	}
	slices.Sort(paths)
	slices.Reverse(paths)
	return paths
}

// prune removes the backups beyond BackupRetention, the oldest first.
func (t *transaction) prune() {
	for _, f := range t.files {
		for i, path := range f.backups() {
			if i < t.d.BackupRetention {
				continue
			}
			if err := remove(path); err != nil {
				t.note("an old backup could not be removed: %v", explain(err))
			}
		}
	}
}

// takeOut removes the backups that a rollback has put back: the files have that certificate now, and the
// next rollback goes further back.
func (t *transaction) takeOut() {
	first := t.files[0]
	for _, path := range first.backups() {
		if leaf := leafIn(path); leaf == nil || !leaf.Equal(t.want.leaf) {
			continue
		}
		for _, f := range t.files {
			if err := remove(f.backup(strings.TrimPrefix(path, first.backup("")))); err != nil {
				t.note("a backup of the present certificate could not be removed: %v", explain(err))
			}
		}
	}
}

// Former deploys the newest backup whose certificate is neither the present one nor one that a rollback
// took away, by the same transaction and with the same checks: a former certificate that has expired
// is refused. Certificate and key belong together by what they are, not by their names. If the files do
// not have the certificate with the given SHA-256 (hexadecimal, "" for any) now, nothing is done.
// Deployer.Event is the one whose certificate is taken away: it is not deployed again, but later ones are.
func (h Deployer) Former(ctx context.Context, d Deployment, present string) (*Result, error) {
	if err := d.Check(); err != nil {
		return nil, fail(verdict.TargetInvalid, StepCheck, "%s", err)
	}
	files, err := plan(d.WithDefaults(), &contents{})
	if err != nil {
		return nil, err
	}
	first := files[0]
	there := leafIn(first.path)
	if err := first.has(there, present); err != nil {
		return nil, err
	}
	last, err := first.readRecord()
	if err != nil && !errors.Is(err, errNoRecord) {
		return nil, writeFailure(StepPaths, err)
	}
	m := newestOther(files, there, last.RolledBack)
	if m == nil {
		return nil, fail(verdict.DeployWrite, StepPaths, "beside %s there is no backup of another certificate with its key, besides those that were rolled back; deploy one by an event", first.path)
	}
	defer clear(m.Key)
	c, err := h.prepare(d, *m)
	if err != nil {
		return nil, err
	}
	defer c.clear()
	t, err := h.begin(ctx, d, c)
	if err != nil {
		return nil, err
	}
	defer t.unlock()
	t.rollback, t.taking = true, leafDigest(there)
	return t.deploy()
}

// leafIn returns the leaf in a file; nil if there is none that can be read.
func leafIn(path string) *x509.Certificate {
	if certs := certificatesIn(path); len(certs) > 0 {
		return certs[0]
	}
	return nil
}

// has returns the refusal to take a certificate away that is not there; present is its SHA-256, "" for
// any.
func (f *file) has(there *x509.Certificate, present string) error {
	if present == "" || leafDigest(there) == present {
		return nil
	}
	now := "no certificate that can be read"
	if there != nil {
		now = shortName(there)
	}
	return fail(verdict.DeployWrite, StepPaths, "%s has %s now, not the certificate of this deployment: roll back the deployment that put it there", f.path, now)
}

// newestOther returns the newest backup of a certificate other than the present one and those whose
// SHA-256 is in not, with its key; nil if there is none.
func newestOther(files []*file, present *x509.Certificate, not []string) *Material {
	for _, path := range files[0].backups() {
		certs := certificatesIn(path)
		if len(certs) == 0 || present != nil && certs[0].Equal(present) || slices.Contains(not, leafDigest(certs[0])) {
			continue
		}
		if m, ok := formerMaterial(files, path, certs); ok {
			return &m
		}
	}
	return nil
}

// hasOther reports whether there is such a backup.
func hasOther(files []*file, present *x509.Certificate, not []string) bool {
	m := newestOther(files, present, not)
	if m == nil {
		return false
	}
	clear(m.Key)
	return true
}

// formerMaterial completes the certificates of a backup with their key, and with the chain if
// that has a file of its own.
func formerMaterial(files []*file, path string, certs []*x509.Certificate) (Material, bool) {
	m := Material{Bundle: &payload.Bundle{Leaf: certs[0], Chain: certs[1:]}}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certs[0].Raw})
	for _, f := range files {
		switch {
		case f.holdsKey:
			for _, candidate := range f.backups() {
				key := keyIn(candidate)
				if _, err := tls.X509KeyPair(leaf, key); err == nil {
					m.Key = key
					break
				}
				clear(key)
			}
		case f != files[0]:
			for _, candidate := range f.backups() {
				if chain := certificatesIn(candidate); checkChain(certs[0], chain) == nil {
					m.Bundle.Chain = chain
					break
				}
			}
		}
	}
	return m, m.Key != nil
}

// keyIn returns the first private key of a file, in PEM; nil if there is none.
func keyIn(path string) []byte {
	data, err := readFile(path)
	if err != nil {
		return nil
	}
	defer clear(data)
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return pem.EncodeToMemory(block)
		}
	}
	return nil
}

// Present returns the certificates that the files have now, the leaf first; nil if there are none
// that can be read.
func Present(d Deployment) []*x509.Certificate {
	certs := certificatesIn(d.CertPath)
	if certs != nil && d.ChainPath != "" {
		certs = append(certs, certificatesIn(d.ChainPath)...)
	}
	return certs
}

// certificatesIn returns the certificates of a file in their order; nil if it has none, or
// one of them cannot be read.
func certificatesIn(path string) (certs []*x509.Certificate) {
	data, err := readFile(path)
	if err != nil {
		return nil
	}
	defer clear(data)
	for block, rest := pem.Decode(bytes.TrimSpace(data)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			clear(block.Bytes)
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		certs = append(certs, cert)
	}
	return certs
}
