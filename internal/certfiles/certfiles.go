// Package certfiles finds issued certificates in directories, and notices new ones.
//
// A certificate is found if its file, the file of its private key beside it and the match of
// both are complete, and neither file has changed for a moment: clients write several files
// one after the other. How a client lays out its directories decides only the name of a
// certificate, so that the event is the same that the client's hook makes; files of unknown
// origin are named by their paths.
package certfiles

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/inputfile"
)

// Settle is how long files must have been unchanged before they count as complete.
const Settle = 400 * time.Millisecond

// Limits of a scan.
const (
	maxDepth = 10
	maxFiles = 100_000
	maxSize  = 1 << 20 // bytes of one file
)

// Found is one certificate.
type Found struct {
	events.Issued        // KeyFile is "" if the Scanner does not look for keys
	File          string // path of the certificate's file
	PKCS12        bool   // File and KeyFile are one PKCS#12 file
}

// Problem is a certificate that cannot be used, or not yet, or a directory that cannot be read.
type Problem struct {
	Path   string
	Reason string
	// Settling says that the files have changed within the last seconds: they may be complete,
	// or fit each other, a moment later.
	Settling bool
	// LeftOut says that the scanner was not told to use it, as a PKCS#12 file without a passphrase.
	LeftOut bool
}

// Scanner finds certificates. It remembers files that have not changed, and is used by one
// goroutine.
type Scanner struct {
	// Host is the name of this machine, for the sources.
	Host string
	// NoKey also finds certificates without a private key beside them.
	NoKey bool
	// Passphrase returns the passphrase of PKCS#12 files; nil: these are left out.
	Passphrase func() ([]byte, error)

	files map[string]*file // by path
	pairs map[[2]string]pairing
	seen  int              // entries of directories in this scan
	deep  bool             // this scan has left out a directory below maxDepth
	limit int              // for tests; 0 is maxFiles
	now   func() time.Time // for tests; nil is time.Now
}

// file is what is known of a file as long as its stamp is the same.
type file struct {
	stamp
	first time.Time // when it was seen like this first
	kind  kind
	chain []byte // PEM, of a certificate's file
	print [sha256.Size]byte
	event *events.Event // for its leaf
	err   error         // why it cannot be used
	used  bool          // by this scan
}

// stamp tells whether a file has changed.
type stamp struct {
	size     int64
	modified time.Time
	inode    os.FileInfo
}

func (s stamp) same(as stamp) bool {
	return s.size == as.size && s.modified.Equal(as.modified) && s.inode != nil && os.SameFile(s.inode, as.inode)
}

type kind int

const (
	other kind = iota
	certificate
	key
	pkcs12
)

// pairing says whether a key's file fits a certificate's.
type pairing struct {
	cert, key stamp
	fits      bool
}

// Scan looks at the directories and everything below. Both results are sorted by path.
func (s *Scanner) Scan(dirs []string) (found []Found, problems []Problem) {
	if s.files == nil {
		s.files, s.pairs = map[string]*file{}, map[[2]string]pairing{}
	}
	s.seen, s.deep = 0, false
	for _, dir := range dirs {
		f, p := s.walk(dir, 0)
		found, problems = append(found, f...), append(problems, p...)
	}
	for path, f := range s.files {
		if !f.used {
			delete(s.files, path)
		}
		f.used = false
	}
	for pair := range s.pairs {
		if s.files[pair[0]] == nil || s.files[pair[1]] == nil {
			delete(s.pairs, pair)
		}
	}
	slices.SortFunc(found, func(a, b Found) int { return cmp.Compare(a.File, b.File) })
	found = slices.CompactFunc(found, func(a, b Found) bool { return a.File == b.File }) // one directory is below another
	slices.SortFunc(problems, func(a, b Problem) int { return cmp.Compare(a.Path, b.Path) })
	return found, slices.Compact(problems)
}

// walk looks at one directory, then at those below it. It follows no links to directories. Each limit
// is reported once, however many directories are left out.
func (s *Scanner) walk(dir string, depth int) (found []Found, problems []Problem) {
	most := cmp.Or(s.limit, maxFiles)
	if s.seen > most || depth > maxDepth && s.deep {
		return nil, nil
	}
	if depth > maxDepth {
		s.deep = true
		return nil, []Problem{{Path: dir, Reason: fmt.Sprintf("more than %d levels of directories: this one, and others at this level, are left out; watch the directories of certificates only", maxDepth)}}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, []Problem{{Path: dir, Reason: clean(err)}}
	}
	if s.seen += len(entries); s.seen > most {
		return nil, []Problem{{Path: dir, Reason: fmt.Sprintf("more than %d files: this directory, and what follows it, is left out; watch the directories of certificates only", most)}}
	}
	found, problems = s.look(dir, entries)
	for _, e := range entries {
		if !e.IsDir() || isFormer(e.Name(), entries) {
			continue
		}
		f, p := s.walk(filepath.Join(dir, e.Name()), depth+1)
		found, problems = append(found, f...), append(problems, p...)
	}
	return found, problems
}

