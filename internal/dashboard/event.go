package dashboard

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
)

// eventView is a letter's event, with its certificate shown separately.
type eventView struct {
	Text        string // indented if it is JSON
	Certificate string // as in the event; public
	Size        int    // of the whole event, in bytes
	Cut         bool   // Text is only the beginning
}

// maxEvent bounds how much of an event a page shows, in bytes.
const maxEvent = 64 << 10

// certificateField finds the certificate in an event. It matches a JSON string up to
// its closing quote.
var certificateField = regexp.MustCompile(`"certificate"\s*:\s*("(?:[^"\\]|\\.)*")`)

func newEventView(body []byte) eventView {
	v := eventView{Size: len(body)}
	if m := certificateField.FindSubmatchIndex(body); m != nil && json.Unmarshal(body[m[2]:m[3]], &v.Certificate) == nil {
		folded := strconv.Quote("(" + plural(m[3]-m[2]-2, "byte") + ", shown below)")
		body = bytes.Join([][]byte{body[:m[2]], []byte(folded), body[m[3]:]}, nil)
	}
	var indented bytes.Buffer
	if json.Indent(&indented, body, "", "  ") == nil {
		body = indented.Bytes()
	}
	if v.Cut = len(body) > maxEvent; v.Cut {
		body = body[:maxEvent]
	}
	v.Text = block(body)
	v.Certificate = block([]byte(v.Certificate[:min(len(v.Certificate), maxEvent)]))
	return v
}
