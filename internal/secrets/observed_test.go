package secrets

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime/quotedprintable"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/lab"
)

// observer makes every secret of one test a unique text. When the test ends, it searches
// everything that the package logged and returned as errors for these texts.
type observer struct {
	mu       sync.Mutex
	canaries []string     // guarded by mu
	output   bytes.Buffer // each different line once; guarded by mu
	seen     map[string]bool
}

func observe(t testing.TB) *observer {
	o := &observer{seen: map[string]bool{}}
	t.Cleanup(func() { o.search(t) })
	return o
}

// secret makes a unique secret from characters that none of the encodings escapes.
func (o *observer) secret(name string) string {
	return o.keep("canary-" + name + "-" + rand.Text())
}

func (o *observer) keep(secret string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.canaries = append(o.canaries, secret)
	return secret
}

// Write takes log lines.
func (o *observer) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen[string(p)] {
		return len(p), nil
	}
	o.seen[string(p)] = true
	return o.output.Write(p)
}

func (o *observer) log() zerolog.Logger { return zerolog.New(o) }

// said adds an error, in every form in which it can be printed, to the searched texts.
func (o *observer) said(err error) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		_, _ = fmt.Fprintf(o, "%v|%+v|%#v|%q\n", e, e, e, e)
	}
	var known *Error
	if errors.As(err, &known) {
		_, _ = fmt.Fprintf(o, "%+v\n", *known)
	}
	return err
}

func (o *observer) logged(text string) bool { return o.count(text) > 0 }

func (o *observer) count(text string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Count(o.output.String(), text)
}

func (o *observer) search(t testing.TB) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, canary := range o.canaries {
		for form, text := range encodings(canary) {
			if strings.Contains(o.output.String(), text) {
				t.Errorf("the secret %s was printed (%s):\n%s", canary, form, o.output.String())
			}
		}
	}
}

func encodings(secret string) map[string]string {
	forms := map[string]string{
		"plain": secret, "hex": hex.EncodeToString([]byte(secret)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"url": url.QueryEscape(secret), "decimal": strings.Trim(fmt.Sprint([]byte(secret)), "[]"),
	}
	// A text has three different forms in base64, by its offset modulo 3, except at its
	// ends.
	for i := range 3 {
		forms[fmt.Sprint("base64 at ", i)] = strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)[i:len(secret)-(len(secret)-i)%3]), "=")
	}
	var qp bytes.Buffer
	w := quotedprintable.NewWriter(&qp)
	_, _ = io.WriteString(w, secret)
	_ = w.Close()
	forms["quoted-printable"] = qp.String()
	return forms
}

// open makes a store for the server with the given login.
func (o *observer) open(t testing.TB, v *lab.VaultServer, auth Auth) *Store {
	t.Helper()
	return o.openWith(t, Config{Address: v.Address, TLS: TLS{CAFile: v.CAFile}, Auth: auth})
}

func (o *observer) openWith(t testing.TB, cfg Config) *Store {
	t.Helper()
	if problems := cfg.Validate(); problems != nil {
		t.Fatalf("the configuration is not valid: %v", problems)
	}
	store, err := Open(cfg, o.log())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

// asToken logs in with a token.
func asToken(token string) Auth { return Auth{Method: "token", Token: Ref{Value: New([]byte(token))}} }

// asAppRole makes a role with the policy and logs in with it.
func (o *observer) asAppRole(t testing.TB, v *lab.VaultServer, ttl, rules string) Auth {
	t.Helper()
	name := "p" + strings.ToLower(rand.Text())
	v.Policy(t, name, rules)
	role, secret := v.AppRole(t, ttl, name)
	return Auth{Method: "approle", RoleID: Ref{Value: New([]byte(role))}, SecretID: Ref{Value: New([]byte(o.keep(secret)))}}
}

func mustRef(t testing.TB, s string) Ref {
	t.Helper()
	ref, err := ParseRef(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return ref
}

// wantSecret gets the reference and compares.
func wantSecret(t testing.TB, o *observer, get func(context.Context, Ref, Vars) (Secret, error), ref Ref, value, version string) {
	t.Helper()
	secret, err := get(t.Context(), ref, nil)
	if o.said(err) != nil {
		t.Errorf("%s: %v", ref, err)
		return
	}
	if string(secret.Value.Reveal()) != value || secret.Version != version {
		t.Errorf("%s: got another value, or version %q instead of %q", ref, secret.Version, version)
	}
}

// wantError gets the reference and checks that the error has the kind and contains all
// texts.
func wantError(t testing.TB, o *observer, get func(context.Context, Ref, Vars) (Secret, error), ref Ref, kind error, texts ...string) {
	t.Helper()
	secret, err := get(t.Context(), ref, nil)
	isError(t, o, err, kind, texts...)
	if !secret.Value.IsZero() {
		t.Errorf("%s: there is a value in addition to the error %v", ref, err)
	}
}

func isError(t testing.TB, o *observer, err, kind error, texts ...string) {
	t.Helper()
	if !errors.Is(o.said(err), kind) {
		t.Errorf("got the error %v, not %v", err, kind)
		return
	}
	for _, other := range []error{ErrNotFound, ErrDenied, ErrUnavailable} {
		if other != kind && errors.Is(err, other) {
			t.Errorf("%v is also %v", err, other)
		}
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error %q does not contain %q", err, text)
		}
	}
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for: %s", what)
		}
	}
}
