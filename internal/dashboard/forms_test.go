package dashboard

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/access"
)

// Every form says which fields it has.
func TestEveryFormIsStrict(t *testing.T) {
	t.Parallel()
	p := &pages{}
	var patterns []string
	for _, route := range append(p.routes(), p.sessionRoutes()...) {
		patterns = append(patterns, route.pattern)
		if _, listed := strictForms[route.pattern]; strings.HasPrefix(route.pattern, "POST ") && listed == slices.Contains(conditionForms, route.pattern) {
			t.Errorf("%s is in neither list of forms, or in both", route.pattern)
		}
	}
	for pattern := range strictForms {
		if !slices.Contains(patterns, pattern) {
			t.Errorf("%s is no page", pattern)
		}
	}
}

// A form has its fields, each once, except those of rows.
//
// Fault: a request or a form with a key that is mistyped, in another case or given twice. Result: refused with the nearest known key.
func TestFieldsOfForms(t *testing.T) {
	t.Parallel()
	replay := strictForms["POST /dead-letters/{number}/replay"]
	for form, want := range map[string]string{
		"reason=x&uncertain=yes&" + access.TokenField + "=t": "",
		"":                                 "",
		"reson=x":                          "Invalid form: unknown field reson: did you mean reason?",
		"Reason=x":                         "Invalid form: unknown field Reason: did you mean reason?",
		"colour=x":                         "Invalid form: unknown field colour: want one of reason, uncertain, force",
		"reason=x&reason=y":                "Invalid form: reason: is given twice",
		"reason=x&reason=y&a%0ab=1&forc=1": `Invalid form: reason: is given twice; unknown field `,
	} {
		values, err := url.ParseQuery(form)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := checkFields(values, replay, true); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) || want == "" && got != "" || strings.Contains(got, "\n") {
			t.Errorf("%s: %q, want %q", form, got, want)
		}
	}
	if err := checkFields(url.Values{"reason": {"x"}}, nil, true); err == nil || err.Error() != "Invalid form: unknown field reason: the form has none" {
		t.Errorf("a form without fields: %v", err)
	}
	if err := checkFields(url.Values{"number": {"1", "2"}, "code": {"A"}, "delivery": {"a/b", "c/d"}}, nil, false); err != nil {
		t.Errorf("rows that are chosen: %v", err)
	}
}

// An order that cannot be read says so in whole sentences.
func TestNothingDone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"unknown key taget: did you mean target?": "unknown key taget: did you mean target? Nothing was done",
		"state: unknown value":                    "state: unknown value. Nothing was done",
	} {
		if got := nothingDone(errors.New(text)).Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
