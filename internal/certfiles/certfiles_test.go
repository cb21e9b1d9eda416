package certfiles

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

// authority issues certificates that are valid today.
type authority struct {
	t  *testing.T
	ca *lab.Issued
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	return authority{t, lab.Issue(t, nil, lab.NewKey(t, "p256"), "CA", lab.AsCA, today)}
}

func today(c *x509.Certificate) {
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
}

// issue returns leaf, chain and key.
func (a authority) issue(name string) (leaf, full, key []byte) {
	a.t.Helper()
	c := lab.Issue(a.t, a.ca, lab.NewKey(a.t, "p256"), name, lab.DNSNames(name), today)
	return lab.PEM(c), lab.PEM(c, a.ca), lab.KeyPEM(a.t, c.Key)
}

// tree is a directory with files that are an hour old, and a scanner of it.
type tree struct {
	t   *testing.T
	dir string
	s   *Scanner
}

func newTree(t *testing.T) tree {
	t.Helper()
	return tree{t, t.TempDir(), &Scanner{Host: "web1"}}
}

func (tr tree) path(name string) string { return filepath.Join(tr.dir, name) }

func (tr tree) write(name string, text []byte) {
	tr.t.Helper()
	if err := os.MkdirAll(filepath.Dir(tr.path(name)), 0o700); err != nil {
		tr.t.Fatal(err)
	}
	lab.Write(tr.t, tr.path(name), text)
	tr.age(name)
}

// age makes a file an hour old, at which it counts as settled.
func (tr tree) age(name string) {
	tr.t.Helper()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(tr.path(name), old, old); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr tree) link(to, name string) {
	tr.t.Helper()
	if err := os.MkdirAll(filepath.Dir(tr.path(name)), 0o700); err != nil {
		tr.t.Fatal(err)
	}
	_ = os.Remove(tr.path(name))
	if err := os.Symlink(to, tr.path(name)); err != nil {
		tr.t.Fatal(err)
	}
}

// scan returns each found certificate as "SOURCE KEYFILE", and the problems.
func (tr tree) scan() (found []string, problems []Problem) {
	tr.t.Helper()
	all, problems := tr.s.Scan([]string{tr.dir})
	for _, f := range all {
		found = append(found, f.Source+" "+strings.TrimPrefix(f.KeyFile, tr.dir+"/"))
		if _, err := f.Event(); err != nil || events.HoldsPrivateKey(f.Chain) {
			tr.t.Errorf("%s: %v", f.File, err)
		}
	}
	return found, problems
}

func (tr tree) wants(want ...string) {
	tr.t.Helper()
	if found, problems := tr.scan(); !slices.Equal(found, want) || len(problems) > 0 {
		tr.t.Errorf("found\n%s\nwant\n%s\nproblems %v", strings.Join(found, "\n"), strings.Join(want, "\n"), problems)
	}
}

