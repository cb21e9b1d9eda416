package dashboard

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/desk"
)

// problem is a page about what did not work: what happened, and what to do.
type problem struct {
	Title  string
	Says   string
	Do     string
	Letter uint64 // to link, 0 for none
	// First is the action of somebody else that was before this one.
	First *broker.AuditRecord
	// Works is what can be done meanwhile.
	Works []string
}

// wrong is a request that cannot be understood: status 400.
type wrong struct{ says string }

func (e *wrong) Error() string { return e.says }

func wrongf(format string, a ...any) error { return &wrong{fmt.Sprintf(format, a...)} }

// errInRun says that a letter belongs to an unfinished replay.
var errInRun = errors.New("the dead letter is part of an unfinished replay")

// failure makes the page of an error. Texts of errors are our own words, so all of
// them may be shown.
func (p *pages) failure(r *request, err error) view {
	status, says := http.StatusServiceUnavailable, problem{}
	var conflict *desk.Conflict
	var misread *wrong
	switch {
	case errors.As(err, &conflict):
		status = http.StatusConflict
		says = problem{Title: "Somebody was first", Letter: conflict.Number, First: &conflict.Record,
			Says: "Another action on this came before yours. Yours was not carried out, and nothing was done twice.",
			Do:   "Look at what it came to before you act again."}
	case errors.As(err, &misread):
		status = http.StatusBadRequest
		says = problem{Title: "This cannot be understood", Says: sentence(misread.says), Do: "Correct the address or the form, or begin anew from the list."}
	case errors.Is(err, desk.ErrNotFound):
		status = http.StatusNotFound
		says = problem{Title: "There is no such thing", Says: "No dead letter, group, replay or delivery has this address. A group is gone when its last letter is.",
			Do: "The history shows what was done to letters that are not on the list any more."}
	case errors.Is(err, desk.ErrHeld):
		status = http.StatusConflict
		says = problem{Title: "It is held", Letter: r.number(), Says: "Somebody holds this letter while working on it, so it is neither replayed nor discarded.",
			Do: "The letter's page says who and why. Release it, or wait."}
	case errors.Is(err, errInRun), errors.Is(err, broker.ErrNotHeld):
		status = http.StatusConflict
		says = problem{Title: "Not as it is now", Letter: r.number(), Says: "The letter is not what this takes: it is part of an unfinished replay, or not held any more. Nothing was done.",
			Do: "The letter's page says how it is."}
	case errors.Is(err, desk.ErrNoReason):
		status = http.StatusUnprocessableEntity
		says = problem{Title: "A reason is needed", Says: "The history keeps why something was done, for whoever looks later.", Do: "Go back and say why, in a few words."}
	case errors.Is(err, desk.ErrChanged):
		status = http.StatusConflict
		says = problem{Title: "It is not the same any more", Says: "What the query finds now is not what was shown. Nothing was done.", Do: "Look at the list again and confirm anew."}
	default:
		says = problem{Title: "Not just now", Says: "What this page needs cannot be read, or changed, at present: " + sentence(err.Error()),
			Do: "Certpost goes on trying by itself. Load this page again in a moment. Nothing is lost meanwhile: what was not acknowledged stays where it is.",
			Works: []string{"The list of dead letters and the groups show what was last read.", "/healthz names each part that is away; the log says more.",
				"Deliveries wait in JetStream and go out when it is back."}}
		if r.Context().Err() == nil { // else the browser has gone elsewhere
			p.log.Warn().Err(err).Str("method", r.Method).Str("page", section(r.URL.Path)).Msg("a page could not be served")
		}
	}
	return view{template: "problem", title: says.Title, status: status, data: says, object: map[string]string{"error": says.Title, "says": says.Says, "do": says.Do}}
}

// sentence ends a text with a full stop.
func sentence(text string) string {
	if text == "" || text[len(text)-1] == '.' {
		return text
	}
	return text + "."
}