// isFormer reports directories of former certificates, and those that Kubernetes swaps:
// what is current there is found elsewhere.
func isFormer(name string, beside []os.DirEntry) bool {
	has := func(name string) bool {
		return slices.ContainsFunc(beside, func(e os.DirEntry) bool { return e.Name() == name })
	}
	return strings.HasPrefix(name, "..") || name == "archive" && has("live") || name == "archives" && has("certificates") || name == "backup" && has("fullchain.cer")
}

// look finds the certificates of one directory. The same certificate in several files (cert.pem,
// fullchain.pem) is found once, with the longest chain.
func (s *Scanner) look(dir string, entries []os.DirEntry) (found []Found, problems []Problem) {
	var certs, keys, stores, unusable []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() || !isCandidate(e.Name()) {
			continue
		}
		f := s.read(path)
		switch {
		case f == nil:
		case f.err != nil:
			unusable = append(unusable, path)
		case f.kind == certificate:
			certs = append(certs, path)
		case f.kind == key:
			keys = append(keys, path)
		case f.kind == pkcs12:
			stores = append(stores, path)
		}
	}
	best := map[[sha256.Size]byte]string{}
	for _, path := range current(certs) {
		f := s.files[path]
		if before, ok := best[f.print]; !ok || len(s.files[before].chain) < len(f.chain) {
			best[f.print] = path
		}
	}
	for _, path := range best {
		one, problem := s.pair(path, keys)
		if problem != nil {
			problems = append(problems, *problem)
		} else {
			found = append(found, *one)
		}
	}
	for _, path := range unusable {
		f := s.files[path]
		if _, there := best[f.print]; there { // lego writes certificate and key into one more file
			continue
		}
		problems = append(problems, Problem{Path: path, Reason: clean(f.err), Settling: s.recent(f)})
	}
	if s.Passphrase == nil {
		for _, path := range stores {
			if !besides(path, certs) {
				problems = append(problems, Problem{Path: path, Reason: "a PKCS#12 file, which is read only with --pkcs12-passphrase", LeftOut: true})
			}
		}
		stores = nil
	}
	slices.SortStableFunc(stores, func(a, b string) int { return cmp.Compare(len(s.files[b].chain), len(s.files[a].chain)) })
	for _, path := range stores {
		f := s.files[path]
		if _, there := best[f.print]; there {
			continue
		}
		best[f.print] = path
		if s.settling(f) {
			problems = append(problems, Problem{Path: path, Reason: "it has just changed", Settling: true})
			continue
		}
		found = append(found, Found{Issued: s.issued(path, f, path), File: path, PKCS12: true})
	}
	return found, problems
}

// besides reports whether a client has probably written a PKCS#12 file for other programs, as lego
// and acme.sh do: the same certificate is there as PEM.
func besides(store string, certs []string) bool {
	return slices.ContainsFunc(certs, func(path string) bool {
		return stem(path) == stem(store) || stem(path) == "fullchain"
	})
}

// stem is the name of a file without its extension.
func stem(path string) string { return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)) }

// current leaves out what accompanies a fullchain: a client that links it to its newest chain, and
// acme.sh, have one certificate in a directory, with its former ones and its parts. In any other
// directory there may be more, so only the leaf that belongs to it is left out.
func current(certs []string) []string {
	for _, path := range certs {
		switch filepath.Base(path) {
		case "fullchain.cer":
			return []string{path}
		case "fullchain.pem":
			if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSymlink != 0 {
				return []string{path}
			}
			return slices.DeleteFunc(certs, func(other string) bool { return filepath.Base(other) == "cert.pem" })
		}
	}
	return certs
}

