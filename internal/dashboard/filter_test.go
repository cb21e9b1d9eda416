package dashboard

import (
	"net/url"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
)

// A filter that no letter matches stays selected in the form; otherwise the next search
// would silently drop it.
func TestFilterKeepsWhatNothingFits(t *testing.T) {
	t.Parallel()
	o := openOffice(t, officeConfig{})
	answer := o.visitor().opens("/dead-letters?code=SMTP_TLS&phase=starttls")
	for _, option := range []string{`<option value="SMTP_TLS" selected>`, `<option value="starttls" selected>`} {
		if !strings.Contains(answer.body, option) {
			t.Errorf("the form has no %s", option)
		}
	}
}

// The search is always shown, the other fields only when one of them is used; conditions
// without a field are sent along.
func TestFiltersAreFolded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		query, shown, hidden string
		used                 bool
	}{
		{"", "q", "", false},
		{"q=ops", "q", "", false},
		{"target=ops", "q", "", true},
		{"group=1234", "q", "group", false},
	} {
		query, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		fields := filterFields(desk.LetterConditions.All(), query, nil)
		if got := keysOf(fields.Shown()); got != c.shown {
			t.Errorf("%q: %s is shown, want %s", c.query, got, c.shown)
		}
		if got := keysOf(fields.Hidden()); got != c.hidden {
			t.Errorf("%q: %s is hidden, want %s", c.query, got, c.hidden)
		}
		if folded := fields.Folded(); len(folded) < fewFields || folded.Used() != c.used {
			t.Errorf("%q: %s are folded, used: %v", c.query, keysOf(folded), folded.Used())
		}
	}
	few := filterFields(desk.LetterConditions.All()[:3], nil, nil)
	if len(few.Shown()) != len(few) || len(few.Folded()) != 0 {
		t.Errorf("%d of %d fields are folded", len(few.Folded()), len(few))
	}
}

func keysOf(fields formFields) string {
	var keys []string
	for _, f := range fields {
		keys = append(keys, f.Key)
	}
	return strings.Join(keys, " ")
}
