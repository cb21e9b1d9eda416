package events

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"strings"
	"testing"
)

func TestFromPEM(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{
		"as it is":               chainPEM,
		"with CRLF":              strings.ReplaceAll(chainPEM, "\n", "\r\n"),
		"with words around it":   "Subject: CN=www.example.com\n" + chainPEM + "\nthat was all\n",
		"with other blocks":      chainPEM + string(pem.EncodeToMemory(&pem.Block{Type: "DH PARAMETERS", Bytes: []byte("x")})),
		"with a byte order mark": "\ufeff" + chainPEM,
	} {
		e, err := FromPEM([]byte(file))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.Certificate.PEM != chainPEM {
			t.Errorf("%s: not only the certificates:\n%s", name, e.Certificate.PEM)
		}
		if len(e.ID) != 26 {
			t.Errorf("%s: id %q", name, e.ID)
		}
		if _, err := Decode(nil, e.Encode()); err != nil {
			t.Errorf("%s: the event is refused: %v", name, err)
		}
	}

	key := keys(t)["RSA as PKCS#8 in PEM"]
	block, _ := pem.Decode([]byte(chainPEM))
	for name, tt := range map[string]struct{ file, reason string }{
		"nothing":            {"", "the certificate file cannot be used: it is empty"},
		"no certificate":     {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("x")})), "the certificate file cannot be used: it has no CERTIFICATE block"},
		"a key behind it":    {chainPEM + string(key), "the certificate file holds a private key, which must not be published: give a file with only the certificates, and name the key by a reference"},
		"a key alone":        {string(key), "the certificate file holds a private key, which must not be published: give a file with only the certificates, and name the key by a reference"},
		"DER":                {string(block.Bytes), "the certificate file is DER: convert it with openssl x509 -inform der"},
		"a broken second":    {chainPEM[:strings.LastIndex(chainPEM, "-----BEGIN")] + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes[:100]})), "the block on line 13 is not an X.509 certificate, or it is damaged; check it with `openssl x509 -text`"},
		"far too large":      {strings.Repeat(" ", MaxSize+1), "the certificate file has 1048577 bytes, which is too large for a certificate chain"},
		"too long a chain":   {strings.Repeat(chainPEM, 220), "the certificate file cannot be used: it has 290180 bytes, the limit is 262144"},
		"cut off in the PEM": {chainPEM[:500], "the certificate file cannot be used: it is cut off: the CERTIFICATE block that begins on line 1 has no END line"},
		"a damaged leaf":     {strings.Replace(chainPEM, "MII", "M*I", 1), "the certificate file cannot be used: the CERTIFICATE block on lines 1 to 12 is damaged: its content is not base64"},
	} {
		if _, err := FromPEM([]byte(tt.file)); err == nil || err.Error() != tt.reason {
			t.Errorf("%s:\n got %v\nwant %s", name, err, tt.reason)
		}
	}
}

func TestIssuedEvent(t *testing.T) {
	t.Parallel()
	issued := Issued{Chain: []byte(chainPEM), KeyFile: "/etc/letsencrypt/live/x/privkey.pem", Source: "certbot://web1/x"}
	first, err := issued.Event()
	if err != nil {
		t.Fatal(err)
	}
	again := must(issued.Event())
	if !bytes.Equal(first.Encode(), again.Encode()) {
		t.Errorf("the hook makes another event when it runs again:\n%s\n%s", first.Encode(), again.Encode())
	}
	leaf, _ := pem.Decode([]byte(chainPEM))
	if want := IDFor(sha256.Sum256(leaf.Bytes), "certbot://web1/x"); first.ID != want {
		t.Errorf("id %s, want %s of the leaf", first.ID, want)
	}
	read, err := Decode(map[string][]string{"Content-Type": {ContentType}}, first.CloudEvent())
	if err != nil {
		t.Fatal(err)
	}
	if read.PrivateKey == nil || read.PrivateKey.File != issued.KeyFile || read.Source != issued.Source || read.Certificate.PEM != chainPEM {
		t.Errorf("published %+v", read)
	}

	renewed := selfSigned(t, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), 2)
	issued.Chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: renewed.Raw})
	issued.KeyFile = ""
	other := must(issued.Event())
	if other.ID == first.ID {
		t.Error("a renewed certificate has the id of the old one")
	}
	if other.PrivateKey != nil {
		t.Errorf("a key that was not passed: %+v", other.PrivateKey)
	}
	if _, err := (Issued{Source: "x"}).Event(); err == nil {
		t.Error("an event without a certificate was made")
	}
}
