package dashboard

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/legible"
)

// strictForms are the fields of each form, by its pattern. An unknown field is refused, as an
// unknown key of a request to the NATS service is: without a mistyped "recipients" or "reason" an
// action would be another one. The addresses of conditionForms have conditions as well, and
// desk.Conditions refuses what is neither.
var strictForms = map[string][]string{
	"POST /dead-letters/groups/{fingerprint}/handling": {"revision", "assignee", "was_assignee", "ticket", "was_ticket", "note"},
	"POST /dead-letters/undo":                          {"act"},
	"POST /dead-letters/{number}/replay":               {"reason", "uncertain", "force"},
	"POST /dead-letters/{number}/discard":              {"reason"},
	"POST /dead-letters/{number}/restore":              {"reason"},
	"POST /dead-letters/{number}/hold":                 {"reason"},
	"POST /dead-letters/{number}/release":              {"reason"},
	"POST /dead-letters/{number}/preflight":            {"recipients"},
	"POST /dead-letters/{number}/edit":                 {"target", "recipients", "reason", "uncertain", "confirm"},
	"POST /replays/{id}/pause":                         {"reason"},
	"POST /replays/{id}/resume":                        {"reason"},
	"POST /replays/{id}/cancel":                        {"reason"},
	"POST /deliveries/{target}/{event}/retry":          {"reason"},
	"POST /deliveries/{target}/{event}/cancel":         {"reason"},
	"POST /deliveries/{target}/{event}/resend":         {"to", "force", "reason", "confirm", "hash"},
	"POST /deliveries/{target}/{event}/rollback":       {"reason"},
	"POST /targets/{id}/check":                         {},
	"POST /relays/{lane}/suspend":                      {"reason", "for", "until"},
	"POST /relays/{lane}/resume":                       {"reason"},
	"POST /alerts/silence":                             {"alert", "for", "reason"},
	"POST /alerts/unsilence":                           {"alert", "reason"},
	"POST /settings":                                   {scheme.Field, keys.Field, times.Field, "return", "view", "forget"},
	"POST " + sessionsPath + "/end-others":             {},
	"POST " + sessionsPath + "/{id}/end":               {},
	"GET " + whoPath:                                   {"name", "key", "since", "view", "after", "size"},
}

// conditionForms are the forms with the conditions of a list.
var conditionForms = []string{"POST /dead-letters/bulk", "POST /dead-letters/preflight", "POST /deliveries/bulk", "POST " + resendPath, "POST " + resendPreflightPath}

// repeated are the fields that a form may have more than once: one for each row that is chosen.
var repeated = []string{"number", "delivery"}

// strict returns a page that refuses what its form cannot have: unknown fields, and a second value
// of a field.
func strict(pattern string, make page) page {
	known, listed := strictForms[pattern]
	if !listed && !slices.Contains(conditionForms, pattern) {
		return make
	}
	return func(r *request) (view, error) {
		values := r.PostForm
		if r.Method != http.MethodPost {
			values = r.URL.Query()
		}
		if err := checkFields(values, known, listed); err != nil {
			return view{}, err
		}
		return make(r)
	}
}

// checkFields checks the fields of a form. If they are not all listed, only their number is checked.
func checkFields(values url.Values, known []string, listed bool) error {
	var problems []string
	for name, all := range values {
		switch shown := legible.Clean(name, 60); {
		case listed && name != access.TokenField && !slices.Contains(known, name) && len(known) == 0:
			problems = append(problems, "unknown field "+shown+": the form has none")
		case listed && name != access.TokenField && !slices.Contains(known, name):
			problems = append(problems, "unknown field "+shown+legible.Meant(name, known))
		case len(all) > 1 && !slices.Contains(repeated, name):
			problems = append(problems, shown+": is given twice")
		}
	}
	if problems == nil {
		return nil
	}
	slices.Sort(problems)
	return wrongf("Invalid form: %s", strings.Join(problems, "; "))
}
