package delivery

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// tokenServer grants tokens t-1, t-2 and so on for one client.
type tokenServer struct {
	*httptest.Server
	mu       sync.Mutex
	secret   string
	life     int // seconds; 0: the answer has no expires_in
	requests int
	granted  int
	scope    string
	answer   func(http.ResponseWriter) bool // in place of a token when it returns true
}

func newTokenServer(t *testing.T) *tokenServer {
	t.Helper()
	s := &tokenServer{secret: "client-secret-1", life: 3600}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *tokenServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if s.answer != nil && s.answer(w) {
		return
	}
	id, secret, _ := r.BasicAuth()
	if id == "" {
		id, secret = r.FormValue("client_id"), r.FormValue("client_secret")
	}
	w.Header().Set("Content-Type", "application/json")
	if id != "our-app" || secret != s.secret || r.FormValue("grant_type") != "client_credentials" {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprintf(w, `{"error":"invalid_client","error_description":"AADSTS7000215: not %s"}`, secret)
		return
	}
	s.granted++
	s.scope = r.FormValue("scope")
	expires := ""
	if s.life != 0 {
		expires = fmt.Sprintf(`,"expires_in":%d`, s.life)
	}
	_, _ = fmt.Fprintf(w, `{"token_type":"Bearer","access_token":"access-token-%d"%s}`, s.granted, expires)
}

func (s *tokenServer) counts() (requests, granted int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests, s.granted
}

// set changes the server.
func (s *tokenServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// newTokenFixture returns a fixture that logs in with tokens at a relay that accepts
// the token known.
func newTokenFixture(t *testing.T, grants *tokenServer, known string) (*fixture, *lab.ScriptedRelay, string) {
	t.Helper()
	ca := lab.NewTLSAuthority(t, "Test CA")
	server := lab.StartRelay(t, lab.RelayScript{Cert: ca.Issue(t, nil), Offers: []string{"STARTTLS", "PIPELINING", "AUTH LOGIN XOAUTH2"}, Users: map[string]string{"certs@example.com": known}})
	secret := filepath.Join(t.TempDir(), "client-secret")
	lab.Write(t, secret, []byte("client-secret-1"))
	o := newFixture(t, server.Address(), RelayLimits{}, func(target *Target) {
		target.TLSMode, target.CAFile = smtp.TLSStartTLS, ca.File(t)
		target.Username = Text{Plain: "certs@example.com"}
		target.OAuth2 = OAuth2{TokenURL: grants.URL + "/token", ClientID: "our-app", ClientSecret: secrets.Ref{File: secret}, Scopes: []string{"https://outlook.office365.com/.default"}}
	})
	return o, server, secret
}

func TestTokensAreUsedUntilTheyExpire(t *testing.T) {
	t.Parallel()
	grants := newTokenServer(t)
	o, server, _ := newTokenFixture(t, grants, "access-token-1")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { o.mustDeliver() })
	}
	all.Wait()
	if requests, granted := grants.counts(); requests != 1 || granted != 1 || len(server.Taken()) != 20 {
		t.Errorf("%d requests and %d tokens for %d mails", requests, granted, len(server.Taken()))
	}
	if mail := server.Taken()[0]; mail.User != "certs@example.com" || grants.scope != "https://outlook.office365.com/.default" {
		t.Errorf("logged in as %q with the scope %q", mail.User, grants.scope)
	}
	// The token's expiry, by the local clock.
	server.Mu.Lock()
	server.Users["certs@example.com"] = "access-token-2"
	server.Mu.Unlock()
	o.tokens.mu.Lock()
	for _, g := range o.tokens.grants {
		if left := time.Until(g.until); left < 58*time.Minute || left > 59*time.Minute {
			t.Errorf("an hour's token is used for %s", left)
		}
		g.until = time.Now()
	}
	o.tokens.mu.Unlock()
	if receipt := o.mustDeliver(); receipt.Timings.Dial == 0 {
		t.Error("a new token came with an old connection")
	}
	if _, granted := grants.counts(); granted != 2 {
		t.Errorf("%d tokens", granted)
	}
	grants.set(func() { grants.life = 0 })
	token, f := newTokens().get(lab.Patient(t), o.target.OAuth2, secrets.New([]byte("client-secret-1")), secrets.Value{})
	if f != nil || string(token.Reveal()) != "access-token-3" {
		t.Errorf("a token without an expiry: %v", f)
	}
}

// A token that the relay refuses is replaced once. If the relay refuses the new one
// too, the delivery fails.
//
// Fault: 5yz during AUTH. Result: dead (SMTP_AUTH), after one retry with the secret fetched
// again.
func TestRefusedTokensAreReplacedOnce(t *testing.T) {
	t.Parallel()
	grants := newTokenServer(t)
	o, server, _ := newTokenFixture(t, grants, "access-token-2") // the first one was revoked
	o.mustDeliver()
	if _, granted := grants.counts(); granted != 2 {
		t.Errorf("%d tokens", granted)
	}
	server.Mu.Lock()
	server.Users["certs@example.com"] = "none at all"
	server.Mu.Unlock()
	server.HangUp("")
	lab.Eventually(t, "the connection to be closed", func() bool { return o.idle() == 0 })
	_, f := o.deliver(lab.Patient(t))
	if f == nil || f.Code != verdict.SMTPAuth || f.ReplyCode != 535 {
		t.Fatalf("got %+v", f)
	}
	if _, granted := grants.counts(); granted != 3 {
		t.Errorf("%d tokens", granted)
	}
	if printed := fmt.Sprintf("%v %+v %#v %v", f, *f, f, f.Cause); strings.Contains(printed, "access-token") {
		t.Errorf("a token is in %s", printed)
	}
}

