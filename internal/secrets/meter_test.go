package secrets

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"testing"
	"time"
)

// TestRequestsAreCounted: requests to Vault are counted by what they were for and how they ended.
func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	read := request{method: http.MethodGet, path: "secret/data/web"}
	for _, c := range []struct {
		request request
		status  int
		err     error
		want    Requests
	}{
		{read, 200, nil, Requests{"read", "ok"}},
		{read, 404, nil, Requests{"read", "not_found"}},
		{read, 403, nil, Requests{"read", "denied"}},
		{read, 400, nil, Requests{"read", "refused"}},
		{read, 0, &Error{Kind: ErrUnavailable}, Requests{"read", "unavailable"}},
		{read, 0, context.Canceled, Requests{"read", "abandoned"}},
		{read, 0, errors.Join(context.DeadlineExceeded), Requests{"read", "abandoned"}},
		{request{method: http.MethodPatch, path: "secret/data/web"}, 200, nil, Requests{"write", "ok"}},
		{request{method: http.MethodPut, path: "auth/approle/login"}, 400, nil, Requests{"login", "refused"}},
		{request{method: http.MethodPut, path: "sys/wrapping/unwrap"}, 200, nil, Requests{"login", "ok"}},
		{lookupSelf(Value{}), 200, nil, Requests{"token", "ok"}},
	} {
		s := &Store{vault: &vault{client: &client{meter: &meter{}}}}
		s.vault.client.meter.count(c.request, answer{status: c.status}, c.err)
		if got := s.Requests(); !maps.Equal(got, map[Requests]uint64{c.want: 1}) {
			t.Errorf("%s %s, status %d, %v: counted as %v, want %v", c.request.method, c.request.path, c.status, c.err, got, c.want)
		}
	}
}

// TestTokenEnds: a token's end moves with each renewal; one that does not end has none.
func TestTokenEnds(t *testing.T) {
	t.Parallel()
	s := &Store{vault: &vault{client: &client{meter: &meter{}}}}
	if !s.TokenEnds().IsZero() || !(&Store{}).TokenEnds().IsZero() || (&Store{}).Requests() != nil {
		t.Error("there is an end without a token, or there are requests without Vault")
	}
	s.vault.client.meter.holds(3600)
	if left := time.Until(s.TokenEnds()); left < 59*time.Minute || left > time.Hour {
		t.Errorf("the token ends in %v, want an hour", left)
	}
	s.vault.client.meter.holds(0)
	if !s.TokenEnds().IsZero() {
		t.Error("a token that does not end has an end")
	}
}
