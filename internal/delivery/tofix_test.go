package delivery

import (
	"context"
	"errors"
	"testing"

	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// A secret that cannot be had is named in the failure: the reference, or the store that is away.
func TestFailuresOfSecretsSayWhatToFix(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err   error
		code  verdict.Code
		toFix string
	}{
		{&secrets.Error{Kind: secrets.ErrNotFound, Ref: "vault:secret/smtp/a#password"}, verdict.SecretNotFound, "vault:secret/smtp/a#password"},
		{&secrets.Error{Kind: secrets.ErrDenied, Ref: "file:/etc/certpost/a"}, verdict.SecretDenied, "file:/etc/certpost/a"},
		{&secrets.Error{Kind: secrets.ErrUnavailable, Ref: "vault:secret/smtp/a#password"}, verdict.SecretUnavailable, "vault"},
		{errors.New("unknown"), verdict.SecretUnavailable, ""},
	} {
		if f := secretFailure(c.err); f.Code != c.code || f.ToFix != c.toFix {
			t.Errorf("%v: %s, %q is to be fixed; want %s, %q", c.err, f.Code, f.ToFix, c.code, c.toFix)
		}
	}
	for ref, want := range map[string]string{"vault:secret/certs/a#private_key": "vault:secret/certs/", "file:/keys/a.pem": "file:/keys/", "env:NAME": "env:NAME", "": ""} {
		if got := directoryOf(ref); got != want {
			t.Errorf("the directory of %q is %q, want %q", ref, got, want)
		}
	}
	o := OAuth2{TokenURL: "https://login.example.com/token", ClientID: "app"}
	if f := tokenFailure(context.Background(), o, errors.New("refused")); f.ToFix != "login.example.com" {
		t.Errorf("%q is to be fixed, want the host of the token endpoint", f.ToFix)
	}
}