func TestWhenThereIsNoToken(t *testing.T) {
	t.Parallel()
	says := func(status int, kind, body string) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
			return true
		}
	}
	const jsonType = "application/json"
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter) bool
		code   verdict.Code
		says   string
	}{
		"wrong secret":     {nil, verdict.SecretDenied, "answered 401 invalid_client (AADSTS7000215) to client_id our-app"},
		"no such scope":    {says(400, jsonType, `{"error":"invalid_scope"}`), verdict.SecretDenied, "400 invalid_scope"},
		"its own words":    {says(403, jsonType, `{"error":"wrong-wrong-secret is wrong"}`), verdict.SecretDenied, "answered 403 to client_id"},
		"an error and 200": {says(200, jsonType, `{"error":"unauthorized_client"}`), verdict.SecretDenied, "unauthorized_client"},
		"busy":             {says(429, jsonType, `{}`), verdict.SecretUnavailable, "answered 429; Certpost retries"},
		"down":             {says(503, "text/html", "<h1>wrong-wrong-secret</h1>"), verdict.SecretUnavailable, "answered 503"},
		"for a while":      {says(400, jsonType, `{"error":"temporarily_unavailable"}`), verdict.SecretUnavailable, "temporarily_unavailable"},
		"no JSON":          {says(200, jsonType, "wrong-wrong-secret"), verdict.SecretUnavailable, "no token"},
		"no token":         {says(200, jsonType, `{"token_type":"Bearer"}`), verdict.SecretUnavailable, "no token"},
		"without end": {func(w http.ResponseWriter) bool {
			for {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<16)); err != nil {
					return true
				}
			}
		}, verdict.SecretUnavailable, "no token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			grants := newTokenServer(t)
			grants.set(func() { grants.answer = test.answer })
			o, server, secret := newTokenFixture(t, grants, "access-token-1")
			lab.Write(t, secret, []byte("wrong-wrong-secret"))
			_, f := o.deliver(lab.Patient(t))
			if f == nil || f.Code != test.code || f.Phase != verdict.PhaseSecrets || f.Relay || !strings.Contains(f.Reason, test.says) {
				t.Fatalf("got %+v, want %s with %q", f, test.code, test.says)
			}
			if printed := fmt.Sprintf("%v %+v %#v %v", f, *f, f, f.Cause); strings.Contains(printed, "wrong-wrong") {
				t.Errorf("the secret is in %s", printed)
			}
			if dials, _ := server.Dials(); dials != 0 {
				t.Error("the relay was dialled")
			}
		})
	}
}

// The client secret is sent only to the configured URL, and a hanging endpoint does
// not block a delivery for ever.
func TestTokenEndpointsThatMeanIll(t *testing.T) {
	t.Parallel()
	elsewhere := newTokenServer(t)
	grants := newTokenServer(t)
	grants.set(func() {
		grants.answer = func(w http.ResponseWriter) bool {
			w.Header().Set("Location", elsewhere.URL+"/token")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}
	})
	o, _, _ := newTokenFixture(t, grants, "access-token-1")
	if _, f := o.deliver(lab.Patient(t)); f == nil || f.Code != verdict.SecretDenied || !strings.Contains(f.Reason, "answered 307") {
		t.Errorf("a redirect: %v", f)
	}
	if requests, _ := elsewhere.counts(); requests != 0 {
		t.Error("the secret went elsewhere")
	}

	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server notices the end of the connection
		<-r.Context().Done()
	}))
	defer hanging.Close()
	client := OAuth2{TokenURL: hanging.URL, ClientID: "our-app"}
	shared := newTokens()
	var all sync.WaitGroup
	for range 5 { // one asks, four wait for it
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, f := shared.get(ctx, client, secrets.New([]byte("s")), secrets.Value{}); f == nil || f.Code != verdict.SecretUnavailable || !strings.Contains(f.Reason, "did not answer before the attempt ended") {
				t.Errorf("hanging: %v", f)
			}
		})
	}
	all.Wait()

	stranger := httptest.NewUnstartedServer(http.HandlerFunc(grants.serve))
	stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
	stranger.StartTLS()
	defer stranger.Close()
	if _, f := newTokens().get(lab.Patient(t), OAuth2{TokenURL: stranger.URL, ClientID: "our-app"}, secrets.New([]byte("s")), secrets.Value{}); f == nil || !strings.Contains(f.Reason, "not trusted") {
		t.Errorf("an endpoint with an untrusted certificate: %v", f)
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	if _, f := newTokens().get(lab.Patient(t), OAuth2{TokenURL: closed.URL, ClientID: "our-app"}, secrets.New([]byte("s")), secrets.Value{}); f == nil || f.Code != verdict.SecretUnavailable {
		t.Errorf("an endpoint that does not listen: %v", f)
	}
}

// A token may also be configured as a secret.
func TestTokensAsSecrets(t *testing.T) {
	t.Parallel()
	o, server, file := newTokenFixture(t, newTokenServer(t), "a token from elsewhere")
	lab.Write(t, file, []byte("a token from elsewhere"))
	o.redefine(func(target *Target) {
		target.OAuth2, target.AuthMethod, target.Password = OAuth2{}, smtp.AuthXOAUTH2, secrets.Ref{File: file}
	})
	o.mustDeliver()
	if server.Taken()[0].User != "certs@example.com" {
		t.Errorf("%+v", server.Taken())
	}
}
