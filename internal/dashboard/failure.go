package dashboard

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// problem is an error page: what happened, and what to do.
type problem struct {
	Title  string
	Says   string
	Do     string
	Letter uint64 // the letter to link to, 0 for none
	// First is the action that came before the refused one.
	First *broker.AuditRecord
	// Works lists what still works.
	Works []string
	// Renews says that the page asks for itself again until it can be shown.
	Renews bool
}

// renewEvery is how often a page that waits for something asks for itself again, in
// seconds: one that is temporarily unavailable, or shows less than there is.
const renewEvery = 5

const problemTemplate = "problem"

// wrongf is a request that cannot be read: status 400.
func wrongf(format string, a ...any) error { return &desk.Invalid{Text: fmt.Sprintf(format, a...)} }

// failure turns an error into its page. Error texts are Certpost's own words, so they
// may be shown in full.
func (p *pages) failure(r *request, err error) view {
	status, page := desk.StatusOf(err), problem{}
	var conflict *desk.Conflict
	switch {
	case errors.As(err, &conflict):
		page = problem{Title: "Another action came first", Letter: conflict.Number, First: &conflict.Record,
			Says: says(err) + " Your action was not carried out, because that one came before it. Nothing was done twice.",
			Do:   "Check the outcome of that action before you act again."}
	case status == http.StatusBadRequest:
		page = problem{Title: "Invalid request", Says: says(err), Do: "Correct the address or the form, or start again from the list."}
	case status == http.StatusForbidden:
		page = problem{Title: "Not allowed", Letter: r.number(), Says: says(err) + " Nothing was done.", Do: "Ask the administrator of Certpost to allow it in the configuration."}
	case status == http.StatusNotFound:
		page = problem{Title: "Not found", Says: says(err),
			Do: "It may have left the list. The audit has every action on a letter and every replay run."}
	case errors.Is(err, desk.ErrHeld):
		page = problem{Title: "The letter is held", Letter: r.number(), Says: says(err) + " A held letter cannot be replayed or discarded. Nothing was done.",
			Do: "The letter's page shows who holds it and why. Release it, or wait."}
	case errors.Is(err, desk.ErrChanged):
		page = problem{Title: "The selection has changed", Says: says(err) + " Nothing was done.", Do: "Check the list and confirm again."}
	case status == http.StatusConflict:
		page = problem{Title: "Action not possible", Letter: r.number(), Says: says(err) + " Nothing was done.", Do: "Check the letter's page."}
	case status == http.StatusUnprocessableEntity:
		page = problem{Title: "Check what was entered", Says: says(err) + " Nothing was done.", Do: "Go back and correct it."}
	default:
		page = problem{Title: "Temporarily unavailable", Says: "Data for this page cannot be read or changed at the moment: " + sentence(err.Error()),
			Do: "Certpost keeps retrying, and this page renews itself when the data is back. Nothing is lost: messages that are not acknowledged stay in NATS.",
			Works: []string{"The list of dead letters and the groups show what was last read.", "/healthz names each component that is unavailable; the log has details.",
				"Deliveries wait in JetStream and go out when it is available again."}}
		if page.Renews = r.Method == http.MethodGet; !page.Renews {
			page.Do = "Certpost keeps retrying. Go back, check whether the action was carried out, and repeat it if it was not. Nothing is lost: messages that are not acknowledged stay in NATS."
		}
		if r.Context().Err() == nil { // otherwise the browser has left the page
			p.log.Warn().Err(err).Str("method", r.Method).Str("page", section(r.URL.Path)).Msg("a page could not be served")
		}
	}
	return view{template: problemTemplate, title: page.Title, status: status, data: page, renews: page.Renews, object: map[string]any{"status": status, "error": err.Error(), "do": page.Do}}
}

// sentence adds a full stop to a text that does not end a sentence.
func sentence(text string) string {
	if text == "" || strings.ContainsRune(".?!", rune(text[len(text)-1])) {
		return text
	}
	return text + "."
}

// says is the text of a refusal as a sentence of a page. Every door shows the same text.
func says(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	first, n := utf8.DecodeRuneInString(text)
	return sentence(string(unicode.ToUpper(first)) + text[n:])
}
