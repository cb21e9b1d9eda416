package delivery

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"io"
	"net/mail"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	gomail "github.com/wneessen/go-mail"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// message is a mail ready for the wire.
type message struct {
	from       string   // envelope sender
	recipients []string // envelope: deduplicated, A-labels
	raw        []byte   // CRLF line ends, not dot-stuffed; holds the private key when the payload does
	messageID  string   // with its angle brackets
	envelopeID string   // names the delivery in bounces
	needsUTF8  bool     // an address needs SMTPUTF8 (RFC 6531)
	files      []string // names of the attachments

	attached []verdict.File // for previews
	draft    *draft         // what raw was made of; raw itself, unless that was encrypted or signed
}

// release overwrites the mail. Nothing of it may be used afterwards, because another one gets
// its memory.
func (m *message) release() {
	if m != nil {
		clear(m.raw)
		m.raw = nil
		if m.draft != nil { // notices have none
			m.draft.release()
		}
	}
}

// mailFacts is the content of a mail.
type mailFacts struct {
	eventID     string
	source      string    // of the event
	time        time.Time // of the event; zero when it has none
	now         time.Time // the mail's Date; days left are counted from it
	bundle      *payload.Bundle
	attachments []payload.Attachment
	// recipients, when not nil, are the only ones still owed the mail; accepted
	// already have it.
	recipients, accepted []string
	// others are recipients besides those of the target; they are added to To.
	others []mailbox
	// possibleDuplicate marks a mail whose earlier outcome is unknown.
	possibleDuplicate bool
	// passphraseAt is where the passphrase of the file is; only a place in Vault is shown.
	passphraseAt secrets.Ref
	// sealing encrypts the mail; nil encrypts nothing.
	sealing *sealing
	signing signing
	// warnings are shown at the top of the mail; the subject then says WARNING.
	warnings []string
	// product is the name of the product in subject and bodies; "" is Certpost.
	product string
	// messageIDDomain is the right side of the Message-ID; "" is the domain of
	// the target's from_address.
	messageIDDomain string
	// words are the templates for targets without their own; nil for none.
	words *Words
	// labels are those of the event.
	labels map[string]string
}

// Limits on text from outside, in bytes. Together they keep every header line below
// the 998 bytes of RFC 5322 section 2.1.1, even if it has no spaces to be folded at:
// text that is not ASCII is written in encoded words, which are short. Text that the
// configuration allows is never cut: the limits there are in characters.
const (
	maxShownName = 100
	maxPrefix    = maxHeaderText * utf8.UTFMax
	maxFromName  = maxName * utf8.UTFMax
	maxProduct   = maxHeaderText * utf8.UTFMax
	maxEventID   = 200
)

