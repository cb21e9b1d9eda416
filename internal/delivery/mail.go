package delivery

import (
	"errors"
	"time"
)

// message is a mail ready for the wire.
type message struct {
	from       string   // envelope sender
	recipients []string // envelope: deduplicated, A-labels
	raw        []byte   // CRLF line ends, not dot-stuffed
	messageID  string   // with its angle brackets
	needsUTF8  bool     // an address needs SMTPUTF8
}

// mailFacts is what a mail says.
type mailFacts struct {
	eventID     string
	source      string    // of the event
	time        time.Time // of the event; zero when it has none
	now         time.Time // the mail's Date
	bundle      *bundle
	attachments []attachment
	// recipients, when not nil, are the only ones still owed.
	recipients []string
	// possibleDuplicate marks a mail whose earlier outcome is unknown.
	possibleDuplicate bool
	// warnings stand on top of the mail, and the subject says there are some.
	warnings []string
	// product is the name we go by; "" is Certpost.
	product string
	// messageIDDomain is the right side of the Message-ID; "" is the domain of
	// the target's from_address.
	messageIDDomain string
}

// renderMail makes the mail for target t, in memory.
func renderMail(t *Target, m mailFacts) (*message, error) {
	return nil, payloadFailure("mails cannot be rendered yet", errors.ErrUnsupported)
}
