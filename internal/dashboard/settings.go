package dashboard

import (
	"net/http"
	"slices"

	"github.com/certpost/certpost/internal/access"
)

const settingsPath = "/settings"

// year is how long a browser keeps the settings, in seconds.
const year = 365 * 24 * 60 * 60

// preference is a setting that a user can change, kept in a cookie of one word that does not
// identify the user.
type preference struct {
	Field   string
	Cookie  string
	Title   string
	Options []option // the default first
}

// option is one of several choices.
type option struct {
	Value  string
	Label  string
	Chosen bool
}

var (
	scheme = preference{"scheme", "certpost-scheme", "Colours", []option{{Value: "system", Label: "Follow the system"}, {Value: "light", Label: "Light"}, {Value: "dark", Label: "Dark"}}}
	keys   = preference{"keys", "certpost-keys", "Keys of a single letter", []option{{Value: "on", Label: "On"}, {Value: "off", Label: "Off: single letters do nothing"}}}
	times  = preference{"times", "certpost-times", "Times", []option{{Value: "local", Label: "In the time zone of this browser, with UTC in their titles"}, {Value: "utc", Label: "UTC"}}}

	preferences = []preference{scheme, times, keys}
)

// allows reports whether a value is one of the options.
func (p preference) allows(value string) bool {
	return slices.ContainsFunc(p.Options, func(o option) bool { return o.Value == value })
}

// of returns the value that the request's cookie has, or the default.
func (p preference) of(r *request) string {
	if c, err := r.Cookie(p.Cookie); err == nil && p.allows(c.Value) {
		return c.Value
	}
	return p.Options[0].Value
}

// values returns the allowed values.
func (p preference) values() (all []string) {
	for _, o := range p.Options {
		all = append(all, o.Value)
	}
	return all
}

// settingsView is the settings that a user can change.
type settingsView struct {
	Preferences []preference
	Views       []savedView
}

func (p *pages) settings(r *request) (view, error) {
	return view{template: "settings", title: "Settings", data: newSettings(r)}, nil
}

func newSettings(r *request) settingsView {
	v := settingsView{Views: r.savedViews()}
	for _, p := range preferences {
		value := p.of(r)
		p.Options = slices.Clone(p.Options)
		for i := range p.Options {
			p.Options[i].Chosen = p.Options[i].Value == value
		}
		v.Preferences = append(v.Preferences, p)
	}
	return v
}

// saveSettings saves the settings that the form contains and leaves the others
// unchanged. The form in the footer returns to the page where it was submitted.
func (p *pages) saveSettings(r *request) (view, error) {
	v := view{to: settingsPath + "?done=saved"}
	for _, setting := range preferences {
		value := r.PostFormValue(setting.Field)
		if value == "" {
			continue
		}
		if !setting.allows(value) {
			return view{}, wrongf("Invalid %s: use one of %q", setting.Field, setting.values())
		}
		v.cookies = append(v.cookies, r.kept(setting.Cookie, value))
	}
	if back := r.PostFormValue("return"); back != "" {
		v.to = access.LocalPath(back)
	}
	if name, forgotten := r.PostFormValue("view"), r.PostFormValue("forget"); name != "" || forgotten != "" {
		cookie, to, err := r.changeViews(name, forgotten)
		if err != nil {
			return view{}, err
		}
		v.cookies, v.to = append(v.cookies, cookie), to
	}
	return v, nil
}

// kept is a cookie that the browser keeps for a year.
func (r *request) kept(name, value string) *http.Cookie {
	return &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: year, Secure: r.TLS != nil, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

// keysPage is the list of keys as a page, for links and browsers without JavaScript.
func (p *pages) keysPage(*request) (view, error) {
	return view{template: "keys", title: "Keys"}, nil
}
