package verdict

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Transcript records one failed attempt step by step, so that an operator can find the
// cause. It may be stored and shown: it contains no credentials and no content of
// the mail, and the relay's texts are cleaned and cut.
type Transcript struct {
	// Definition is the version of the target's definition that was used: eight
	// hexadecimal digits, equal for equal settings.
	Definition string `json:"definition,omitempty"`
	Relay      string `json:"relay,omitempty"` // host:port
	Peer       string `json:"peer,omitempty"`  // the address that answered, IP:port
	Kept       bool   `json:"kept,omitempty"`  // the connection was reused from an earlier mail
	TLS        string `json:"tls,omitempty"`   // "TLS 1.3 TLS_AES_128_GCM_SHA256"; "" in plaintext
	// PeerCertificate is the certificate that the relay presented, trusted or not.
	PeerCertificate *Certificate `json:"peer_certificate,omitempty"`
	Steps           []Step       `json:"steps"`
	// Dialogue is the SMTP dialogue in order: lines that begin with "C: " are the
	// client's (Certpost), those with "S: " the relay's.
	Dialogue []string `json:"dialogue,omitempty"`
}

// Took returns the sum of the times of all steps.
func (c *Transcript) Took() (sum time.Duration) {
	for _, s := range c.Steps {
		sum += s.Took
	}
	return sum
}

// Versions formats versions of secrets as "reference=version, ...", sorted by
// reference. The keys of secrets are references, the values versions.
func Versions(secrets map[string]string) string {
	var list []string
	for _, ref := range slices.Sorted(maps.Keys(secrets)) {
		list = append(list, ref+"="+secrets[ref])
	}
	return strings.Join(list, ", ")
}

// Step is a phase that an attempt reached, and the time it spent there.
type Step struct {
	Phase Phase         `json:"phase"`
	Took  time.Duration `json:"took_ns"`
}
