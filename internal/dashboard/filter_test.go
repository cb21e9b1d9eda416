package dashboard

import (
	"strings"
	"testing"
)

// A filter that no letter fits stays chosen in the form: the next search would drop
// it unseen.
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