// renderMail renders the mail for target t in memory, so that errors occur before a
// relay is dialled.
func renderMail(t *Target, m mailFacts) (made *message, err error) {
	m.product = legible.Header(m.product, maxProduct)
	if m.product == "" {
		m.product = "Certpost"
	}
	addresses, err := addressesOf(t, m.recipients, m.accepted, m.others)
	if err != nil {
		return nil, err
	}
	if m.messageIDDomain == "" {
		m.messageIDDomain = addresses.from.domain()
	}
	id := messageID(m.eventID, t.ID, m.messageIDDomain)
	d := drafts.Get().(*draft)
	defer func() {
		if err != nil {
			d.release()
		}
	}()
	subject, err := compose(t, m, d)
	if err != nil {
		return nil, err
	}

	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.SetMessageIDWithValue(strings.Trim(id, "<>"))
	msg.SetDateWithValue(m.now.UTC()) // do not reveal the local time zone
	msg.Subject(encodeWords(subject))
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834
	// Exchange sends automatic replies in spite of Auto-Submitted. Not "All": that
	// would also suppress bounces.
	msg.SetGenHeader("X-Auto-Response-Suppress", "OOF, AutoReply")
	msg.SetGenHeader("X-Certpost-Event-Id", legible.Header(shownEventID(t, m.eventID), maxEventID))
	msg.SetGenHeader("X-Certpost-Target", legible.Header(t.ID, 64))
	if m.possibleDuplicate {
		msg.SetGenHeader("X-Certpost-Possible-Duplicate", "yes")
	}
	setHeaders(msg, t, m)
	msg.SetAddrHeaderFromMailAddress(gomail.HeaderFrom, &mail.Address{Name: fromName(t, m.product), Address: string(addresses.from)})
	msg.SetAddrHeaderFromMailAddress(gomail.HeaderTo, headerAddresses(addresses.to)...)
	if len(addresses.cc) > 0 {
		msg.SetAddrHeaderFromMailAddress(gomail.HeaderCc, headerAddresses(addresses.cc)...)
	}
	if addresses.replyTo != "" {
		msg.SetAddrHeaderFromMailAddress(gomail.HeaderReplyTo, headerAddresses([]mailbox{addresses.replyTo})...)
	}
	msg.SetBodyWriter(gomail.TypeTextPlain, writerOf(d.text.Bytes()), gomail.WithPartEncoding(bodyEncoding))
	if d.html.Len() > 0 {
		msg.AddAlternativeWriter(gomail.TypeTextHTML, writerOf(d.html.Bytes()), gomail.WithPartEncoding(bodyEncoding))
	}
	size := d.text.Len() + d.html.Len()
	files := make([]string, 0, len(m.attachments))
	attached := make([]verdict.File, 0, len(m.attachments))
	for _, a := range m.attachments {
		files = append(files, a.Name)
		attached = append(attached, verdict.File{Name: a.Name, About: a.About, Bytes: len(a.Data)})
		msg.AttachReadSeeker(a.Name, bytes.NewReader(a.Data),
			gomail.WithFileContentType(gomail.ContentType(a.ContentType)), gomail.WithFileEncoding(gomail.EncodingB64))
		size += len(a.Data)
	}

	if err := m.signing.message(msg); err != nil {
		return nil, renderFailure("the mail cannot be signed with sign.smime", err)
	}
	d.raw.Grow(size*3/2 + 8<<10) // base64 and headers; growing would leave copies of the key in memory
	if _, err := msg.WriteTo(&d.raw); err != nil {
		return nil, renderFailure("the mail cannot be assembled", err)
	}
	wire := d.raw.Bytes()
	if m.sealing != nil {
		if wire, err = m.sealing.mail(wire); err != nil {
			return nil, err
		}
	}
	if wire, err = m.signing.wire(wire); err != nil {
		return nil, err
	}
	return &message{
		from: addresses.from.wire(), recipients: addresses.envelope, raw: wire,
		messageID: id, envelopeID: envelopeID(shownEventID(t, m.eventID), t.ID), needsUTF8: addresses.utf8,
		files: files, attached: attached, draft: d,
	}, nil
}

// bodyEncoding is quoted-printable, in a spelling of its own: names of encodings have no case (RFC
// 2045, section 6.1). go-mail writes a body whose encoding it does not know by name as
// quoted-printable straight into the mail. One with its own name, gomail.EncodingQP, it encodes
// into a buffer of its own first, which grows from nothing: a quarter of a mail's memory.
const bodyEncoding gomail.Encoding = "Quoted-Printable"

// writerOf returns the function by which go-mail writes a body.
func writerOf(body []byte) func(io.Writer) (int64, error) {
	return func(w io.Writer) (int64, error) {
		n, err := w.Write(body)
		return int64(n), err
	}
}

// shownEventID returns what an event is called where everybody can read it: in a header and
// in the envelope. The id may have names of the certificate in it, so that of an encrypted
// mail is a hash, the one that the ledger uses for ids that are no tokens.
func shownEventID(t *Target, id string) string {
	if t.encrypts() {
		return events.Token("\x00" + id)
	}
	return id
}

func renderFailure(reason string, cause error) error {
	return verdict.Fail(verdict.SMTPValidation, verdict.PhaseRender, reason).Because(cause)
}

