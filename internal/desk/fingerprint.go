package desk

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// fingerprintOf returns the fingerprint of a letter's cause.
func fingerprintOf(d *broker.DeadLetter) string {
	return Fingerprint(d.Code, d.Phase, d.Lane, d.EnhancedCode, toFix(d))
}

// Fingerprint identifies a cause: what failed (code), where in the conversation (phase),
// with which relay (lane), the enhanced status code, and what has to be fixed (toFix). Letters
// with one fingerprint are fixed by one act. It is 12 hexadecimal digits, the same in every
// version, because it is part of addresses that people bookmark.
func Fingerprint(code verdict.Code, phase verdict.Phase, lane, enhancedCode, toFix string) string {
	parts := []string{"certpost cause", string(code), string(phase), lane, enhancedCode}
	if toFix != "" {
		parts = append(parts, toFix)
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:6])
}

// toFix returns what has to be fixed where the lane does not say it: the target that is unknown
// or invalid, the reference of a secret, the recipients' domain if the relay refused their
// addresses, the source that published the event. "" if it is none of these, or if the
// recipients have several domains.
func toFix(d *broker.DeadLetter) string {
	switch {
	case d.Code == verdict.TargetUnknown, d.Code == verdict.TargetInvalid:
		return d.Target
	case d.Code == verdict.EventInvalid && d.Phase == verdict.PhaseSource:
		return d.EventSubject
	case d.Phase == verdict.PhaseRcpt && aboutAddress(d.EnhancedCode):
		return domainOf(d.Recipients)
	}
	return d.ToFix
}

// aboutAddress reports whether the enhanced status code of a refused RCPT is about the address or
// its mailbox (X.1.X and X.2.X in RFC 3463 section 3), not about the relay, its policy or its
// network. A reply without a code may be.
func aboutAddress(enhancedCode string) bool {
	parts := strings.Split(enhancedCode, ".")
	return len(parts) != 3 || parts[1] == "1" || parts[1] == "2"
}

// domainOf returns the domain that all recipients have, "" if they have several.
func domainOf(recipients []string) (domain string) {
	for _, recipient := range recipients {
		of := strings.ToLower(recipient[strings.LastIndex(recipient, "@")+1:])
		if domain != "" && of != domain {
			return ""
		}
		domain = of
	}
	return domain
}

// Title is the cause with what has to be fixed, on one line.
func (g Group) Title() string { return titleOf(g.Cause, g.ToFix) }

func titleOf(cause, toFix string) string {
	if toFix == "" {
		return cause
	}
	return strings.TrimSuffix(cause, ".") + ": " + toFix
}
