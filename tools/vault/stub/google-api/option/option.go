// Build stub: stands in for the cloud client of the same import path, so that the
// test-only Vault server does not link it. Every entry point answers "not built in".
package option

import "golang.org/x/oauth2"

type ClientOption interface{}

func WithUserAgent(string) ClientOption { return nil }

func WithTokenSource(oauth2.TokenSource) ClientOption { return nil }
