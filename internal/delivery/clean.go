package delivery

import (
	"strings"

	"github.com/certpost/certpost/internal/legible"
)

// clean makes text from certificates, events, configuration or a relay's reply
// fit for one line of a mail, a header, a log or a page.
func clean(s string, max int) string { return legible.Clean(s, max) }

// headerText is clean for a header's value. A header whose text looks like an
// RFC 2047 encoded word would be decoded by the reader's program after all
// cleaning is done, so the mark that starts one is broken up.
func headerText(s string, max int) string {
	return clean(strings.ReplaceAll(clean(s, max), "=?", "= ?"), max)
}
