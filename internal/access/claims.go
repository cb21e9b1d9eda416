package access

import (
	"maps"
	"slices"
	"strings"
)

// lookUp finds a claim: one that is called so, or what lies below one along the dots.
func lookUp(claims map[string]any, path string) (any, bool) {
	if value, found := claims[path]; found {
		return value, true
	}
	for at := 0; ; {
		dot := strings.IndexByte(path[at:], '.')
		if dot < 0 {
			return nil, false
		}
		at += dot
		if below, isMap := claims[path[:at]].(map[string]any); isMap {
			if value, found := lookUp(below, path[at+1:]); found {
				return value, true
			}
		}
		at++
	}
}

// texts are the values of a claim: one text, or those in a list.
func texts(value any) []string {
	switch value := value.(type) {
	case string:
		return []string{value}
	case []any:
		found := []string{}
		for _, item := range value {
			if text, isText := item.(string); isText {
				found = append(found, text)
			}
		}
		return found
	}
	return []string{}
}

// identity reads from the claims who it is.
func (p *provider) identity(subject string, claims map[string]any) *identity {
	who := &identity{subject: p.cfg.Issuer + "#" + subject, values: []string{}}
	value, found := lookUp(claims, p.cfg.RoleClaim)
	if found && (p.cfg.RoleClaim != "email" || claims["email_verified"] == true) {
		who.values = texts(value)
	}
	for _, claim := range []string{"preferred_username", "email", "name"} {
		if name, isText := claims[claim].(string); isText && shown(name, maxName) != "" {
			who.name = shown(name, maxName)
			break
		}
	}
	if who.name == "" {
		who.name = shown(subject, maxName)
	}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		if len(who.claims) < 50 {
			who.claims = append(who.claims, shown(name, 60))
		}
	}
	return who
}
