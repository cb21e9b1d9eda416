package legible

import "time"

// Days returns the number of whole days from one time to another, negative if it lies
// before. A time.Duration ends after 292 years; certificates do not.
func Days(from, to time.Time) int {
	const day = 24 * 60 * 60
	return int((to.Unix() - from.Unix()) / day)
}

// Endless reports whether the end of a certificate's validity is the one that means that
// it has no well-defined end, 99991231235959Z (RFC 5280 section 4.1.2.5).
func Endless(notAfter time.Time) bool {
	return notAfter.Equal(time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC))
}