// Each client's directories, with what else is in them. The event is the one that the client's hook
// makes, id included.
func TestLayouts(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	leaf, full, key := a.issue("www.example.com")
	_, older, olderKey := a.issue("www.example.com")
	ca := lab.PEM(a.ca)
	source := func(client, name string) string { return client + "://web1/" + name }
	for name, c := range map[string]struct {
		make func(tr tree)
		want string                  // "SOURCE KEYFILE"
		hook func(tr tree) *hookCall // nil: the client has none
	}{
		"certbot": {func(tr tree) {
			for n, pair := range [][2][]byte{{older, olderKey}, {full, key}} {
				tr.write(fmt.Sprintf("archive/www.example.com/fullchain%d.pem", n+1), pair[0])
				tr.write(fmt.Sprintf("archive/www.example.com/cert%d.pem", n+1), firstOf(pair[0]))
				tr.write(fmt.Sprintf("archive/www.example.com/chain%d.pem", n+1), ca)
				tr.write(fmt.Sprintf("archive/www.example.com/privkey%d.pem", n+1), pair[1])
			}
			for _, file := range []string{"fullchain", "cert", "chain", "privkey"} {
				tr.link("../../archive/www.example.com/"+file+"2.pem", "live/www.example.com/"+file+".pem")
			}
			tr.write("live/README", []byte("This directory contains your keys and certificates."))
			tr.write("keys/0001_key-certbot.pem", key)
			tr.write("csr/0001_csr-certbot.pem", []byte("-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"))
			tr.write("renewal/www.example.com.conf", []byte("version = 2.1.0"))
			tr.write("ssl-dhparams.pem", []byte("-----BEGIN DH PARAMETERS-----\n-----END DH PARAMETERS-----\n"))
		}, source("certbot", "www.example.com") + " live/www.example.com/privkey.pem", func(tr tree) *hookCall {
			return &hookCall{"certbot", map[string]string{"RENEWED_LINEAGE": tr.path("live/www.example.com")}, nil}
		}},
		"lego": {func(tr tree) {
			tr.write("accounts/ca/ops@example.com/keys/ops@example.com.key", olderKey)
			tr.write("certificates/www.example.com.crt", full)
			tr.write("certificates/www.example.com.issuer.crt", ca)
			tr.write("certificates/www.example.com.key", key)
			tr.write("certificates/www.example.com.json", []byte(`{"domain": "www.example.com", "certUrl": "https://ca/1"}`))
			tr.write("archives/www.example.com.1.crt", older)
			tr.write("archives/www.example.com.1.key", olderKey)
		}, source("lego", "www.example.com") + " certificates/www.example.com.key", func(tr tree) *hookCall {
			return &hookCall{"lego", map[string]string{"LEGO_CERT_DOMAIN": "www.example.com", "LEGO_CERT_PATH": tr.path("certificates/www.example.com.crt"), "LEGO_CERT_KEY_PATH": tr.path("certificates/www.example.com.key")}, nil}
		}},
		"lego, wildcard": {func(tr tree) {
			tr.write("certificates/_.example.com.crt", full)
			tr.write("certificates/_.example.com.key", key)
			tr.write("certificates/_.example.com.json", []byte(`{"domain": "*.example.com"}`))
		}, "lego://web1/%2A.example.com certificates/_.example.com.key", func(tr tree) *hookCall {
			return &hookCall{"lego", map[string]string{"LEGO_HOOK_CERT_NAME": "*.example.com", "LEGO_HOOK_CERT_PATH": tr.path("certificates/_.example.com.crt"), "LEGO_HOOK_CERT_KEY_PATH": tr.path("certificates/_.example.com.key")}, nil}
		}},
		"lego 5, with --pem and --pfx": {func(tr tree) {
			tr.write("certificates/web.crt", full)
			tr.write("certificates/web.issuer.crt", ca)
			tr.write("certificates/web.key", key)
			tr.write("certificates/web.pem", slices.Concat(full, key))
			tr.write("certificates/web.pfx", []byte("pfx"))
			tr.write("certificates/web.json", []byte(`{"id": "web", "domains": ["www.example.com"], "keyType": "EC256"}`))
			tr.write("archives/1769860800.web.crt", older)
			tr.write("archives/1769860800.web.key", olderKey)
		}, source("lego", "web") + " certificates/web.key", func(tr tree) *hookCall {
			return &hookCall{"lego", map[string]string{"LEGO_HOOK_CERT_NAME": "web", "LEGO_HOOK_CERT_PATH": tr.path("certificates/web.crt"), "LEGO_HOOK_CERT_KEY_PATH": tr.path("certificates/web.key")}, nil}
		}},
		"acme.sh": {func(tr tree) {
			tr.write("www.example.com_ecc/www.example.com.cer", leaf)
			tr.write("www.example.com_ecc/fullchain.cer", full)
			tr.write("www.example.com_ecc/ca.cer", ca)
			tr.write("www.example.com_ecc/www.example.com.key", key)
			tr.write("www.example.com_ecc/www.example.com.conf", []byte("Le_Domain='www.example.com'"))
			tr.write("www.example.com_ecc/www.example.com.csr.conf", []byte("[ req ]"))
			tr.write("www.example.com_ecc/backup/key.bak", olderKey)
		}, source("acme.sh", "www.example.com") + " www.example.com_ecc/www.example.com.key", func(tr tree) *hookCall {
			return &hookCall{"acme.sh", map[string]string{"Le_Domain": "www.example.com", "CERT_FULLCHAIN_PATH": tr.path("www.example.com_ecc/fullchain.cer"), "CERT_KEY_PATH": tr.path("www.example.com_ecc/www.example.com.key")}, nil}
		}},
		"dehydrated, with an alias": {func(tr tree) {
			for stamp, pair := range map[string][2][]byte{"1760000000": {older, olderKey}, "1769860800": {full, key}} {
				tr.write("certs/web/fullchain-"+stamp+".pem", pair[0])
				tr.write("certs/web/cert-"+stamp+".pem", firstOf(pair[0]))
				tr.write("certs/web/chain-"+stamp+".pem", ca)
				tr.write("certs/web/privkey-"+stamp+".pem", pair[1])
			}
			for _, file := range []string{"fullchain", "cert", "chain", "privkey"} {
				tr.link(file+"-1769860800.pem", "certs/web/"+file+".pem")
			}
		}, source("dehydrated", "www.example.com") + " certs/web/privkey.pem", func(tr tree) *hookCall {
			return &hookCall{"dehydrated", nil, []string{"deploy_cert", "www.example.com", tr.path("certs/web/privkey.pem"), tr.path("certs/web/cert.pem"), tr.path("certs/web/fullchain.pem"), tr.path("certs/web/chain.pem"), "1"}}
		}},
		"caddy": {func(tr tree) {
			dir := "certificates/acme-v02.api.letsencrypt.org-directory/www.example.com/www.example.com"
			tr.write(dir+".crt", full)
			tr.write(dir+".key", key)
			tr.write(dir+".json", []byte(`{"sans":["www.example.com"]}`))
			tr.write("acme/acme-v02/users/ops/ops.key", olderKey)
			tr.write("pki/authorities/local/root.crt", ca)
		}, source("caddy", "acme-v02.api.letsencrypt.org-directory/www.example.com") + " certificates/acme-v02.api.letsencrypt.org-directory/www.example.com/www.example.com.key", func(tr tree) *hookCall {
			dir := "certificates/acme-v02.api.letsencrypt.org-directory/www.example.com/www.example.com"
			return &hookCall{"caddy", nil, []string{tr.path(dir + ".crt"), tr.path(dir + ".key")}}
		}},
		"step": {func(tr tree) {
			tr.write("web.crt", full)
			tr.write("web.key", key)
			tr.write("root_ca.crt", ca)
		}, "file://web1%s/web.crt web.key", func(tr tree) *hookCall {
			return &hookCall{"step", nil, []string{tr.path("web.crt"), tr.path("web.key")}}
		}},
		"win-acme": {func(tr tree) {
			tr.write("www.example.com-crt.pem", leaf)
			tr.write("www.example.com-chain.pem", full)
			tr.write("www.example.com-chain-only.pem", ca)
			tr.write("www.example.com-key.pem", key)
		}, "file://web1%s/www.example.com-chain.pem www.example.com-key.pem", func(tr tree) *hookCall {
			return &hookCall{"files", nil, []string{tr.path("www.example.com-chain.pem"), tr.path("www.example.com-key.pem")}}
		}},
		"Posh-ACME": {func(tr tree) {
			tr.write("www.example.com/order.json", []byte(`{"MainDomain": "www.example.com"}`))
			tr.write("www.example.com/cert.cer", leaf)
			tr.write("www.example.com/fullchain.cer", full)
			tr.write("www.example.com/chain.cer", ca)
			tr.write("www.example.com/chain0.cer", ca)
			tr.write("www.example.com/cert.key", key)
			tr.write("www.example.com/cert.pfx", []byte("pfx"))
			tr.write("www.example.com/fullchain.pfx", []byte("pfx"))
		}, "file://web1%s/www.example.com/fullchain.cer www.example.com/cert.key", func(tr tree) *hookCall {
			return &hookCall{"files", nil, []string{tr.path("www.example.com/fullchain.cer"), tr.path("www.example.com/cert.key")}}
		}},
		"Kubernetes": {func(tr tree) {
			tr.write("tls/..2026_11_29/tls.crt", full)
			tr.write("tls/..2026_11_29/tls.key", key)
			tr.write("tls/..2026_11_29/ca.crt", ca)
			tr.link("..2026_11_29", "tls/..data")
			for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
				tr.link("..data/"+file, "tls/"+file)
			}
		}, "kubernetes://%s/tls tls/tls.key", nil},
		"files with other names": {func(tr tree) {
			tr.write("a.pem", leaf)
			tr.write("a-with-chain.pem", full)
			tr.write("keys.txt", key)
			tr.write("b-key.pem", key)
			tr.write("c.key", olderKey)
		}, "file://web1%s/a-with-chain.pem b-key.pem", nil},
	} {
		tr := newTree(t)
		c.make(tr)
		want := strings.Replace(c.want, "%s", tr.dir, 1)
		tr.wants(want)
		tr.wants(want) // nothing has changed
		if c.hook == nil {
			continue
		}
		call := c.hook(tr)
		issued, err := events.FromHook(call.client, events.Host{Name: "web1", Env: func(n string) string { return call.env[n] }, Args: call.args, ReadFile: os.ReadFile})
		if err != nil {
			t.Fatal(err)
		}
		found, _ := tr.s.Scan([]string{tr.dir})
		ours, err := found[0].Event()
		if err != nil {
			t.Fatal(err)
		}
		if hooks, err := issued.Event(); err != nil || string(hooks.Encode()) != string(ours.Encode()) || found[0].Lineage != issued.Lineage {
			t.Errorf("%s: %v: the hook makes\n%s\nthe watcher\n%s", name, err, hooks.Encode(), ours.Encode())
		}
	}
}

