package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/argon2"
)

func TestHash(t *testing.T) {
	t.Parallel()
	h := NewHash("correct horse")
	if h.memory != 32<<10 || h.passes != 3 || h.lanes != 1 || len(h.salt) != 16 || len(h.sum) != 32 {
		t.Errorf("%s", h)
	}
	read, err := ParseHash(h.String())
	if err != nil || !read.equal(h) {
		t.Fatalf("%s is read as %s: %v", h, read, err)
	}
	if !read.Fits("correct horse") || read.Fits("Correct horse") || read.Fits("") || (Hash{}).Fits("") {
		t.Error("the wrong passwords fit")
	}
	if other := NewHash("correct horse"); other.equal(h) {
		t.Error("two hashes of one password are the same")
	}
	if !NewHash("caf\u00e9").Fits("cafe\u0301") {
		t.Error("an accent in another normalisation form does not fit")
	}
}

// The argon2 command of the reference implementation writes this for
// `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 4 -l 24`; see also the test
// vectors of golang.org/x/crypto/argon2, which this recomputes.
func TestHashOfOthers(t *testing.T) {
	t.Parallel()
	sum := argon2.IDKey([]byte("password"), []byte("somesalt"), 2, 64<<10, 4, 24)
	text := "$argon2id$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$" + base64.RawStdEncoding.EncodeToString(sum)
	h, err := ParseHash(text)
	if err != nil || !h.Fits("password") || h.String() != text {
		t.Errorf("%s: %v", h, err)
	}
}

func TestParseHash(t *testing.T) {
	t.Parallel()
	const salt, sum = "c29tZXNhbHQ", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	good := "$argon2id$v=19$m=32768,t=3,p=1$" + salt + "$" + sum
	if _, err := ParseHash(good); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":              "",
		"a password":         "hunter2-hunter2",
		"another algorithm":  strings.Replace(good, "argon2id", "argon2i", 1),
		"bcrypt":             "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
		"no version":         strings.Replace(good, "v=19$", "", 1),
		"another version":    strings.Replace(good, "v=19", "v=16", 1),
		"another order":      strings.Replace(good, "m=32768,t=3", "t=3,m=32768", 1),
		"more parameters":    strings.Replace(good, "p=1", "p=1,keyid=AA", 1),
		"a leading zero":     strings.Replace(good, "t=3", "t=03", 1),
		"no passes":          strings.Replace(good, "t=3", "t=0", 1),
		"many passes":        strings.Replace(good, "t=3", "t=17", 1),
		"no lanes":           strings.Replace(good, "p=1", "p=0", 1),
		"many lanes":         strings.Replace(good, "p=1", "p=255", 1),
		"little memory":      strings.Replace(good, "m=32768", "m=7167", 1),
		"much memory":        strings.Replace(good, "m=32768", "m=262145", 1),
		"memory beyond all":  strings.Replace(good, "m=32768", "m=9999999999", 1),
		"padding":            good + "=",
		"URL base64":         strings.Replace(good, "$AAAA", "$AA-_", 1),
		"bits left over":     strings.Replace(good, salt, "c29tZXNhbHR", 1),
		"a short salt":       strings.Replace(good, salt, "c29t", 1),
		"a long salt":        strings.Replace(good, salt, strings.Repeat("AAAA", 30), 1),
		"a short hash":       strings.Replace(good, sum, "AAAA", 1),
		"a long hash":        strings.Replace(good, sum, strings.Repeat("AAAA", 30), 1),
		"a line more":        good + "\n",
		"a space before":     " " + good,
		"beyond all lengths": good + strings.Repeat("A", 1<<20),
	} {
		h, err := ParseHash(text)
		if err == nil {
			t.Errorf("%s: read as %s", name, h)
		} else if text != "" && strings.Contains(err.Error(), text) || strings.Contains(err.Error(), salt) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the text is quoted: %v", name, err)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add(cheapHash("x").String())
	f.Add("$argon2id$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b/Jbw")
	f.Add("$argon2id$v=19$m=4294967296,t=1,p=1$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHash(text)
		if err != nil {
			if len(text) > 20 && strings.Contains(err.Error(), text) {
				t.Errorf("the text is quoted: %v", err)
			}
			return
		}
		if h.String() != text {
			t.Errorf("%q is written %q", text, h.String())
		}
		if h.memory < minMemory || h.memory > maxMemory || h.passes < 1 || h.passes > maxPasses || h.lanes < 1 || h.lanes > maxLanes || len(h.salt) < 8 || len(h.sum) < 16 {
			t.Errorf("out of bounds: %s", h)
		}
	})
}

// At most atOnce passwords are hashed at the same time, however many users sign in.
func TestKeeperIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper([32]byte{})
		for range atOnce { // all turns are taken
			k.turns <- struct{}{}
		}
		began := time.Now()
		if _, _, err := k.check(t.Context(), accounts(), "admin", passwordOf("admin")); !errors.Is(err, errBusy) || time.Since(began) != patience {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := k.check(gone, accounts(), "admin", passwordOf("admin")); !errors.Is(err, errBusy) {
			t.Errorf("a client that has disconnected: %v", err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if account, fits, err := k.check(t.Context(), accounts(), "admin", passwordOf("admin")); err != nil || !fits || account.Role != Admin {
				t.Errorf("%+v %v %v", account, fits, err)
			}
		})
		time.Sleep(time.Second)
		<-k.turns
		wg.Wait()
		if len(k.turns) != atOnce-1 {
			t.Errorf("%d turns are taken", len(k.turns))
		}
	})
}

// An unknown name costs as much time as one of the accounts, always the same one.
func TestUnknownNames(t *testing.T) {
	t.Parallel()
	k := newKeeper([32]byte{1})
	all := accounts()
	stood := map[string]bool{}
	for i := range 20 {
		name := fmt.Sprint("nobody", i)
		first, fits, err := k.check(t.Context(), all, name, passwordOf("admin"))
		if err != nil || fits || first.Name == "" {
			t.Fatalf("%+v %v %v", first, fits, err)
		}
		if again, _, _ := k.check(t.Context(), all, name, "x"); again.Name != first.Name {
			t.Errorf("%s is compared with %s, then with %s", name, first.Name, again.Name)
		}
		stood[first.Name] = true
		// Not even the password of that account signs the unknown name in.
		if _, fits, _ := k.check(t.Context(), all, name, passwordOf(first.Name)); fits {
			t.Errorf("%s signs in with the password of %s", name, first.Name)
		}
	}
	if len(stood) != len(all) {
		t.Errorf("only %v are compared with", stood)
	}
	if _, fits, err := k.check(t.Context(), nil, "ada", "x"); fits || err != nil {
		t.Errorf("without accounts: %v %v", fits, err)
	}
}
