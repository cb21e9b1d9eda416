package payload

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// Deliveries that are in work together share a file if all that it is made of is equal, the
// last one clears it, and a later one gets a new file.
func TestSharedFiles(t *testing.T) {
	t.Parallel()
	p, other := lab.NewPKI(t, "p256"), lab.NewPKI(t, "p256")
	bundle := func(all ...*lab.Issued) *Bundle {
		b, err := ParseBundle(lab.PEM(all...))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	full, leaf, others := bundle(p.Leaf, p.Intermediate), bundle(p.Leaf), bundle(other.Leaf)
	key, otherKey := lab.KeyPEM(t, p.Leaf.Key), lab.KeyPEM(t, other.Leaf.Key)
	var s Shared
	build := func(set Settings, b *Bundle, key []byte, passphrase string) ([]byte, func()) {
		files, release, err := s.Build(set, b, bytes.Clone(key), []byte(passphrase), lab.TestNow)
		if err != nil {
			t.Fatal(err)
		}
		return files[0].Data, release
	}

	first, release := build(Settings{Kind: PKCS12}, full, key, passphrase)
	again, releaseAgain := build(Settings{Kind: PKCS12}, bundle(p.Leaf, p.Intermediate), key, passphrase)
	if &first[0] != &again[0] || s.Held() != 1 {
		t.Errorf("equal files were built twice; %d are held", s.Held())
	}
	for name, build := range map[string]func() ([]byte, func()){
		"passphrase":  func() ([]byte, func()) { return build(Settings{Kind: PKCS12}, full, key, passphrase+"x") },
		"chain":       func() ([]byte, func()) { return build(Settings{Kind: PKCS12}, leaf, key, passphrase) },
		"certificate": func() ([]byte, func()) { return build(Settings{Kind: PKCS12}, others, otherKey, passphrase) },
		"kind":        func() ([]byte, func()) { return build(Settings{Kind: JKS}, full, key, passphrase) },
		"encoding": func() ([]byte, func()) {
			return build(Settings{Kind: PKCS12, PKCS12Encoding: LegacyDES}, full, key, passphrase)
		},
		"iterations": func() ([]byte, func()) { return build(Settings{Kind: PKCS12, Iterations: 3000}, full, key, passphrase) },
		"alias":      func() ([]byte, func()) { return build(Settings{Kind: PKCS12, Alias: "a"}, full, key, passphrase) },
		"no key":     func() ([]byte, func()) { return build(Settings{Kind: PEM}, full, nil, "") },
	} {
		data, release := build()
		if &data[0] == &first[0] {
			t.Errorf("another %s gives the same file", name)
		}
		release()
		if len(bytes.Trim(data, "\x00")) > 0 {
			t.Errorf("another %s: the file was not cleared", name)
		}
	}
	if s.Held() != 1 {
		t.Errorf("%d are held, want 1", s.Held())
	}

	release()
	release() // does nothing
	if _, _, _, err := pkcs12.DecodeChain(again, passphrase); err != nil {
		t.Errorf("the file that another delivery holds: %v", err)
	}
	releaseAgain()
	if len(bytes.Trim(again, "\x00")) > 0 || s.Held() != 0 {
		t.Errorf("the file was not cleared; %d are held", s.Held())
	}
	later, release := build(Settings{Kind: PKCS12}, full, key, passphrase)
	defer release()
	if _, _, _, err := pkcs12.DecodeChain(later, passphrase); err != nil {
		t.Errorf("a later delivery's file: %v", err)
	}
}

// Each delivery reads a whole file, however the others come and go.
func TestSharedFilesAtTheSameTime(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	b, err := ParseBundle(lab.PEM(p.Leaf, p.Intermediate))
	if err != nil {
		t.Fatal(err)
	}
	key := lab.KeyPEM(t, p.Leaf.Key)
	var s Shared
	var deliveries sync.WaitGroup
	for n := range 40 {
		deliveries.Go(func() {
			mine := []byte([]string{"first-passphrase", "second-passphrase"}[n%2])
			files, release, err := s.Build(Settings{Kind: PKCS12}, b, bytes.Clone(key), mine, lab.TestNow)
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			if _, _, _, err := pkcs12.DecodeChain(files[0].Data, string(mine)); err != nil {
				t.Error(err)
			}
		})
	}
	deliveries.Wait()
	if s.Held() != 0 {
		t.Errorf("%d are held", s.Held())
	}
}

// What cannot be built is not held, and each delivery has a failure of its own. A panic
// reaches every delivery: none goes out without its files.
func TestSharedFilesThatCannotBeBuilt(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	b, err := ParseBundle(lab.PEM(p.Leaf))
	if err != nil {
		t.Fatal(err)
	}
	var s Shared
	held := s.hold(s.digest(Settings{Kind: PKCS12}, b, []byte("no key"), []byte(passphrase)), func() ([]Attachment, error) {
		return Build(Settings{Kind: PKCS12}, b, []byte("no key"), []byte(passphrase), lab.TestNow)
	})
	_, shared := held.build()
	files, release, err := s.Build(Settings{Kind: PKCS12}, b, []byte("no key"), []byte(passphrase), lab.TestNow)
	release()
	var failure, first *verdict.Failure
	if files != nil || !errors.As(err, &failure) || !errors.As(shared, &first) || failure.Code != verdict.SMTPPayload || failure == first {
		t.Errorf("got %v and %v, the first one %v", files, err, shared)
	}
	s.release(s.digest(Settings{Kind: PKCS12}, b, []byte("no key"), []byte(passphrase)), held)

	digest := s.digest(Settings{Kind: JKS}, b, nil, nil)
	broken := s.hold(digest, func() ([]Attachment, error) { panic("a defect") })
	for range 2 {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a delivery got no files and no panic")
				}
			}()
			_, _ = broken.build()
		}()
	}
	s.release(digest, broken)
	if s.Held() != 0 {
		t.Errorf("%d are held", s.Held())
	}
}
