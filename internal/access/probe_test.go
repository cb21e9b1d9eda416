package access

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestProbes(t *testing.T) {
	t.Parallel()
	const token = "a-token-of-the-probes"
	given := token
	a := door(t, func(c *Config) { c.ProbeToken = func(context.Context) (string, error) { return given, nil } })
	ask := func(path, authorization string) int {
		r := httptest.NewRequest("GET", "https://10.0.0.1"+path, nil)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		a.ServeHTTP(w, r)
		return w.Code
	}
	for authorization, want := range map[string]int{
		"": 401, "Bearer " + token: 200, "bearer " + token: 200, "Bearer " + token + "x": 401, "Bearer": 401, "Bearer ": 401, "Basic " + token: 401, token: 401,
	} {
		if got := ask("/metrics", authorization); got != want {
			t.Errorf("/metrics with %q: %d", authorization, got)
		}
	}
	if got := ask("/livez", ""); got != http.StatusOK {
		t.Errorf("/livez: %d", got)
	}
	if got := as(t, a, "viewer").get("/metrics"); got.Code != http.StatusOK {
		t.Errorf("/metrics, signed in: %d", got.Code)
	}
	given = ""
	if got := ask("/metrics", "Bearer "); got != http.StatusUnauthorized {
		t.Errorf("an empty token: %d", got)
	}
	given = "short"
	if got := ask("/metrics", "Bearer short"); got != http.StatusUnauthorized {
		t.Errorf("a short token: %d", got)
	}
}

// On loopback only this machine may read probes: not a page whose name points here (DNS
// rebinding), and not through a proxy. Sign-in makes no difference.
func TestProbesOnLoopback(t *testing.T) {
	t.Parallel()
	const token = "a-token-of-the-probes"
	for _, people := range [][]Account{nil, accounts()} {
		a := door(t, func(c *Config) {
			*c = Config{Listen: "127.0.0.1:8080", Accounts: people, ProbeToken: func(context.Context) (string, error) { return token, nil }}
		})
		b := newBrowser(t, a, "http://127.0.0.1:8080")
		for name, test := range map[string]struct {
			header map[string]string
			want   int
		}{
			"by its address":        {nil, 200},
			"by its name":           {map[string]string{"Host": "localhost:8080"}, 200},
			"rebound":               {map[string]string{"Host": "evil.example:8080"}, 403},
			"rebound, with a token": {map[string]string{"Host": "evil.example:8080", "Authorization": "Bearer " + token}, 200},
			"through a proxy":       {map[string]string{"X-Forwarded-For": "198.51.100.1"}, 403},
			"by a proxy's name":     {map[string]string{"Host": "certpost.example.com"}, 403},
		} {
			if got := b.send(t.Context(), "GET", "/metrics", nil, test.header); got.Code != test.want {
				t.Errorf("%s, %d accounts: %d %s", name, len(people), got.Code, got.body)
			}
			if got := b.send(t.Context(), "GET", "/livez", nil, test.header); got.Code != http.StatusOK {
				t.Errorf("/livez %s: %d", name, got.Code)
			}
		}
	}
}
