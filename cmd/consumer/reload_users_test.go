package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/delivery"
)

// TestPeopleReload: a user who is removed from the configuration is signed out; an
// invalid configuration changes nothing.
//
// Fault: users, removed from the configuration. Result: their sessions end within seconds.
func TestPeopleReload(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.yaml")
	hash := hashFor(t, "canary-password")
	write := func(users, rest string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("http:\n  sign_in:\n    users:\n"+users+rest), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	user := func(name, role string) string {
		return "      - {name: " + name + ", password_hash: \"" + hash + "\", role: " + role + "}\n"
	}
	const provider = "    oidc: {issuer: \"https://id.example.com\", client_id: c, roles: {viewer: [x]}}\n  url: http://localhost\n"
	write(user("ada", "viewer")+user("eve", "operator"), "")
	synctest.Test(t, func(t *testing.T) {
		cfg, _, problems := loadConfig(path, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		log := &writings{}
		guard, err := cfg.HTTP.openAccess(nil, access.Pages{}, nil, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		guard.Handle("GET /{$}", access.Viewer, func(w http.ResponseWriter, _ *http.Request, v access.Visit) {
			_, _ = io.WriteString(w, v.User.Role.String())
		})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go newPeopleWatch(&cfg.HTTP, guard, zerolog.New(log)).run(ctx)
		ada, eve := signedIn(t, guard, "ada"), signedIn(t, guard, "eve")
		for _, step := range []struct {
			name, users, rest string
			ada, eve          string // what the page says; "" is signed out
			log               string
		}{
			{"nothing", user("ada", "viewer") + user("eve", "operator"), "", "viewer", "operator", ""},
			{"another section", user("ada", "viewer") + user("eve", "operator"), "log: {level: warn}\n", "viewer", "operator", ""},
			{"an error", user("eve", "root"), "", "viewer", "operator", "cannot be used"},
			{"an error elsewhere", user("eve", "operator"), "nats: {replicas: 2}\n", "viewer", "operator", "cannot be used"},
			{"another way to sign in", user("ada", "viewer") + user("eve", "operator"), provider, "viewer", "operator", "requires a restart"},
			{"another role", user("ada", "viewer") + user("eve", "viewer"), "", "viewer", "", `"sessions_ended":1`},
			{"gone, and another way to sign in", user("eve", "viewer"), provider, "", "", "requires a restart"},
		} {
			before := len(log.String())
			write(step.users, step.rest)
			time.Sleep(3 * delivery.PollInterval)
			synctest.Wait()
			if got := ada(); got != step.ada {
				t.Errorf("%s: ada sees %q", step.name, got)
			}
			if got := eve(); got != step.eve {
				t.Errorf("%s: eve sees %q", step.name, got)
			}
			if said := log.String()[before:]; (said == "") != (step.log == "") || !strings.Contains(said, step.log) || strings.Contains(said, hash) {
				t.Errorf("%s: said %q", step.name, said)
			}
		}
	})
}

// TestSignInIsRemoved: without the section sign_in nobody stays signed in, and nobody
// becomes the local administrator before the restart that this requires.
//
// Fault: or sign-in as a whole, removed from the configuration. Result: their sessions end
// within seconds; without sign-in nobody becomes the administrator before a restart.
func TestSignInIsRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	users := "http: {sign_in: {users: [{name: ada, password_hash: \"" + hashFor(t, "canary-password") + "\", role: admin}]}}\n"
	write(users)
	synctest.Test(t, func(t *testing.T) {
		cfg, _, problems := loadConfig(path, nil)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		log := &writings{}
		guard, err := cfg.HTTP.openAccess(nil, access.Pages{}, nil, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		guard.Handle("GET /{$}", access.Viewer, func(w http.ResponseWriter, _ *http.Request, v access.Visit) { _, _ = io.WriteString(w, v.User.Name) })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go newPeopleWatch(&cfg.HTTP, guard, zerolog.New(log)).run(ctx)
		settle := func() {
			time.Sleep(3 * delivery.PollInterval)
			synctest.Wait()
		}
		ada := signedIn(t, guard, "ada")
		write("http: {listen: \"127.0.0.1:8080\"}\n")
		settle()
		if got := ada(); got != "" {
			t.Errorf("ada still sees %q", got)
		}
		stranger := httptest.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1:8080/", nil)
		w := httptest.NewRecorder()
		if guard.ServeHTTP(w, stranger); w.Code == http.StatusOK {
			t.Errorf("without sign-in everyone is %q", w.Body)
		}
		if said := log.String(); !strings.Contains(said, "removing sign-in requires a restart; until then nobody can sign in") || !strings.Contains(said, `"sessions_ended":1`) {
			t.Errorf("said %s", said)
		}
		write(users)
		settle()
		if got := signedIn(t, guard, "ada")(); got != "ada" {
			t.Errorf("after sign-in is back, ada sees %q", got)
		}
	})
}

// TestTheLastUserLeaves: a removed user is signed out even if it is the last one with a
// password, and even if another change requires a restart.
//
// Fault: users, removed from the configuration. Result: their sessions end within seconds.
func TestTheLastUserLeaves(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.yaml")
	write := func(users, issuer string) {
		t.Helper()
		text := "http:\n  url: http://localhost:8080\n  sign_in:\n    oidc: {issuer: \"" + issuer + "\", client_id: c, roles: {viewer: [x]}}\n" + users
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, issuer := range map[string]string{"and nothing else": "https://id.example.com", "with another provider": "https://other.example.com"} {
		write("    users: [{name: ada, password_hash: \""+hashFor(t, "canary-password")+"\", role: admin}]\n", "https://id.example.com")
		synctest.Test(t, func(t *testing.T) {
			cfg, _, problems := loadConfig(path, nil)
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			guard, err := cfg.HTTP.openAccess(nil, access.Pages{}, nil, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			guard.Handle("GET /{$}", access.Viewer, func(w http.ResponseWriter, _ *http.Request, v access.Visit) { _, _ = io.WriteString(w, v.User.Name) })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go newPeopleWatch(&cfg.HTTP, guard, zerolog.Nop()).run(ctx)
			ada := signedIn(t, guard, "ada")
			if got := ada(); got != "ada" {
				t.Errorf("%s: ada sees %q", name, got)
			}
			write("", issuer)
			time.Sleep(3 * delivery.PollInterval)
			synctest.Wait()
			if got := ada(); got != "" {
				t.Errorf("%s: ada still sees %q", name, got)
			}
			w := httptest.NewRecorder()
			if guard.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "http://localhost:8080/sign-in", nil)); strings.Contains(w.Body.String(), `type="password"`) || !strings.Contains(w.Body.String(), "Sign in with id.example.com") {
				t.Errorf("%s: the page has a form for passwords, but there are no users: %s", name, w.Body)
			}
		})
	}
}

// signedIn signs a user in; the returned function returns the first page's text.
func signedIn(t *testing.T, guard http.Handler, name string) func() string {
	t.Helper()
	cookies := map[string]string{}
	ask := func(method, path string, form url.Values) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:8080"+path, strings.NewReader(form.Encode()))
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for name, value := range cookies {
			r.AddCookie(&http.Cookie{Name: name, Value: value})
		}
		w := httptest.NewRecorder()
		guard.ServeHTTP(w, r)
		for _, c := range w.Result().Cookies() {
			cookies[c.Name] = c.Value
		}
		return w
	}
	token := regexp.MustCompile(`name="token" value="([^"]*)"`).FindStringSubmatch(ask("GET", "/sign-in", nil).Body.String())
	if token == nil {
		t.Fatal("no token")
	}
	form := url.Values{"name": {name}, "password": {"canary-password"}, access.TokenField: {token[1]}}
	if w := ask("POST", "/sign-in", form); w.Code != http.StatusSeeOther {
		t.Fatalf("signing in as %s: %d %s", name, w.Code, w.Body)
	}
	return func() string {
		if w := ask("GET", "/", nil); w.Code == http.StatusOK {
			return w.Body.String()
		}
		return ""
	}
}

// An endless stream does not keep the program from ending, and a request in progress is
// finished.
func TestServingEnds(t *testing.T) {
	t.Parallel()
	arrived, finish := make(chan struct{}, 2), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	mux.HandleFunc("GET /answer", func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-finish
		if r.Context().Err() == nil {
			_, _ = io.WriteString(w, "finished")
		}
	})
	server, err := listenHTTP("http.listen", "127.0.0.1:0", mux)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.close)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.serve(ctx) }()
	answers := make(chan string, 2)
	for _, path := range []string{"/stream", "/answer"} {
		go func() {
			resp, err := http.Get(server.address() + path)
			if err != nil {
				answers <- err.Error()
				return
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body) // the stream is cut off
			answers <- path + ":" + string(body)
		}()
		<-arrived
	}
	cancel()
	close(finish)
	got := []string{<-answers, <-answers}
	if got[0] != "/answer:finished" || got[1] != "/stream:" {
		t.Errorf("%q", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}
