package delivery

import (
	"cmp"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/mailtext"
)

// Templates are files with templates for the words of mails. docs/templates.md describes
// what they can use.
type Templates struct {
	// Subject is a file with the template of the subject, one line. subject_prefix comes
	// before it.
	Subject string `yaml:"subject"`
	// Text is a file with the template of the plain text. Without html, mails have no HTML.
	Text string `yaml:"text"`
	// HTML is a file with the template of the HTML document; it requires text.
	HTML string `yaml:"html"`
}

// IsZero reports whether nothing is set.
func (t Templates) IsZero() bool { return t == Templates{} }

func (t Templates) files() (all []templateFile) {
	for _, f := range []templateFile{{mailtext.Subject, t.Subject}, {mailtext.Text, t.Text}, {mailtext.HTML, t.HTML}} {
		if f.path != "" {
			all = append(all, f)
		}
	}
	return all
}

// templateFile is a file with the part of the mail that it is for.
type templateFile struct {
	kind mailtext.Kind
	path string
}

// Words are templates that were read and checked. The zero value stands for the words of
// the default mail.
type Words struct {
	subject, text, html *mailtext.Template
	digest              string           // of the content
	problems            []config.Problem // paths begin at the keys of Templates
}

// Problems returns what is wrong with the templates; paths are keys of Templates.
func (w *Words) Problems() []config.Problem {
	if w == nil {
		return nil
	}
	return w.problems
}

// or returns the templates, with those of others where there are none. Text and HTML belong
// together: a mail in two languages would say to each reader what he does not expect.
func (w *Words) or(others *Words) Words {
	var all Words
	if w != nil {
		all = *w
	}
	if others == nil {
		return all
	}
	all.subject = cmp.Or(all.subject, others.subject)
	if all.text == nil {
		all.text, all.html = others.text, others.html
	}
	return all
}

// ReadTemplates reads and checks templates.
func ReadTemplates(t Templates) *Words { return (&templateShelf{}).words(t) }

// templateShelf remembers the templates of one reading of the definitions: many targets share
// them.
type templateShelf struct {
	known map[templateFile]*shelved
	read  []file
}

type shelved struct {
	made     *mailtext.Template
	digest   string
	problems []config.Problem
}

// words returns the words of a target; nil if it has no templates.
func (s *templateShelf) words(t Templates) *Words {
	if t.IsZero() {
		return nil
	}
	w := &Words{}
	for _, f := range t.files() {
		got := s.get(f)
		w.problems = append(w.problems, got.problems...)
		w.digest += string(f.kind) + " " + got.digest + " "
		switch f.kind {
		case mailtext.Subject:
			w.subject = got.made
		case mailtext.Text:
			w.text = got.made
		case mailtext.HTML:
			w.html = got.made
		}
	}
	if t.HTML != "" && t.Text == "" {
		w.problems = append(w.problems, config.Problem{Path: "text", Message: "is required with html: programs that show no HTML need it"})
	}
	return w
}

func (s *templateShelf) get(f templateFile) *shelved {
	if got := s.known[f]; got != nil {
		return got
	}
	got := &shelved{}
	content := readFile(f.path)
	s.read = append(s.read, content)
	if content.err != nil {
		got.digest = content.err.Error()
		got.problems = []config.Problem{{Path: string(f.kind), Message: f.path + " " + content.err.Error()}}
	} else {
		made, problems := mailtext.Parse(f.kind, f.path, string(content.data))
		got.made = made
		for _, p := range problems {
			got.digest += p.Error()
			got.problems = append(got.problems, config.Problem{File: f.path, Line: p.Line, Column: p.Column, Path: string(f.kind), Message: p.Message})
		}
		if made != nil {
			got.digest = made.Digest()
		}
	}
	if s.known == nil {
		s.known = make(map[templateFile]*shelved)
	}
	s.known[f] = got
	return got
}

// validateTemplates reports the problems of the target's templates, and what they fail to
// tell.
func (t *Target) validateTemplates(v *validation) {
	for _, p := range t.words.Problems() {
		p.Path = "templates." + p.Path
		p.Message += " (target " + t.ID + ")"
		v.found = append(v.found, p)
	}
	if t.words == nil || config.Failed(t.words.problems) {
		return
	}
	if w := t.words; w.subject != nil && t.encrypts() && t.Encryption != encryption.Age && w.subject.Shows(anotherCertificate) {
		v.warn("templates.subject", "shows the certificate, and the subject of an encrypted mail is not encrypted")
	}
	for key, made := range map[string]*mailtext.Template{"templates.text": t.words.text, "templates.html": t.words.html} {
		if made == nil {
			continue
		}
		if !made.Shows(func(m *mailtext.Model) { m.Warnings = []string{"A warning."} }) {
			v.warn(key, "does not show .Warnings, such as that a certificate has expired")
		}
		if t.keyInClear() && !made.Shows(func(m *mailtext.Model) { m.KeyInClear = true }) {
			v.warn(key, "does not show by .KeyInClear that the mail has a private key that is not encrypted")
		}
	}
}

// anotherCertificate changes all that a model says of certificate and event.
func anotherCertificate(m *mailtext.Model) {
	*m = mailtext.Model{Product: m.Product, Target: m.Target, Contact: m.Contact, Payload: m.Payload, Encryption: m.Encryption,
		Name: mailtext.Name{ASCII: "other.example"}, Names: []mailtext.Name{{ASCII: "other.example"}}, DaysLeft: m.DaysLeft + 1, Issuer: "CN=other", Serial: "01",
		Labels: map[string]string{"env": "other", "owner": "other"}, EventID: "other", Source: "other"}
}
