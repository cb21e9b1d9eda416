package delivery

import (
	"strings"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/mailtext"
	"github.com/certpost/certpost/internal/payload"
)

// composed is the words of a mail.
type composed struct {
	subject string // not encoded
	text    string
	html    string // "" for none
}

// compose writes the words of a mail: those of templates, and of the default mail where there
// are none.
func compose(t *Target, m mailFacts) (c composed, err error) {
	words := t.words.or(m.words)
	var model *mailtext.Model
	if words.subject != nil || words.text != nil {
		model = newModel(t, m)
	}
	execute := func(made *mailtext.Template) string {
		if made == nil || err != nil {
			return ""
		}
		var text string
		if text, err = made.Execute(model); err != nil {
			err = renderFailure("the template "+err.Error()+"; correct it, then replay", nil)
		}
		return text
	}
	own := execute(words.subject)
	if words.text != nil {
		c.text, c.html = execute(words.text), execute(words.html)
	} else {
		view := newMailView(t, m)
		c.text, c.html = view.text(), view.html()
	}
	c.subject = subject(t, m, own)
	return c, err
}

// subject returns the subject: {prefix} Certpost: certificate for {CN} issued,
// expires {NotAfter}, or the target's own words after the prefix; with a warning at the end if
// there is one. That of an encrypted mail tells nothing, unless it has its own words.
func subject(t *Target, m mailFacts, own string) string {
	s := own
	switch {
	case s != "":
	case t.encrypts():
		s = m.product + ": encrypted certificate"
	default:
		s = m.product + ": certificate for " + legible.Header(legible.Name(m.bundle.Name(), maxShownName).Text, maxShownName) +
			" issued, expires " + expiry(m.bundle)
	}
	if prefix := legible.Header(t.SubjectPrefix, maxPrefix); prefix != "" {
		s = prefix + " " + s
	}
	if len(m.warnings) > 0 && !t.encrypts() {
		word, _ := m.bundle.DateProblem(m.now)
		s += strings.TrimRight(" - WARNING: "+word, ": ")
	}
	return s
}

func expiry(b *payload.Bundle) string { return b.Leaf.NotAfter.UTC().Format("2006-01-02") }