// A directory may have several certificates; a fullchain.pem beside them hides none.
func TestSeveralInOneDirectory(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	leaf, full, key := a.issue("www.example.com")
	_, mail, mailKey := a.issue("mail.example.com")
	tr := newTree(t)
	tr.write("fullchain.pem", full)
	tr.write("cert.pem", leaf)
	tr.write("privkey.pem", key)
	tr.write("mail.pem", mail)
	tr.write("mail.key", mailKey)
	tr.wants("file://web1"+tr.dir+"/fullchain.pem privkey.pem", "file://web1"+tr.dir+"/mail.pem mail.key")
}

// firstOf is the first certificate of a chain.
func firstOf(chain []byte) []byte {
	const end = "-----END CERTIFICATE-----\n"
	first, _, _ := strings.Cut(string(chain), end)
	return []byte(first + end)
}

// hookCall is how a client calls its hook.
type hookCall struct {
	client string
	env    map[string]string
	args   []string
}

// Whatever part of a renewal is there, the former certificate or the new one is found, or none
// until the rest is there; never a certificate with the key of another.
//
// Fault: files are written in pieces, in any order, or stop half-way. Result: the certificate is
// found only once both files are complete, fit each other, and have not changed for a moment.
func TestHalfWrittenFiles(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	_, full, key := a.issue("www.example.com")
	_, next, nextKey := a.issue("www.example.com")
	tr := newTree(t)
	one := "file://web1" + tr.dir + "/www.crt www.key"
	for _, c := range []struct {
		name      string
		crt, key  []byte
		want      string
		settling  bool
		modifying bool // the file keeps its time of now
	}{
		{"only the certificate", full, nil, "", false, false},
		{"only the certificate, at this moment", full, nil, "", true, true},
		{"the key without its end", full, key[:len(key)-20], "", false, false},
		{"both", full, key, one, false, false},
		{"the next certificate", next, key, "", false, false},
		{"cut off in the leaf", next[:300], nextKey, "", false, false},
		{"cut off in the chain", next[:len(next)-100], nextKey, "", false, false},
		{"empty", nil, nextKey, "", false, false},
		{"both, at this moment", next, nextKey, "", true, true},
		{"both again", next, nextKey, one, false, false},
	} {
		_ = os.Remove(tr.path("www.key"))
		tr.write("www.crt", c.crt)
		if c.key != nil {
			tr.write("www.key", c.key)
		}
		if c.modifying {
			now := time.Now()
			if err := os.Chtimes(tr.path("www.crt"), now, now); err != nil {
				t.Fatal(err)
			}
		}
		found, problems := tr.scan()
		if strings.Join(found, "\n") != c.want || c.settling && (len(problems) != 1 || !problems[0].Settling) {
			t.Errorf("%s: found %q, problems %v", c.name, found, problems)
		}
	}

	// A file whose time is in the future settles, too.
	tr.s.now = func() time.Time { return time.Now().Add(time.Minute) }
	future := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(tr.path("www.crt"), future, future); err != nil {
		t.Fatal(err)
	}
	if found, _ := tr.scan(); len(found) != 0 {
		t.Errorf("at once: %q", found)
	}
	tr.s.now = func() time.Time { return time.Now().Add(time.Minute + 2*Settle) }
	tr.wants(one)
}

