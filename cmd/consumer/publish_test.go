package main

import (
	"bytes"
	"encoding/pem"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
)

// A certificate file means the same to publish and to a delivery of its text: both take the same
// leaf and chain, or both refuse it for the same reason.
func TestPublishAndDeliveryReadTheSamePEM(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "p256")
	leaf, ca := lab.PEM(p.Leaf), lab.PEM(p.Intermediate)
	full := slices.Concat(leaf, ca)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	replaced := func(old, with string) []byte { return bytes.ReplaceAll(full, []byte(old), []byte(with)) }
	pkcs7 := []byte("\x30\x82\x01\x00\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x82")
	for name, c := range map[string]struct {
		text []byte
		want string // reason of both; "" if both take it
	}{
		"as it is":                      {full, ""},
		"X509 CERTIFICATE leaf":         {slices.Concat(block("X509 CERTIFICATE", p.Leaf.Raw), ca), ""},
		"glued":                         {slices.Concat(bytes.TrimSpace(leaf), ca), ""},
		"indented":                      {append([]byte("  "), replaced("\n", "\n  ")...), ""},
		"mark in the middle":            {slices.Concat(leaf, []byte("\ufeff"), ca), ""},
		"CR":                            {replaced("\n", "\r"), ""},
		"one line":                      {replaced("\n", ""), ""},
		"escaped":                       {replaced("\n", `\n`), ""},
		"UTF-16":                        {utf16LE(full), ""},
		"issuer first":                  {slices.Concat(ca, leaf), ""},
		"TRUSTED CERTIFICATE leaf":      {slices.Concat(block("TRUSTED CERTIFICATE", p.Leaf.Raw), ca), "line 1 begins a TRUSTED CERTIFICATE"},
		"PKCS#7 labelled CERTIFICATE":   {slices.Concat(block("CERTIFICATE", pkcs7), ca), "line 1 begins PKCS#7 under the label CERTIFICATE"},
		"damaged leaf":                  {slices.Concat(bytes.Replace(leaf, []byte("MII"), []byte("M*I"), 1), ca), "is damaged: its content is not base64"},
		"leaf without its END":          {slices.Concat(leaf[:300], []byte("\n"), ca), "has no END line before the next block"},
		"leaf that is no certificate":   {slices.Concat(block("CERTIFICATE", []byte("hello")), ca), "the block on line 1 is not an X.509 certificate, or it is damaged"},
		"base64 alone, on one line":     {bytes.Join(bytes.Split(leaf, []byte("\n"))[1:5], nil), "it is base64 without the -----BEGIN"},
		"leaf commented out":            {slices.Concat([]byte("# "), full), "line 1 has text before -----BEGIN"},
		"nothing that is a certificate": {block("PUBLIC KEY", []byte("x")), "it has no CERTIFICATE block"},
	} {
		file := filepath.Join(t.TempDir(), "cert.pem")
		lab.Write(t, file, c.text)
		ev, published := eventFromFile(file)
		bundle, delivered := payload.ParseBundle(c.text)
		switch {
		case c.want != "":
			if published == nil || !strings.Contains(published.Error(), c.want) {
				t.Errorf("%s: publish says %v, want %q in it", name, published, c.want)
			}
			if delivered == nil || !strings.Contains(delivered.Error(), c.want) {
				t.Errorf("%s: the delivery says %v, want %q in it", name, delivered, c.want)
			}
		case published != nil || delivered != nil:
			t.Errorf("%s: publish says %v, the delivery %v", name, published, delivered)
		default:
			again, err := payload.ParseBundle([]byte(ev.Certificate.PEM))
			if err != nil || !bytes.Equal(again.PEM(), bundle.PEM()) || !bytes.Equal(bundle.PEM(), full) {
				t.Errorf("%s: published\n%s\ndelivered\n%s\n%v", name, ev.Certificate.PEM, bundle.PEM(), err)
			}
			if named, err := ev.Leaf(); err != nil || !bytes.Equal(named.Raw, p.Leaf.Raw) {
				t.Errorf("%s: the event's leaf is another: %v", name, err)
			}
		}
	}
}

// utf16LE is what Windows PowerShell makes of ASCII.
func utf16LE(text []byte) []byte {
	out := []byte("\xff\xfe")
	for _, c := range text {
		out = append(out, c, 0)
	}
	return out
}
