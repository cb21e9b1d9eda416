package delivery

import (
	"fmt"
	"maps"
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	gomail "github.com/wneessen/go-mail"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
)

const (
	maxHeaders     = 20
	maxHeaderValue = 200 // characters
)

// extraHeaders are the headers that a target may add, in canonical form; besides them all
// that begin with X- and are not ours. Those with true have a value in angle brackets.
var extraHeaders = map[string]bool{
	"Comments": false, "Importance": false, "Keywords": false, "Organization": false, "Priority": false, "Sensitivity": false,
	"List-Archive": true, "List-Help": true, "List-Id": true, "List-Owner": true, "List-Unsubscribe": true,
}

var (
	extraName   = regexp.MustCompile(`^X-[A-Za-z0-9-]{1,60}$`)
	reserved    = regexp.MustCompile(`(?i)^X-(Certpost|Auto-Response)-`)
	inBrackets  = regexp.MustCompile(`^<[!-;=?-~]{1,198}>$`)
	listIDValue = regexp.MustCompile(`^<[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+>$`)
)

// validateHeaders checks the target's own headers.
func (t *Target) validateHeaders(v *validation) {
	if len(t.Headers) > maxHeaders {
		v.err("headers", "has %d headers: at most %d are allowed", len(t.Headers), maxHeaders)
	}
	seen := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(t.Headers)) {
		at, value := config.Join("headers", name), t.Headers[name]
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		bracketed, known := extraHeaders[canonical]
		switch {
		case !known && (!extraName.MatchString(canonical) || reserved.MatchString(canonical)):
			v.err(at, "is not a header that a target may set: want one of %s, or X-NAME", strings.Join(slices.Sorted(maps.Keys(extraHeaders)), ", "))
			continue
		case seen[canonical]:
			v.err(at, "is set twice")
		case strings.TrimSpace(value) == "":
			v.err(at, "is empty")
		case canonical == "List-Id" && !listIDValue.MatchString(value):
			v.err(at, "want a name with dots in angle brackets, such as <certificates.example.com>")
		case bracketed && canonical != "List-Id" && !inBrackets.MatchString(value):
			v.err(at, "want one URL in angle brackets, such as <mailto:help@example.com>")
		}
		seen[canonical] = true
		v.line(at, value, maxHeaderValue)
	}
}

// setHeaders sets the headers by which mail programs sort mails: the list, the thread, and
// the target's own.
func setHeaders(msg *gomail.Msg, t *Target, m mailFacts) {
	msg.SetGenHeader("List-Id", listID(t.ID, m.messageIDDomain))
	if id := threadID(t, m); id != "" {
		msg.SetGenHeader("In-Reply-To", id)
		msg.SetGenHeader("References", id)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Headers)) {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		msg.SetGenHeader(gomail.Header(canonical), encodeWords(legible.Header(t.Headers[name], maxHeaderValue*4)))
	}
}

// listID returns the List-Id (RFC 2919), by which recipients file the mails of a target:
// <TARGET.certpost.DOMAIN>. It has 255 characters at most.
func listID(target, domain string) string {
	return "<" + payload.FileName(legible.Clean(target, 64)) + ".certpost." + shortDomain(domain, 120) + ">"
}

// threadID returns an id that all mails of a target for one name refer to as if it were the
// first mail of a thread: renewals of a certificate stand together, without anything stored.
//
// Encrypted mails have none. The names of certificates are public (RFC 9162), so whoever sees
// the header could find the name by hashing all of them.
func threadID(t *Target, m mailFacts) string {
	if t.encrypts() {
		return ""
	}
	name, _ := legible.Domain(threadName(m.bundle))
	return messageID("thread\x00"+name, t.ID, m.messageIDDomain)
}

// threadName is the CN, else the first of the names in the order of the alphabet: CAs do not
// promise to keep theirs.
func threadName(b *payload.Bundle) string {
	if cn := b.Leaf.Subject.CommonName; cn != "" {
		return cn
	}
	names := slices.Concat(b.Leaf.DNSNames, b.Leaf.EmailAddresses)
	for _, ip := range b.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	for _, uri := range b.Leaf.URIs {
		names = append(names, uri.String())
	}
	if len(names) == 0 {
		return fmt.Sprintf("serial %d", b.Leaf.SerialNumber)
	}
	return slices.Min(names)
}
