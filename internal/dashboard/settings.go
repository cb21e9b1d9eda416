package dashboard

import (
	"net/http"
	"slices"

	"github.com/certpost/certpost/internal/access"
)

const settingsPath = "/settings"

// The values of the settings' cookies, default first.
var (
	schemes  = []string{"system", "light", "dark"}
	keyWords = []string{"on", "off"}
)

// year is how long a browser keeps the settings, in seconds.
const year = 365 * 24 * 60 * 60

// settingsView is the settings that a user can change.
type settingsView struct {
	Schemes []option
	Keys    []option
}

// option is one of several choices.
type option struct {
	Value  string
	Label  string
	Chosen bool
}

func (p *pages) settings(r *request) (view, error) {
	return view{template: "settings", title: "Settings", data: newSettings(r.scheme(), r.keys())}, nil
}

func newSettings(scheme, keys string) settingsView {
	v := settingsView{
		Schemes: []option{{Value: "system", Label: "Follow the system"}, {Value: "light", Label: "Light"}, {Value: "dark", Label: "Dark"}},
		Keys:    []option{{Value: "on", Label: "On"}, {Value: "off", Label: "Off: single letters do nothing"}},
	}
	for i := range v.Schemes {
		v.Schemes[i].Chosen = v.Schemes[i].Value == scheme
	}
	for i := range v.Keys {
		v.Keys[i].Chosen = v.Keys[i].Value == keys
	}
	return v
}

// saveSettings saves the settings that the form contains and leaves the others
// unchanged. The form in the footer returns to the page where it was submitted.
func (p *pages) saveSettings(r *request) (view, error) {
	v := view{to: settingsPath + "?done=saved"}
	for _, setting := range []struct {
		field, cookie string
		allowed       []string
	}{{"scheme", schemeCookie, schemes}, {"keys", keysCookie, keyWords}} {
		value := r.PostFormValue(setting.field)
		if value == "" {
			continue
		}
		if !slices.Contains(setting.allowed, value) {
			return view{}, wrongf("Invalid %s: use one of %q", setting.field, setting.allowed)
		}
		v.cookies = append(v.cookies, &http.Cookie{Name: setting.cookie, Value: value, Path: "/", MaxAge: year, Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	}
	if back := r.PostFormValue("return"); back != "" {
		v.to = access.LocalPath(back)
	}
	return v, nil
}

// keysPage is the list of keys as a page, for links and browsers without JavaScript.
func (p *pages) keysPage(*request) (view, error) {
	return view{template: "keys", title: "Keys"}, nil
}
