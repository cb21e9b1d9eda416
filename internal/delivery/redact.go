package delivery

import (
	"bytes"
	"strings"

	"github.com/certpost/certpost/internal/verdict"
)

// redactor has what a relay's reply must not carry into a log or a page. Content
// filters often quote what they refuse, and that may be a line of the key.
type redactor struct {
	content    []byte // of the mail, without its header: attachments are in base64
	key        []byte // PEM
	passphrase []byte
}

func newRedactor(msg *message, p *provisions) redactor {
	_, content, _ := bytes.Cut(msg.raw, []byte("\r\n\r\n"))
	return redactor{content, p.key, p.passphrase}
}

// shortestQuote is the length, in characters of base64, from which a part of a reply
// that also occurs in the mail counts as a quote: 72 to 96 bits of a key. Names and
// sentences have dots and spaces, which base64 does not have.
const shortestQuote = 16

// in reports whether a text quotes the mail, the key or the passphrase.
func (q redactor) in(text string) bool {
	if len(q.passphrase) >= 4 && strings.Contains(text, string(q.passphrase)) {
		return true
	}
	run := 0
	for i := range len(text) {
		if !isBase64(text[i]) {
			run = 0
			continue
		}
		if run++; run < shortestQuote {
			continue
		}
		piece := []byte(text[i+1-shortestQuote : i+1])
		if bytes.Contains(q.content, piece) || bytes.Contains(q.key, piece) {
			return true
		}
	}
	return false
}

func isBase64(c byte) bool {
	return 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '+' || c == '/' || c == '='
}

// leftOut replaces a reply that quotes the mail.
const leftOut = "(left out: the relay repeated a part of the mail)"

// redact removes quotes of the mail from all replies of the relay.
func (q redactor) redact(receipt *verdict.Receipt, f *verdict.Failure) {
	if receipt != nil {
		if q.in(receipt.Reply) {
			receipt.Reply = leftOut
		}
		if q.in(receipt.QueueID) {
			receipt.QueueID = ""
		}
	}
	if f == nil {
		return
	}
	if q.in(f.Reply) {
		f.Reply = leftOut
	}
	for i := range f.Refused {
		if q.in(f.Refused[i].Reply) {
			f.Refused[i].Reply = leftOut
		}
	}
	if f.Transcript == nil {
		return
	}
	for i, line := range f.Transcript.Dialogue {
		if said, theirs := strings.CutPrefix(line, "S: "); theirs && q.in(said) {
			code, _, _ := strings.Cut(said, " ")
			f.Transcript.Dialogue[i] = "S: " + code + " " + leftOut
		}
	}
}