// fromName returns the sender's display name. net/mail leaves a backslash as it is
// in an encoded word, although RFC 2047 section 5 forbids it in a name: some programs
// then find no address at all.
func fromName(t *Target, product string) string {
	name := legible.Header(t.FromName, maxFromName)
	if name == "" {
		name = product
	}
	if legible.Internationalised(name) {
		name = strings.ReplaceAll(name, `\`, "/")
	}
	return name
}

// encodeWords encodes a header's text, which has single spaces, as RFC 2047
// requires. It encodes only the words that are not ASCII, in pieces so short that
// the first one fits on the line of the header's name: go-mail puts longer ones on
// the next line, and mail programs then show a space in front of the text.
func encodeWords(s string) string {
	const piece = 16 // bytes, 3 characters each at most
	var out []string
	run := "" // words that are not ASCII: the spaces between them are encoded, too
	flush := func() {
		for len(run) > 0 {
			end := min(len(run), piece)
			for end < len(run) && !utf8.RuneStart(run[end]) {
				end--
			}
			out = append(out, encodedWord(run[:end]))
			run = run[end:]
		}
	}
	for word := range strings.SplitSeq(s, " ") {
		switch {
		case !legible.Internationalised(word):
			flush()
			out = append(out, word)
		case run == "":
			run = word
		default:
			run += " " + word
		}
	}
	flush()
	return strings.Join(out, " ")
}

// encodedWord returns s as one encoded word in "Q" encoding; letters and digits are
// not changed.
func encodedWord(s string) string {
	var b strings.Builder
	b.WriteString("=?utf-8?q?")
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	b.WriteString("?=")
	return b.String()
}

// messageID returns the Message-ID of a delivery. It is the same for every attempt,
// so that a mail server can recognise a duplicate. With its angle brackets it has at
// most 60 characters, because longer ones are folded onto their own line, which some
// programs cannot read; a long domain loses its first labels.
func messageID(eventID, target, domain string) string {
	const length, most = 20, 60 // 100 bits of the hash
	sum := sha256.Sum256([]byte(eventID + "\x00" + target))
	hash := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:length]
	return "<" + hash + "@" + shortDomain(domain, most-length-len("<@>")) + ">"
}

// shortDomain returns a domain of at most that length, without its first labels if it is
// longer. An address literal, also IPv6, is reduced to characters of atoms.
func shortDomain(domain string, most int) string {
	domain = payload.FileName(strings.Trim(domain, "[]"))
	for len(domain) > most {
		_, rest, ok := strings.Cut(domain, ".")
		if !ok {
			rest = "certpost.invalid"
		}
		domain = rest
	}
	return domain
}

// envelopeID returns the ENVID of a delivery, which comes back in bounces as their
// Original-Envelope-Id: target.event, as the ledger's key. A long event id is hashed,
// because an ENVID has at most 100 characters.
func envelopeID(eventID, target string) string {
	const most = 100
	id := target + "." + events.Token(eventID)
	if len(id) > most {
		id = target + "." + events.Token("\x00"+eventID) // not a token, so it is hashed
	}
	return id
}

// mailbox is an address with its local part unquoted and its domain in lower case
// and A-labels. Equal ones are the same mailbox as far as a sender can know.
type mailbox string

func (b mailbox) domain() string { return string(b[strings.LastIndexByte(string(b), '@')+1:]) }

// wire returns the address as in an SMTP command, with the local part quoted if
// necessary.
func (b mailbox) wire() string {
	return strings.TrimSuffix(strings.TrimPrefix((&mail.Address{Address: string(b)}).String(), "<"), ">")
}

func headerAddresses(boxes []mailbox) []*mail.Address {
	list := make([]*mail.Address, len(boxes))
	for i, b := range boxes {
		list[i] = &mail.Address{Address: string(b)}
	}
	return list
}

// addresses are the addresses of one mail. Those in bcc are only in envelope.
type addresses struct {
	from, replyTo mailbox
	to, cc        []mailbox
	envelope      []string
	utf8          bool
}

// addressesOf parses the target's addresses. The envelope has the target's
// recipients and others (named by a replay and allowed by the configuration); owed,
// when not nil, limits it to the recipients that still need the mail, and accepted
// never get it again. A recipient in owed that is no longer the target's gets
// nothing. The headers always name the recipients of the whole mail.
func addressesOf(t *Target, owed, accepted []string, others []mailbox) (*addresses, error) {
	a := &addresses{}
	var replyTo, bcc, from []mailbox
	seen := make(map[mailbox]bool)
	for _, list := range []struct {
		key  string
		in   []string
		out  *[]mailbox
		once bool // not again when an earlier list has it
	}{
		{"from_address", []string{t.FromAddress}, &from, false},
		{"reply_to", given(t.ReplyTo), &replyTo, false},
		{"to", t.To, &a.to, true},
		{"cc", t.CC, &a.cc, true},
		{"bcc", t.BCC, &bcc, true},
	} {
		for _, address := range list.in {
			b, err := t.mailbox(list.key, address)
			if err != nil {
				return nil, err
			}
			if !list.once || !seen[b] {
				*list.out = append(*list.out, b)
			}
			seen[b] = seen[b] || list.once
		}
	}
	a.from = from[0]
	a.to = append(a.to, others...)
	if len(replyTo) > 0 {
		a.replyTo = replyTo[0]
	}

	wanted, served := mailboxes(owed), mailboxes(accepted)
	for _, b := range slices.Concat(a.to, a.cc, bcc) {
		if (owed == nil || wanted[b]) && !served[b] {
			a.envelope = append(a.envelope, b.wire())
		}
	}
	if len(a.envelope) == 0 {
		reason := "all recipients of the target already have the mail; discard the dead letter"
		if owed != nil {
			reason = "none of the recipients still owed the mail is a recipient of the target any more; replay to send it to the target's current recipients"
		}
		return nil, verdict.Fail(verdict.TargetInvalid, verdict.PhaseRender, reason)
	}
	inHeaders := slices.Concat(from, replyTo, a.to, a.cc)
	a.utf8 = slices.ContainsFunc(inHeaders, func(b mailbox) bool { return legible.Internationalised(string(b)) }) ||
		slices.ContainsFunc(a.envelope, legible.Internationalised)
	return a, nil
}

// mailboxes returns a set of addresses; those that are not valid are left out.
func mailboxes(list []string) map[mailbox]bool {
	set := make(map[mailbox]bool, len(list))
	for _, address := range list {
		if b, err := parseMailbox("", address); err == nil {
			set[b] = true
		}
	}
	return set
}

// mailbox parses an address of the target's definition, unless define has.
func (t *Target) mailbox(key, address string) (mailbox, error) {
	if b, known := t.mailboxes[address]; known {
		return b, nil
	}
	return parseMailbox(key, address)
}

// parseAddresses parses the addresses of the definition that are valid and the same for each
// mail.
func (t *Target) parseAddresses() {
	t.mailboxes = make(map[string]mailbox)
	for _, address := range slices.Concat(given(t.FromAddress), given(t.ReplyTo), t.To, t.CC, t.BCC) {
		if b, err := parseMailbox("", address); err == nil {
			t.mailboxes[address] = b
		}
	}
}

func given(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// parseMailbox parses an address of the target's definition. It was validated when
// it was loaded and is validated again, because it becomes part of an SMTP command.
func parseMailbox(key, address string) (mailbox, error) {
	if problem := wrongAddress(address); problem != "" {
		return "", verdict.Fail(verdict.TargetInvalid, verdict.PhaseRender, "the target's "+key+" "+problem)
	}
	parsed, err := mail.ParseAddress(address)
	if err != nil {
		return "", renderFailure("the target's "+key+" is not an address", err)
	}
	at := strings.LastIndexByte(parsed.Address, '@')
	local, domain := parsed.Address[:at], parsed.Address[at+1:]
	if !strings.HasPrefix(domain, "[") {
		domain = nameOf(domain).ascii
	}
	return mailbox(local + "@" + domain), nil
}