// pair finds the key of a certificate among the keys of its directory.
func (s *Scanner) pair(path string, keys []string) (*Found, *Problem) {
	cert := s.files[path]
	if s.settling(cert) {
		return nil, &Problem{Path: path, Reason: "it has just changed", Settling: true}
	}
	slices.SortFunc(keys, func(a, b string) int { // the key that clients link, or that has the certificate's name, comes first
		rank := func(k string) int {
			switch {
			case filepath.Base(k) == "privkey.pem":
				return 0
			case stem(k) == stem(path):
				return 1
			}
			return 2
		}
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	for _, k := range keys {
		if !s.fits(path, k) {
			continue
		}
		if s.settling(s.files[k]) {
			return nil, &Problem{Path: path, Reason: k + " has just changed", Settling: true}
		}
		found := &Found{Issued: s.issued(path, cert, k), File: path}
		if s.NoKey {
			found.KeyFile = ""
		}
		return found, nil
	}
	if s.NoKey {
		return &Found{Issued: s.issued(path, cert, ""), File: path}, nil
	}
	return nil, &Problem{Path: path, Reason: "no private key beside it fits the certificate", Settling: s.recent(cert)}
}

func (s *Scanner) fits(cert, key string) bool {
	c, k := s.files[cert], s.files[key]
	at := [2]string{cert, key}
	if p, ok := s.pairs[at]; ok && p.cert.same(c.stamp) && p.key.same(k.stamp) {
		return p.fits
	}
	p := pairing{c.stamp, k.stamp, false}
	if text, err := inputfile.Read(key, maxSize); err == nil {
		leaf, err := c.event.Leaf()
		p.fits = err == nil && keyFits(text, leaf)
		clear(text)
	}
	s.pairs[at] = p
	return p.fits
}

// unfinished is how long a client may take to write all files of a certificate.
const unfinished = 10 * time.Second

// recent reports whether a file has changed so recently that its client may still be writing.
func (s *Scanner) recent(f *file) bool {
	now := s.time()
	return now.Sub(f.first) < unfinished && (now.Sub(f.modified) < unfinished || f.modified.After(now))
}

// settling reports whether a file has changed within the last moment, by its time or, if that
// is not to be believed, because it was not like this before.
func (s *Scanner) settling(f *file) bool {
	now := s.time()
	age := now.Sub(f.modified)
	return now.Sub(f.first) < Settle && (age < Settle || f.modified.After(now))
}

func (s *Scanner) time() time.Time {
	if s.now != nil {
		return s.now()
	}
	return time.Now()
}

// isCandidate reports whether a file is looked into, by its name.
func isCandidate(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".pem", ".crt", ".cer", ".cert", ".key", ".p12", ".pfx":
		return !strings.HasSuffix(strings.ToLower(name), ".issuer.crt")
	}
	return false
}

// read returns what is known of a file; nil if it is of no interest.
func (s *Scanner) read(path string) *file {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // not a link that leads nowhere at the moment
			f := &file{err: err, first: s.time(), used: true}
			s.files[path] = f
			return f
		}
		return nil
	}
	now := stamp{info.Size(), info.ModTime(), info}
	if f, ok := s.files[path]; ok && f.stamp.same(now) {
		f.used = true
		return f
	}
	f := &file{stamp: now, first: s.time(), used: true}
	s.files[path] = f
	s.parse(path, f)
	return f
}

// parse reads the content of a file.
func (s *Scanner) parse(path string, f *file) {
	ext := strings.ToLower(filepath.Ext(path))
	if f.size > maxSize {
		if ext != ".pem" {
			f.err = fmt.Errorf("it has %d bytes, more than a certificate can have", f.size)
		}
		return
	}
	text, err := inputfile.Read(path, maxSize) // it may be another file by now
	if err != nil {
		f.err = err
		return
	}
	defer clear(text)
	switch {
	case ext == ".p12" || ext == ".pfx":
		s.parsePKCS12(text, f)
	case ext == ".key" || bytes.Contains(text, []byte("PRIVATE KEY")) && !bytes.Contains(text, []byte("BEGIN CERTIFICATE")):
		f.kind = key
	case anyCertificate.Match(text):
		f.take(text)
		if f.err != nil {
			f.print = firstPrint(text)
		}
	}
}

// anyCertificate finds certificates under all their labels, and no requests.
var anyCertificate = regexp.MustCompile(`BEGIN (X509 |TRUSTED )?CERTIFICATE-`)

// firstPrint is the fingerprint of the first certificate in a text that also has something else.
func firstPrint(text []byte) (none [sha256.Size]byte) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return sha256.Sum256(block.Bytes)
		}
		clear(block.Bytes)
	}
	return none
}

// take reads a certificate's text. Files of authorities are of no interest.
func (f *file) take(text []byte) {
	ev, err := events.FromPEM(text)
	if err != nil {
		f.err = err
		return
	}
	leaf, err := ev.Leaf()
	if err != nil {
		f.err = err
		return
	}
	// A self-signed server certificate often claims to be an authority.
	if leaf.IsCA && len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) == 0 {
		return
	}
	f.kind, f.event, f.chain, f.print = certificate, ev, []byte(ev.Certificate.PEM), sha256.Sum256(leaf.Raw)
}

// clean is the text of an error without the path, which stands before it.
func clean(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Op + ": " + p.Err.Error()
	}
	return err.Error()
}
