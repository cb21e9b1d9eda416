package mailhost

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// checkLocalName refuses a deployment to files that the block local_name of Dovecot's configuration does
// not name: Dovecot would go on with the certificate of the block, or with the default one. It asks
// doveconf, with the options of validate_command; without that command nothing is checked.
func (d Deployment) checkLocalName(ctx context.Context, keys ...[]byte) error {
	if d.LocalName == "" || len(d.ValidateCommand) == 0 || filepath.Base(d.ValidateCommand[0]) != "doveconf" {
		return nil
	}
	asks := append(slices.Clone(d.ValidateCommand), "-f", "lname="+d.LocalName, "-h", "ssl_cert", "ssl_key")
	said, err := asks.output(ctx, d.CommandTimeout, nil, keys...)
	if err != nil {
		return fail(verdict.DeployValidate, StepCheck, "%s", err)
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	want := []string{d.CertPath, d.KeyPath}
	for i, path := range want {
		has := ""
		if i < len(lines) {
			has = strings.TrimSpace(lines[i])
		}
		if file, ok := strings.CutPrefix(has, "<"); !ok || !sameFile(strings.TrimSpace(file), path) && strings.TrimSpace(file) != path {
			return fail(verdict.DeployValidate, StepCheck, "Dovecot's configuration has %q for local_name %s, not <%s: set ssl_cert and ssl_key in the block `local_name %s { ... }`",
				legible.Clean(has, 300), legible.Clean(d.LocalName, 255), path, legible.Clean(d.LocalName, 255))
		}
	}
	return nil
}
