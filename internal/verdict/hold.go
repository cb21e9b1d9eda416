package verdict

import (
	"slices"
	"time"
)

// Hold says what a deployment waits for: records in DNS with which mail servers accept the new
// certificate. It may be stored and shown.
type Hold struct {
	// Publish are the records that are missing, as lines of a zone file.
	Publish []string `json:"publish,omitempty"`
	// Fits is since when the records fit; zero if they do not. Until is when caches no longer lack
	// them, and the certificate is deployed.
	Fits  time.Time `json:"fits_since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// TTL is the longest of the records so far, in nanoseconds.
	TTL time.Duration `json:"ttl_ns,omitempty"`
	// Seen are the names that had records; Gone is since when one of them has none, zero if all have.
	Seen []string  `json:"seen,omitempty"`
	Gone time.Time `json:"gone_since,omitzero"`
	// Expires is when the certificate expires that the host has now; zero if it has none.
	Expires time.Time `json:"expires,omitzero"`
}

// Same reports whether two holds say the same.
func (h *Hold) Same(other *Hold) bool {
	if h == nil || other == nil {
		return h == other
	}
	return slices.Equal(h.Publish, other.Publish) && h.Fits.Equal(other.Fits) && h.Until.Equal(other.Until) && h.TTL == other.TTL &&
		slices.Equal(h.Seen, other.Seen) && h.Gone.Equal(other.Gone) && h.Expires.Equal(other.Expires)
}

// urgent is how long before the end of the present certificate a hold becomes an emergency.
const urgent = 7 * 24 * time.Hour

// Urgent reports whether the certificate that the host has now has expired, or does so within a week.
func (h *Hold) Urgent(now time.Time) bool {
	return h != nil && !h.Expires.IsZero() && h.Expires.Sub(now) < urgent
}
