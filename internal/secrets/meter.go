package secrets

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Outcomes of a request to Vault, as Requests counts them.
const (
	requestOK          = "ok"
	requestNotFound    = "not_found"   // Vault has no such secret
	requestDenied      = "denied"      // the token may not, or is no longer valid
	requestRefused     = "refused"     // any other answer below 500
	requestUnavailable = "unavailable" // no usable answer, or none asked for because the last ones failed
	requestAbandoned   = "abandoned"   // whoever asked did not wait for the answer
)

// Requests identifies a kind of requests to Vault: the operation is login, token, read or write.
type Requests struct{ Operation, Outcome string }

// meter counts the requests to Vault and knows when the token ends.
type meter struct {
	mu     sync.Mutex
	counts map[Requests]uint64
	ends   time.Time
}

func (m *meter) count(r request, ans answer, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts == nil {
		m.counts = map[Requests]uint64{}
	}
	m.counts[Requests{operationOf(r), outcomeOf(ans, err)}]++
}

func operationOf(r request) string {
	switch {
	case strings.HasPrefix(r.path, "auth/token/"):
		return "token"
	case strings.HasPrefix(r.path, "auth/"), r.path == "sys/wrapping/unwrap":
		return "login"
	case r.method == http.MethodGet:
		return "read"
	}
	return "write"
}

func outcomeOf(ans answer, err error) string {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return requestAbandoned
	case err != nil:
		return requestUnavailable
	case ans.status == http.StatusNotFound:
		return requestNotFound
	case ans.status == http.StatusForbidden:
		return requestDenied
	case ans.status >= http.StatusBadRequest:
		return requestRefused
	}
	return requestOK
}

// holds records for how long, in seconds, the token is valid from now on; 0: it does not end.
func (m *meter) holds(seconds int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends = time.Time{}
	if seconds > 0 {
		m.ends = time.Now().Add(time.Duration(seconds) * time.Second)
	}
}

// Requests returns how many requests to Vault had which outcome since the start, nil without
// Vault.
func (s *Store) Requests() map[Requests]uint64 {
	if s.vault == nil {
		return nil
	}
	m := s.vault.client.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.counts)
}

// TokenEnds returns when the token for Vault ends if it is not renewed; zero without Vault,
// without a token, and for one that does not end.
func (s *Store) TokenEnds() time.Time {
	if s.vault == nil {
		return time.Time{}
	}
	m := s.vault.client.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ends
}
