package devrelay

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

// OpenSSL is stricter than crypto/tls about some flaws of certificates.
func TestOpenSSLTrustsTheRelay(t *testing.T) {
	t.Parallel()
	openssl := lab.Need(t, "openssl")
	r := start(t, Config{})
	ca, err := r.CAFile(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{
		{"-connect", r.Submission(), "-starttls", "smtp"},
		{"-connect", r.SMTPS()},
		{"-connect", r.SMTPS(), "-tls1_2"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		command := exec.CommandContext(ctx, openssl, append([]string{"s_client", "-brief", "-verify_return_error", "-x509_strict",
			"-verify_hostname", "devrelay.test", "-CAfile", ca, "-crlf"}, arguments...)...)
		command.Stdin = strings.NewReader("QUIT\n")
		output, err := command.CombinedOutput()
		if err != nil || !bytes.Contains(output, []byte("Verification: OK")) {
			t.Errorf("openssl %v: %v\n%s", arguments, err, output)
		}
	}
}
