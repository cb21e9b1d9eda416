package dashboard

import (
	"strings"
	"testing"
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
