package dashboard

import (
	"errors"
	"fmt"
	"net/http"

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
}

// wrong is an invalid request: status 400.
type wrong struct{ says string }

func (e *wrong) Error() string { return e.says }

func wrongf(format string, a ...any) error { return &wrong{fmt.Sprintf(format, a...)} }

// errInRun says that a letter belongs to an unfinished replay.
var errInRun = errors.New("the dead letter is part of an unfinished replay")

// failure turns an error into its page. Error texts are Certpost's own words, so they
// may be shown in full.
func (p *pages) failure(r *request, err error) view {
	status, says := http.StatusServiceUnavailable, problem{}
	var conflict *desk.Conflict
	var misread *wrong
	switch {
	case errors.As(err, &conflict):
		status = http.StatusConflict
		says = problem{Title: "Another action came first", Letter: conflict.Number, First: &conflict.Record,
			Says: "Your action was not carried out, because another action came before it. Nothing was done twice.",
			Do:   "Check the outcome of that action before you act again."}
	case errors.As(err, &misread):
		status = http.StatusBadRequest
		says = problem{Title: "Invalid request", Says: sentence(misread.says), Do: "Correct the address or the form, or start again from the list."}
	case errors.Is(err, desk.ErrNotFound):
		status = http.StatusNotFound
		says = problem{Title: "Not found", Says: "No dead letter, group, replay or delivery has this address. A group disappears when its last letter leaves the list.",
			Do: "Search the audit for letters that are no longer on the list."}
	case errors.Is(err, desk.ErrHeld):
		status = http.StatusConflict
		says = problem{Title: "The letter is held", Letter: r.number(), Says: "A held letter cannot be replayed or discarded. Nothing was done.",
			Do: "The letter's page shows who holds it and why. Release it, or wait."}
	case errors.Is(err, errInRun), errors.Is(err, broker.ErrNotHeld):
		status = http.StatusConflict
		says = problem{Title: "Action not possible", Letter: r.number(), Says: "The letter is in an unfinished replay, or no longer held. Nothing was done.",
			Do: "Check the letter's page."}
	case errors.Is(err, desk.ErrNoReason):
		status = http.StatusUnprocessableEntity
		says = problem{Title: "A reason is required", Says: "The audit records the reason of every action. Nothing was done.", Do: "Go back and enter a reason."}
	case errors.Is(err, desk.ErrChanged):
		status = http.StatusConflict
		says = problem{Title: "The selection has changed", Says: "The query now finds other letters than those that were shown. Nothing was done.", Do: "Check the list and confirm again."}
	default:
		says = problem{Title: "Temporarily unavailable", Says: "Data for this page cannot be read or changed at the moment: " + sentence(err.Error()),
			Do: "Certpost keeps retrying. Reload this page in a moment. Nothing is lost: messages that are not acknowledged stay in NATS.",
			Works: []string{"The list of dead letters and the groups show what was last read.", "/healthz names each component that is unavailable; the log has details.",
				"Deliveries wait in JetStream and go out when it is available again."}}
		if r.Context().Err() == nil { // otherwise the browser has left the page
			p.log.Warn().Err(err).Str("method", r.Method).Str("page", section(r.URL.Path)).Msg("a page could not be served")
		}
	}
	return view{template: "problem", title: says.Title, status: status, data: says, object: map[string]string{"error": says.Title, "says": says.Says, "do": says.Do}}
}

// sentence adds a full stop to a text that has none.
func sentence(text string) string {
	if text == "" || text[len(text)-1] == '.' {
		return text
	}
	return text + "."
}
