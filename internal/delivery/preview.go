package delivery

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"mime"
	"net/mail"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// samplePassphrase protects the files of a preview.
const samplePassphrase = "sample-passphrase"

// Preview returns the mail that a target would send for its sample: a new certificate that
// nobody uses, for www.example.com.
func (i Inspector) Preview(target string) (*verdict.MailView, *verdict.Failure) {
	return i.courier.Preview(nil, target, nil)
}

// Preview returns the mail that a target would send for an event, or for a sample if the event
// is nil. It opens no connection and fetches no secret: what it has instead is in the result.
// key is the certificate's private key, PEM, or nil.
func (c *Courier) Preview(ev *events.Event, target string, key []byte) (*verdict.MailView, *verdict.Failure) {
	t, failure := lookUp(c.book.Current(), target)
	if failure == nil {
		failure = t.isMail()
	}
	if failure != nil {
		return nil, failure
	}
	s := &stage{target: t, now: time.Now(), key: key}
	if failure := s.set(ev); failure != nil {
		return nil, failure
	}
	a := &attempt{Courier: c, order: verdict.Attempt{Target: target, Number: 1}, event: s.event, target: s.target, p: newProvisions(t, s.bundle)}
	a.p.key, a.p.passphrase = s.key, s.passphrase
	if t.passphrase().Generates() {
		a.p.passphraseAt, _ = t.passphrase().Place().Filled(a.p.vars) // else the place as it is configured
	}
	defer a.releaseFiles()
	msg, failure := a.assemble(s.now, &sealing{}, signing{}, nil, nil)
	if failure != nil {
		return nil, failure
	}
	return s.view(msg), nil
}

// stage collects what a preview is made of.
type stage struct {
	target     *Target
	event      *events.Event
	bundle     *payload.Bundle
	now        time.Time
	key        []byte
	passphrase []byte
	instead    []string
}

func (s *stage) note(text string) { s.instead = append(s.instead, text) }

// set sets certificate, key and recipients.
func (s *stage) set(ev *events.Event) *verdict.Failure {
	sample := ev == nil || ev.Certificate.Ref != nil
	switch {
	case ev == nil:
		s.event = &events.Event{ID: "sample", Source: "certpost://preview", Time: s.now.UTC().Truncate(time.Second)}
		s.note("a sample certificate that nobody uses")
	default:
		copied := *ev
		s.event = &copied
		if sample {
			s.note("a sample certificate instead of the one that the event refers to")
		}
	}
	needsKey := s.target.settings(nil).NeedsKey()
	if payload.KeyIsEncrypted(s.key) {
		s.key = nil // its passphrase is a secret
	}
	var err error
	if sample {
		s.bundle, s.key, err = sampleBundle(s.emails(), s.now)
	} else if s.bundle, err = payload.ParseBundle([]byte(ev.Certificate.PEM)); err == nil && needsKey && s.key == nil {
		s.bundle, s.key, err = standIn(s.bundle)
		s.note("a new key that nobody uses, and a certificate like the event's for it: serial number, dates and names are the event's, key and fingerprint are not")
	}
	if err != nil {
		return asFailure(err)
	}
	if !needsKey {
		s.key = nil
	}
	if name := s.target.settings(nil).Passphrase(); name != "" {
		s.passphrase = []byte(samplePassphrase)
		s.note(`the passphrase "` + samplePassphrase + `" instead of ` + name)
	}
	if s.target.encrypts() {
		s.note("no encryption, so that it can be read: it would be encrypted with " + s.target.Encryption)
	}
	if !s.target.Sign.IsZero() || !s.target.DKIM.IsZero() {
		s.note("no signature")
	}
	return s.address()
}

// address fills the places of the recipients: from the event, or as a sample would.
func (s *stage) address() *verdict.Failure {
	if s.event.Certificate.Ref == nil && s.event.Certificate.PEM != "" {
		filled, failure := s.target.addressed(s.bundle, s.event)
		s.target = filled
		return failure
	}
	filled := *s.target
	for _, list := range []*[]string{&filled.To, &filled.CC, &filled.BCC} {
		var all []string
		for _, address := range *list {
			if hasPlace(address) {
				address = s.owner()
			}
			all = append(all, address)
		}
		*list = all
	}
	if s.target.places() {
		s.note(s.owner() + " as the recipient that each event names")
	}
	s.target = &filled
	return nil
}

// owner is an address that may stand in the place of a recipient.
func (s *stage) owner() string {
	if len(s.target.ToDomains) == 0 {
		return "owner@example.com"
	}
	domain := strings.NewReplacer("**", "www", "*", "www").Replace(s.target.ToDomains[0])
	if wrongAddress("owner@"+domain) != "" {
		return "owner@example.com"
	}
	return "owner@" + domain
}

// emails are the addresses in the sample certificate.
func (s *stage) emails() []string {
	if s.target.places() {
		return []string{s.owner()}
	}
	return nil
}

func (s *stage) view(msg *message) *verdict.MailView {
	v := &verdict.MailView{Target: s.target.ID, Raw: msg.raw, Bytes: len(msg.raw), Text: msg.draft.text.String(), HTML: msg.draft.html.String(), Instead: s.instead, Files: msg.attached}
	read, err := mail.ReadMessage(bytes.NewReader(msg.raw))
	if err != nil {
		return v // never, see the tests of renderMail
	}
	var words mime.WordDecoder
	for name, field := range map[string]*string{"Subject": &v.Subject, "From": &v.From, "To": &v.To, "Cc": &v.CC, "Reply-To": &v.ReplyTo} {
		*field = read.Header.Get(name)
		if decoded, err := words.DecodeHeader(*field); err == nil {
			*field = decoded
		}
	}
	return v
}

// sampleBundle issues a certificate for www.example.com, with its issuer.
func sampleBundle(emails []string, now time.Time) (*payload.Bundle, []byte, error) {
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	ca := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Certpost Sample CA"}, SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "www.example.com"}, DNSNames: []string{"www.example.com", "example.com"}, EmailAddresses: emails,
		SerialNumber: big.NewInt(0x4a7be5), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, 90).Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	issuer, err := issue(ca, ca, &issuerKey.PublicKey, issuerKey)
	if err != nil {
		return nil, nil, err
	}
	return forNewKey(leaf, issuer, issuerKey, &payload.Bundle{Chain: []*x509.Certificate{issuer}})
}

// standIn returns a bundle with a certificate like another one, for a new key.
func standIn(b *payload.Bundle) (*payload.Bundle, []byte, error) {
	issuerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	like := *b.Leaf
	like.SignatureAlgorithm = x509.UnknownSignatureAlgorithm
	return forNewKey(&like, &x509.Certificate{RawSubject: b.Leaf.RawIssuer}, issuerKey, b)
}

// forNewKey returns a bundle like another one with a new leaf, and the leaf's private key as
// PEM.
func forNewKey(template, issuer *x509.Certificate, signer *ecdsa.PrivateKey, b *payload.Bundle) (*payload.Bundle, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	copied := *b
	if copied.Leaf, err = issue(template, issuer, &key.PublicKey, signer); err != nil {
		return nil, nil, err
	}
	return &copied, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func issue(template, issuer *x509.Certificate, public *ecdsa.PublicKey, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
