// Build stub: stands in for the cloud client of the same import path, so that the
// test-only Vault server does not link it. Every entry point answers "not built in".
package impersonate

import (
	"context"
	"errors"

	"golang.org/x/oauth2"
)

type CredentialsConfig struct {
	TargetPrincipal string
	Scopes          []string
	Subject         string
	Delegates       []string
}

func CredentialsTokenSource(context.Context, CredentialsConfig) (oauth2.TokenSource, error) {
	return nil, errors.New("Google impersonation: not built in")
}
