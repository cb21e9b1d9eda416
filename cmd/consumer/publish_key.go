package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/inputfile"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/spool"
	"github.com/certpost/certpost/internal/verdict"
)

// keyToStore is what --store-key stores before the event is published. It refuses a key that
// the event could not use. The path is that of the file, not of a link to it: certbot's link
// leads elsewhere after the next renewal.
func (c *publishCmd) keyToStore(a *app, cfg *Config, p publication) (*spool.StoreKey, error) {
	leaf, err := p.ev.Leaf()
	if err != nil {
		return nil, usage("the certificate: %w", err)
	}
	ref, err := c.storePlace(p, leaf)
	if err != nil {
		return nil, err
	}
	named := *p.ev
	named.PrivateKey = eventReference(ref)
	if problems := closed(cfg, &named); len(problems) > 0 && !c.Force {
		return nil, usage("--store-key: %s%s", problems[0], c.forceHint("stores"))
	}
	key := &spool.StoreKey{Place: ref.String(), File: p.keyFile, Passphrase: p.passphrase}
	out := a.outbox(cfg, nil)
	defer out.close()
	text, err := out.readKey(a.ctx, key)
	if err != nil {
		return nil, usage("the private key: %w", err)
	}
	defer clear(text)
	if problem := p.unfitKey(text, leaf); problem != "" {
		if !c.Force {
			return nil, usage("%s%s", problem, c.forceHint("stores"))
		}
		fmt.Fprintln(a.stderr, "certpost: warning:", problem)
		key.Unchecked = true
	}
	if file, err := filepath.EvalSymlinks(key.File); err == nil {
		key.File = file
	}
	if key.File, err = filepath.Abs(key.File); err != nil {
		return nil, err
	}
	return key, nil
}

// unfitKey says why a text is not the private key of the publication's certificate, with the files of
// both; "" if it is.
func (p *publication) unfitKey(text []byte, leaf *x509.Certificate) string {
	err := payload.CheckKey(text, leaf)
	if err == nil {
		return ""
	}
	return fmt.Sprintf("%s is not the private key of the certificate in %s: %s", printable(p.keyFile), printable(p.certFile), reasonOf(err))
}

// referencedKey says why the key's file that a client has passed cannot be delivered with its
// certificate; "" if it can, is encrypted (the target has the passphrase), or is readable only for
// the program that delivers.
func (p *publication) referencedKey(ev *events.Event, leaf *x509.Certificate) string {
	if ev.PrivateKey == nil || ev.PrivateKey.File == "" || ev.PrivateKey.File != p.keyFile {
		return ""
	}
	text, err := readFile(p.keyFile)
	if errors.Is(err, inputfile.ErrNotRegular) { // the program that delivers refuses it, too
		return err.Error()
	}
	if err != nil {
		return ""
	}
	defer clear(text)
	if payload.KeyIsEncrypted(text) {
		return ""
	}
	return p.unfitKey(text, leaf)
}

// storePlace is where --store-key stores the key of a certificate.
func (c *publishCmd) storePlace(p publication, leaf *x509.Certificate) (secrets.Ref, error) {
	if p.keyFile == "" {
		return secrets.Ref{}, usage("--store-key needs --key FILE: the private key to store")
	}
	place, err := keyPlace(c.StoreKey, leaf, p.lineage)
	if err != nil {
		return secrets.Ref{}, err
	}
	ref, err := secrets.ParseRef(place)
	if err != nil {
		return ref, usage("--store-key: %w", err)
	}
	if ref.Vault == nil {
		return ref, usage("--store-key %s: keys can be stored only in vault:", ref)
	}
	return ref, nil
}

// replacedKey says what became of the key that was stored there before. At a renewal that is usual;
// two certificates that share a path look the same.
func replacedKey(ref secrets.Ref, version int) string {
	const advice = "unless this is a renewal, give each certificate its own path, with {lineage} or {key_type}"
	if version == 0 {
		return fmt.Sprintf("%s held another private key, which is overwritten; deliveries that wait for it will fail: %s", ref, advice)
	}
	return fmt.Sprintf("%s held another private key; the event references version %d, which has the new one: %s", ref, version, advice)
}

// keyPlace replaces the placeholders of --store-key.
func keyPlace(template string, leaf *x509.Certificate, lineage string) (string, error) {
	place := template
	for _, placeholder := range []struct{ name, value string }{
		{"{lineage}", lineage},
		{"{key_type}", keyType(leaf)},
		{"{cn}", primaryName(leaf)},
		{"{domain}", strings.TrimPrefix(primaryName(leaf), "*.")},
	} {
		if !strings.Contains(template, placeholder.name) {
			continue
		}
		if placeholder.name == "{lineage}" && lineage == "" {
			return "", usage("--store-key: {lineage} is known only with --from; use {cn} and {key_type}, or give the path in full")
		}
		part, ok := pathPart(placeholder.value)
		if !ok {
			return "", usage("--store-key: the certificate has no name that can be used for %s; give the path in full", placeholder.name)
		}
		place = strings.ReplaceAll(place, placeholder.name, part)
	}
	if i := strings.IndexAny(place, "{}"); i >= 0 {
		unknown, _, _ := strings.Cut(place[i:], "}")
		return "", usage("--store-key: %s} is unknown: use {lineage}, {key_type}, {cn} and {domain}", printable(unknown))
	}
	return place, nil
}

// pathPart is a name as one element of a path in Vault: *.example.com becomes
// _wildcard.example.com, and the colons of an IPv6 address become underscores.
func pathPart(name string) (string, bool) {
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		name = "_wildcard." + rest
	}
	if net.ParseIP(name) != nil {
		name = strings.ReplaceAll(name, ":", "_")
	}
	for _, r := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", r) {
			return "", false
		}
	}
	return name, strings.Trim(name, ".") != ""
}

// primaryName is the certificate's CN, else its first alternative name of any kind; "" without both.
func primaryName(leaf *x509.Certificate) string {
	for _, name := range append([]string{leaf.Subject.CommonName}, verdict.AlternativeNames(leaf)...) {
		if name != "" {
			return name
		}
	}
	return ""
}

// keyType tells the RSA and the ECDSA certificate of one name apart: rsa-2048, ecdsa-p256, ed25519.
func keyType(leaf *x509.Certificate) string {
	switch key := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ecdsa-" + strings.ToLower(strings.ReplaceAll(key.Params().Name, "-", ""))
	case ed25519.PublicKey:
		return "ed25519"
	}
	return ""
}
