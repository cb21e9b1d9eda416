package payload

import (
	"crypto/x509"
	"fmt"
	"strings"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// namesAndSerials tells certificates apart that have the same name, such as the RSA and the ECDSA
// certificate of a host, or an old and a new one.
func namesAndSerials(certs []*x509.Certificate) string {
	const max = 4
	var names []string
	for _, cert := range certs[:min(len(certs), max)] {
		names = append(names, ShortName(cert)+" with serial "+legible.Clean(verdict.SerialNumber(cert), 40))
	}
	if len(certs) > max {
		names = append(names, fmt.Sprintf("%d more", len(certs)-max))
	}
	return strings.Join(names, ", ")
}
