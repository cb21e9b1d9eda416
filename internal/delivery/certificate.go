package delivery

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// bundle is a leaf certificate and its issuers, in order.
type bundle struct {
	leaf *x509.Certificate
	// chain are the issuers, the leaf's first; the self-signed root is kept
	// where it was given.
	chain []*x509.Certificate
	// notes say what was put right while reading.
	notes []string
}

// payloadFailure is the failure of content that no further try will mend. The
// reason is in our words; cause is for errors.As alone.
func payloadFailure(reason string, cause error) error {
	return &verdict.Failure{
		Code: verdict.SMTPPayload, Phase: verdict.PhasePayload, Certainty: verdict.NotSent,
		Reason: reason, Cause: cause,
	}
}

func parseBundle(pemText []byte) (*bundle, error) {
	return nil, payloadFailure("certificates cannot be read yet", errors.ErrUnsupported)
}

// checkDates judges the leaf's dates by policy: refuse (the default, also
// for "") or warn, which gives the warnings that the mail has to carry.
func checkDates(b *bundle, now time.Time, policy string) (warnings []string, err error) {
	return nil, payloadFailure("certificates cannot be read yet", errors.ErrUnsupported)
}

// summary gives what is remembered of the certificate, cleaned.
func (b *bundle) summary() *verdict.Certificate { return &verdict.Certificate{CommonName: b.name()} }

// name is what people call the certificate.
func (b *bundle) name() string { return clean(b.leaf.Subject.CommonName, 100) }
