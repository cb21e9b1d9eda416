package webhook

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// MaxRetryAfter is the longest pause that a receiver can ask for with Retry-After: a wrong header must not silence
// a webhook for days.
const MaxRetryAfter = 30 * time.Minute

// Failure is why a message was not taken.
type Failure struct {
	Err error
	// Away says that the failure is not about this message: it did not reach the receiver, or another one would be answered
	// alike, as without its credentials or above its rate.
	Away bool
	// Refused says that the receiver does not take this message, and surely has not taken it: a later try is answered alike.
	Refused bool
	// RetryAfter is how long the receiver asks to wait, at most MaxRetryAfter; 0 if it does not ask.
	RetryAfter time.Duration
}

func (f *Failure) Error() string { return f.Err.Error() }

func (f *Failure) Unwrap() error { return f.Err }

// refused is the failure that an answer means.
func (w Receiver) refused(resp *http.Response) *Failure {
	f := &Failure{RetryAfter: w.retryAfter(resp.Header)}
	switch code := resp.StatusCode; {
	case code >= 300 && code < 400:
		f.Away = true
		f.Err = fmt.Errorf("%s: the receiver redirects (%d), and redirects are not followed: set %s.url to the new address", w.Setting, code, w.Setting)
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusNotFound, code == http.StatusGone:
		// 403 and 404 may be about one message: of a filter, or of an inventory that does not know the target.
		f.Away = code == http.StatusUnauthorized || code == http.StatusGone
		f.Err = fmt.Errorf("%s: the receiver refused the message (%d): check %s.url and secret", w.Setting, code, w.Setting)
	default:
		f.Away = code == http.StatusTooManyRequests || f.RetryAfter > 0
		f.Err = fmt.Errorf("%s: the receiver did not take the message (%d %s)", w.Setting, code, http.StatusText(code))
	}
	f.Refused = !f.Away && resp.StatusCode >= 400 && resp.StatusCode < 500
	if f.RetryAfter > 0 {
		f.Err = fmt.Errorf("%w; it asks to wait for %s", f.Err, f.RetryAfter)
	}
	return f
}

// retryAfter reads Retry-After: seconds, or a date (RFC 9110, 10.2.3). A date counts from that of the answer, because
// the receiver's clock may differ from ours. 0: there is none, or it is over, or it cannot be read.
func (w Receiver) retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(MaxRetryAfter/time.Second))) * time.Second
	}
	until, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	from, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		from = w.now()
	}
	return min(max(until.Sub(from), 0), MaxRetryAfter)
}

func (w Receiver) now() time.Time {
	if w.Now != nil {
		return w.Now()
	}
	return time.Now()
}
