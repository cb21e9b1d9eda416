package webhook

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

const (
	secretPath = "/services/T000/B000/XXXXcanaryXXXX"
	secretKey  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// a constant text, as store.Get would return it.
func text(s string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return s, nil }
}

// hello is a body.
func hello(string) ([]byte, error) { return []byte(`{"hello": 1}`), nil }

// Whatever the receiver does, no error has the address, the key or the receiver's words.
//
// Fault: the receiver of alerts.webhook does not answer, redirects, refuses the message. Result: an error that says what to do, and
// nothing of address, key and answer.
func TestWebhookFailures(t *testing.T) {
	t.Parallel()
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	t.Cleanup(other.Close)
	closed := httptest.NewServer(nil)
	closed.Close()
	patient := &http.Client{CheckRedirect: NewClient().CheckRedirect, Timeout: 200 * time.Millisecond}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+secretPath, http.StatusTemporaryRedirect)
		}, "redirects (307)"},
		"refused": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "XXXXcanaryXXXX")
		}, "refused the message (403): check alerts.webhook.url"},
		"fault":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "did not take the message (502 Bad Gateway)"},
		"silent": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer: "},
		"closed": {nil, "no answer: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := closed
			if c.answer != nil {
				server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					c.answer(w, r)
				}))
				defer server.Close()
			}
			err := Receiver{Setting: "alerts.webhook", URL: text(server.URL + secretPath), Secret: text(secretKey), Format: Certpost, Client: patient}.Post(t.Context(), "ID1", hello)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			for _, secret := range []string{"canary", secretPath, secretKey, "MfKQ9r8"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%v shows a secret", err)
				}
			}
		})
	}
	t.Cleanup(func() {
		if elsewhere != 0 {
			t.Error("a redirect was followed")
		}
	})
}

// An endless answer is not read to its end.
//
// Fault: the receiver of alerts.webhook never ends its answer. Result: the answer counts, and its rest is not read.
func TestEndlessAnswer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 32<<10); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	if err := (Receiver{URL: text(server.URL), Format: Slack}).Post(t.Context(), "ID1", hello); err != nil {
		t.Error(err)
	}
}

func TestWebhookAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://hooks.example.com/x": "", "http://127.0.0.1:9/x": "", "http://localhost/x": "", "http://[::1]:9/": "",
		"http://hooks.example.com/x": "only by https", "ftp://hooks.example.com": "is not an address", "hooks.example.com": "is not an address", "": "is not an address",
		"https://user:canary@hooks.example.com": "user name or a password", "http://127.0.0.1.example.com/": "only by https", "https://%zz/canary": "is not an address", "https://:443/x": "is not an address",
		"https://hooks.example.com:99999/x": "want 1 to 65535", "https://hooks.example.com:/x": "no port after it",
	} {
		err := CheckURL(address)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}

func TestWebhookSecrets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format Format
		secret string
		good   bool
	}{
		{Certpost, secretKey, true}, {Certpost, "sixteen characters", true}, {Certpost, "short", false}, {Certpost, "whsec_AAAA", false}, {Certpost, "", false},
		{PagerDuty, strings.Repeat("0", 32), true}, {PagerDuty, "0", false},
	} {
		if err := CheckSecret(c.format, c.secret); (err == nil) != c.good {
			t.Errorf("%s %q: %v", c.format, c.secret, err)
		}
	}
}
