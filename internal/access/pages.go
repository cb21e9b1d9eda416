package access

import (
	"html/template"
	"net/http"
	"strconv"
)

// Pages render responses. A nil function means plain HTML. Both write the status too.
type Pages struct {
	// SignIn shows the sign-in form.
	SignIn func(w http.ResponseWriter, r *http.Request, v SignInView)
	// Refused says why a request was refused. Title and text are Certpost's words, but
	// may contain a user's name: they are text, not HTML.
	Refused func(w http.ResponseWriter, r *http.Request, status int, title, text string)
}

// SignInView is the content of the sign-in page.
type SignInView struct {
	Status int // of the response
	// Accounts says that the page has a form for name and password (fields name,
	// password, return and TokenField, POST /sign-in).
	Accounts bool
	// Provider is the name of the provider, "" for none, and ProviderPath the link to
	// sign in there. It must be a link: the Content-Security-Policy (form-action) forbids
	// a form that leads to another site.
	Provider, ProviderPath string
	Return                 string // path to go to after sign-in
	Token                  string
	Name                   string // as typed before
	Message                string // error, or confirmation of the sign-out; "" for none
	// ProviderSignOut is the link to sign out at the provider too; "" for none.
	ProviderSignOut string
}

func (p Pages) orPlain() Pages {
	if p.SignIn == nil {
		p.SignIn = plainSignIn
	}
	if p.Refused == nil {
		p.Refused = plainRefused
	}
	return p
}

var plainPages = template.Must(template.New("pages").Parse(`
{{- define "head"}}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.}} - Certpost</title></head><body><main><h1>{{.}}</h1>
{{end}}
{{- define "sign-in"}}{{template "head" "Sign in"}}
{{with .Message}}<p role="alert">{{.}}</p>{{end}}
{{if .Accounts}}<form method="post" action="/sign-in">
<input type="hidden" name="token" value="{{.Token}}"><input type="hidden" name="return" value="{{.Return}}">
<p><label>Name <input name="name" value="{{.Name}}" autocomplete="username" required></label></p>
<p><label>Password <input name="password" type="password" autocomplete="current-password" required></label></p>
<p><button>Sign in</button></p></form>{{end}}
{{with .Provider}}<p><a href="{{$.ProviderPath}}">Sign in with {{.}}</a></p>{{end}}
{{with .ProviderSignOut}}<p><a href="{{.}}">Sign out at the provider too</a></p>{{end}}
</main></body></html>
{{end}}
{{- define "refused"}}{{template "head" .Title}}<p>{{.Text}}</p><p><a href="/">To the dashboard</a></p></main></body></html>
{{end}}
{{- define "bounce"}}<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={{.}}"><title>Certpost</title></head><body><p><a href="{{.}}">Continue</a></p></body></html>
{{end}}`))

func plainSignIn(w http.ResponseWriter, _ *http.Request, v SignInView) {
	showPlain(w, v.Status, "sign-in", v)
}

func plainRefused(w http.ResponseWriter, _ *http.Request, status int, title, text string) {
	showPlain(w, status, "refused", struct{ Title, Text string }{title, text})
}

// bounce makes the browser load a path of the dashboard again, this time from a page of
// the dashboard. A browser does not send a SameSite=Strict cookie when another site
// leads here (a link in a mail, the provider's redirect); from this page it does.
func bounce(w http.ResponseWriter, _ *http.Request, path string) {
	showPlain(w, http.StatusOK, "bounce", path)
}

func showPlain(w http.ResponseWriter, status int, name string, data any) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = plainPages.ExecuteTemplate(w, name, data) // fails if the client has disconnected
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // fails if the client has disconnected
}
