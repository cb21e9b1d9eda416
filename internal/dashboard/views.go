package dashboard

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/legible"
)

// savedView is a filtered list with a name, a link that a user made. The views are kept in a
// cookie, so they are those of one browser.
type savedView struct {
	Name    string `json:"n"`
	Address string `json:"a"`
}

const (
	viewsCookie = "certpost-views"
	// A browser keeps 4,096 bytes of a cookie with its name and attributes.
	maxViewsCookie = 3800
	maxViews       = 20
	maxViewName    = 40 // characters, as the form's
)

// savable are the lists whose filters can be saved.
var savable = []string{lettersPath, deliveriesPath, replaysPath, targetsPath, historyPath}

// viewAddress returns the address of a list with its filters alone: without the page of the
// list, and what has just happened. It is "" for anything else than a filtered list.
func viewAddress(text string) string {
	u, err := url.Parse(access.LocalPath(text))
	if err != nil || !slices.Contains(savable, u.Path) {
		return ""
	}
	query := lasting(u.Query())
	for _, key := range []string{"after", "size", newerThan, "as_of"} {
		query.Del(key)
	}
	for key, values := range query { // a form sends its empty fields too
		if values[0] == "" {
			query.Del(key)
		}
	}
	if len(query) == 0 {
		return ""
	}
	return address(u.Path, query)
}

// savedViews reads the cookie. What is not a view that Certpost would save is ignored: a
// cookie can come from elsewhere.
func (r *request) savedViews() (views []savedView) {
	c, err := r.Cookie(viewsCookie)
	if err != nil || len(c.Value) > maxViewsCookie {
		return nil
	}
	text, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || json.Unmarshal(text, &views) != nil {
		return nil
	}
	views = slices.DeleteFunc(views, func(v savedView) bool {
		return !validName(v.Name) || v.Address == "" || v.Address != viewAddress(v.Address)
	})
	return views[:min(len(views), maxViews)]
}

// validName reports whether a view can have the name.
func validName(name string) bool {
	return name != "" && utf8.RuneCountInString(name) <= maxViewName && name == legible.Clean(name, 4*maxViewName)
}

// place is the path of the view's list.
func (v savedView) place() string {
	path, _, _ := strings.Cut(v.Address, "?")
	return path
}

// changeViews adds the view of the form's address, replacing one of the same list with the same
// name, or removes one, given by its address. It returns the cookie, and where to go.
func (r *request) changeViews(name, forgotten string) (*http.Cookie, string, error) {
	to := settingsPath + "?done=saved"
	views := slices.DeleteFunc(r.savedViews(), func(v savedView) bool { return v.Address == forgotten })
	if name != "" {
		at := viewAddress(r.PostFormValue("return"))
		views = slices.DeleteFunc(views, func(v savedView) bool {
			return v.Name == name && v.place() == savedView{name, at}.place() || v.Address == at
		})
		switch {
		case at == "":
			return nil, "", wrongf("Only a list with a filter can be saved as a view")
		case !validName(name):
			return nil, "", wrongf("Invalid name of a view: at most %d characters, without control characters", maxViewName)
		case len(views) == maxViews:
			return nil, "", wrongf("You have %d views already; remove one in the settings", maxViews)
		}
		views, to = append(views, savedView{name, at}), at+"&"+doneKey+"=saved"
	}
	text, err := json.Marshal(views)
	if err != nil {
		return nil, "", err
	}
	value := base64.RawURLEncoding.EncodeToString(text)
	if len(value) > maxViewsCookie {
		return nil, "", wrongf("Your views are too long for a cookie; remove one in the settings")
	}
	return r.kept(viewsCookie, value), to, nil
}

// viewsHere are the views of the request's list, and the address of the present one if it
// can be saved.
func (r *request) viewsHere() (views []viewLink, unsaved string) {
	if r.Method != http.MethodGet || !slices.Contains(savable, r.URL.Path) {
		return nil, ""
	}
	unsaved = viewAddress(r.URL.RequestURI())
	for _, v := range r.savedViews() {
		if v.place() != r.URL.Path {
			continue
		}
		views = append(views, viewLink{v, v.Address == unsaved})
		if v.Address == unsaved {
			unsaved = ""
		}
	}
	return views, unsaved
}

// viewLink is a saved view on the page of its list.
type viewLink struct {
	savedView
	Current bool
}
