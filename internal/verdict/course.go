package verdict

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Course is what one attempt went through until it failed, for whoever has to find
// out why. It may be stored and shown: credentials and the content of the mail are
// not in it, and what the relay said is cleaned and cut.
type Course struct {
	// Definition names the state of the target's definition that was used: eight
	// hexadecimal digits, the same for the same settings.
	Definition string `json:"definition,omitempty"`
	Relay      string `json:"relay,omitempty"` // host:port
	Peer       string `json:"peer,omitempty"`  // the address that answered, IP:port
	Kept       bool   `json:"kept,omitempty"`  // the connection was there already, from an earlier mail
	TLS        string `json:"tls,omitempty"`   // "TLS 1.3 TLS_AES_128_GCM_SHA256"; "" in plaintext
	// PeerCertificate is the one that the relay showed, whether it was trusted or not.
	PeerCertificate *Certificate `json:"peer_certificate,omitempty"`
	Steps           []Step       `json:"steps"`
	// Dialogue is what was said, in its order: lines that begin with "C: " are ours,
	// with "S: " the relay's.
	Dialogue []string `json:"dialogue,omitempty"`
}

// Took is the time of all steps together.
func (c *Course) Took() (sum time.Duration) {
	for _, s := range c.Steps {
		sum += s.Took
	}
	return sum
}

// Versions is versions of secrets on one line, sorted by reference.
func Versions(secrets map[string]string) string {
	var list []string
	for _, ref := range slices.Sorted(maps.Keys(secrets)) {
		list = append(list, ref+"="+secrets[ref])
	}
	return strings.Join(list, ", ")
}

// Step is a phase that an attempt came to, and the time it took there.
type Step struct {
	Phase Phase         `json:"phase"`
	Took  time.Duration `json:"took_ns"`
}
