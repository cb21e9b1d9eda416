package dashboard

import (
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// mailView is the preview of a target's mail.
type mailView struct {
	targetRow
	Mail     *verdict.MailView
	Problem  string // why there is none
	Text     string // the plain text, without what cannot be seen
	Body     string // the address of its HTML
	Commands []command
}

func mailAddress(target string) string { return targetAddress(target) + "/mail" }

// mail shows the mail that a target would send for a sample certificate.
func (p *pages) mail(r *request) (view, error) {
	t, err := p.targetOf(r)
	if err != nil {
		return view{}, err
	}
	made, failure := p.desk.Preview(t.ID)
	page := view{template: "mail", title: "Mail of target " + t.ID, frames: true, data: newMail(t.targetRow, made, failure), object: made}
	if made == nil {
		page.object = failure
	}
	return page, nil
}

func newMail(t targetRow, made *verdict.MailView, failure *verdict.Failure) mailView {
	v := mailView{targetRow: t, Mail: made, Body: mailAddress(t.ID) + "/body", Commands: []command{
		{"certpost", shellLine("certpost", "render", "--target="+t.ID, "-o", "mail.eml")},
	}}
	if failure != nil {
		v.Problem = failure.Reason
	}
	if made != nil {
		v.Text = strings.Map(func(r rune) rune {
			if r != '\n' && r != '\t' && legible.Hidden(r) {
				return utf8.RuneError
			}
			return r
		}, made.Text)
	}
	return v
}

// mailBody serves the HTML of that mail as it is, for a frame. Its policy is that of a mail
// program: no scripts, nothing from elsewhere, no forms, and an origin of its own.
func (p *pages) mailBody(w http.ResponseWriter, r *http.Request, _ access.Visit) {
	made, failure := p.desk.Preview(r.PathValue("id"))
	if failure != nil || made == nil || made.HTML == "" {
		http.Error(w, "There is no mail to show.", http.StatusNotFound)
		return
	}
	access.Framed(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = io.WriteString(w, made.HTML) // the client may have closed the connection
}
