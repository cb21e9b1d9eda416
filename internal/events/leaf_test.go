package events

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"
)

func TestLeaf(t *testing.T) {
	t.Parallel()
	issue := func(cn string, ca bool) string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: cn}, NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	leaf, ca, root := issue("leaf", false), issue("ca", true), issue("root", true)
	broken := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no certificate")}))
	parameters := string(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte("x")}))
	for name, c := range map[string]struct{ text, want string }{
		"leaf first":           {leaf + ca, "leaf"},
		"chain in other order": {root + ca + leaf, "leaf"},
		"an authority alone":   {ca, "ca"},
		"authorities":          {root + ca, "root"},
		"other blocks":         {"Bag Attributes\n" + parameters + broken + leaf, "leaf"},
		"no certificate":       {broken, ""},
		"no PEM":               {"MIIB", ""},
		"nothing":              {"", ""},
	} {
		e := &Event{Certificate: Certificate{PEM: c.text}}
		cert, err := e.Leaf()
		if c.want == "" {
			if !errors.Is(err, ErrNoLeaf) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || cert.Subject.CommonName != c.want {
			t.Errorf("%s: %v, %v", name, cert, err)
		}
		if again, _ := e.Leaf(); again != cert {
			t.Errorf("%s: parsed twice", name)
		}
	}
	byReference := &Event{Certificate: Certificate{Ref: &Reference{File: "/etc/x"}}}
	if _, err := byReference.Leaf(); !errors.Is(err, ErrNoLeaf) {
		t.Errorf("by reference: %v", err)
	}
}
