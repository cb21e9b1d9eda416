package delivery

import (
	"bytes"
	"strings"
	"sync"

	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/mailtext"
	"github.com/certpost/certpost/internal/payload"
)

// draft has the buffers of one mail. Those of mails that were sent are used again: growing new
// ones costs more than all else that a mail needs memory for.
type draft struct {
	text, html bytes.Buffer // the bodies; no html: empty
	raw        bytes.Buffer // the mail: headers, bodies, files
}

var drafts = sync.Pool{New: func() any { return new(draft) }}

// maxKeptDraft is the size in bytes from which the buffer of a mail is not kept.
const maxKeptDraft = 256 << 10

// release overwrites what the draft holds and lets another mail have it.
func (d *draft) release() {
	for _, b := range []*bytes.Buffer{&d.text, &d.html, &d.raw} {
		clear(b.Bytes())
		b.Reset()
	}
	if d.raw.Cap() <= maxKeptDraft {
		drafts.Put(d)
	}
}

// compose writes the words of a mail, those of templates, and of the default mail where there
// are none: the bodies into the draft. It returns the subject, not encoded.
func compose(t *Target, m mailFacts, into *draft) (string, error) {
	words := t.words.or(m.words)
	var model *mailtext.Model
	if words.subject != nil || words.text != nil {
		model = newModel(t, m)
	}
	var err error
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
		into.text.WriteString(execute(words.text))
		into.html.WriteString(execute(words.html))
	} else {
		view := newMailView(t, m)
		view.writeText(&into.text)
		view.writeHTML(&into.html)
	}
	return subject(t, m, own), err
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
