package dashboard

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
)

// eventView is a letter's event, with what is long in it folded away.
type eventView struct {
	Text        string // indented where it is JSON
	Certificate string // as the event has it; public
	Size        int    // of all of it, bytes
	Cut         bool
}

// maxEvent bounds how much of an event a page shows, in bytes.
const maxEvent = 64 << 10

// certificateField finds the certificate in an event: a JSON string is never
// longer than what stands between its quotes.
var certificateField = regexp.MustCompile(`"certificate"\s*:\s*("(?:[^"\\]|\\.)*")`)

func newEventView(body []byte) eventView {
	v := eventView{Size: len(body)}
	if m := certificateField.FindSubmatchIndex(body); m != nil && json.Unmarshal(body[m[2]:m[3]], &v.Certificate) == nil {
		folded := strconv.Quote("(" + plural(m[3]-m[2]-2, "byte") + ", folded below)")
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