// Links that a client swaps one after the other.
func TestSwappedLinks(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	tr := newTree(t)
	for n := 1; n <= 2; n++ {
		_, full, key := a.issue("www.example.com")
		tr.write(fmt.Sprintf("archive/x/fullchain%d.pem", n), full)
		tr.write(fmt.Sprintf("archive/x/privkey%d.pem", n), key)
	}
	point := func(file string, n int) {
		tr.link(fmt.Sprintf("../../archive/x/%s%d.pem", file, n), "live/x/"+file+".pem")
	}
	point("fullchain", 1)
	point("privkey", 1)
	first, _ := tr.s.Scan([]string{tr.dir})
	point("privkey", 2)
	if found, problems := tr.scan(); len(found) != 0 || len(problems) != 1 {
		t.Errorf("half-way: %q, %v", found, problems)
	}
	point("fullchain", 2)
	second, problems := tr.s.Scan([]string{tr.dir})
	if len(first) != 1 || len(second) != 1 || len(problems) != 0 || string(first[0].Chain) == string(second[0].Chain) {
		t.Errorf("%v, %v, %v", first, second, problems)
	}
}

// What cannot be read is said, and does not keep the rest from being found.
//
// Fault: directories with other files, loops of links, files that cannot be read, keys in the
// certificate's file. Result: the rest is found; what cannot be used is named.
func TestStrangeDirectories(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	_, full, key := a.issue("www.example.com")
	tr := newTree(t)
	tr.write("good/x.crt", full)
	tr.write("good/x.key", key)
	tr.link("loop.pem", "loop.pem")
	tr.link("nowhere.pem", "gone.pem")
	tr.link("..", "good/up")
	tr.write("both.pem", slices.Concat(full, key))
	if err := os.Mkdir(tr.path("dir.pem"), 0o700); err != nil {
		t.Fatal(err)
	}
	tr.write("ca.pem", lab.PEM(a.ca))
	tr.write("large.crt", make([]byte, maxSize+1))
	found, problems := tr.scan()
	if len(found) != 1 || found[0] != "file://web1"+tr.dir+"/good/x.crt good/x.key" {
		t.Errorf("%q", found)
	}
	var named []string
	for _, p := range problems {
		named = append(named, filepath.Base(p.Path))
	}
	if !slices.Equal(named, []string{"both.pem", "large.crt", "loop.pem"}) {
		t.Errorf("%v", problems)
	}
	if _, problems := (&Scanner{}).Scan([]string{tr.path("missing")}); len(problems) != 1 {
		t.Errorf("%v", problems)
	}

	// One line for each limit, however many directories are beyond it.
	deep := strings.Repeat("d/", maxDepth)
	for _, name := range []string{"a", "b", "c"} {
		if err := os.MkdirAll(tr.path(deep+name+"/e"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_, problems = tr.scan()
	var limits []string
	for _, p := range problems {
		if strings.Contains(p.Reason, "levels of directories") {
			limits = append(limits, p.Path)
		}
	}
	if len(limits) != 1 || limits[0] != tr.path(deep+"a") {
		t.Errorf("%q", limits)
	}
	tr.s.limit = 10
	_, problems = tr.scan()
	limits = nil
	for _, p := range problems {
		if strings.Contains(p.Reason, "more than 10 files") {
			limits = append(limits, p.Path)
		}
	}
	if len(limits) != 1 {
		t.Errorf("%v", problems)
	}

	tr.s = &Scanner{Host: "web1", NoKey: true}
	if err := os.Remove(tr.path("good/x.key")); err != nil {
		t.Fatal(err)
	}
	if found, _ := tr.scan(); len(found) != 1 || found[0] != "file://web1"+tr.dir+"/good/x.crt " {
		t.Errorf("without keys: %q", found)
	}
}
