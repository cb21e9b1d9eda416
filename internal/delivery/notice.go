package delivery

import (
	"bytes"
	"context"
	"fmt"
	"net/mail"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// Notice is a mail without a certificate, to the operators. It is plain text, and is not encrypted.
type Notice struct {
	ID      string // the left side of the Message-ID; the same for each try
	Subject string
	Text    string
	To      []string
}

// maxNoticeSubject is the length of the longest subject, in bytes.
const maxNoticeSubject = 400

// Notify sends a notice through a target's relay or its fallbacks, with the target's login, sender and
// DKIM key. It is a single try. If some recipients were accepted, there is a receipt besides the failure.
func (c *Courier) Notify(ctx context.Context, target string, n Notice) (*verdict.Receipt, *verdict.Failure) {
	a := &attempt{Courier: c, order: verdict.Attempt{Target: target, Number: 1, Claim: func(time.Time) error { return nil }}, defs: c.book.Current(), started: time.Now()}
	defer a.clear()
	t, failure := lookUp(a.defs, target)
	if failure == nil {
		failure = t.isMail()
	}
	if failure != nil {
		return nil, failure
	}
	a.target = t.forNotice(n.To)
	a.p = targetProvisions(t)
	if failure := c.login(ctx, a.target, a.p); failure != nil {
		return nil, failure
	}
	if a.msg, failure = a.notice(ctx, n); failure != nil {
		return nil, failure
	}
	receipt, failure := a.send(ctx).Verdicts()
	newRedactor(a.msg, a.p).redact(receipt, failure)
	return receipt, a.target.explainLogin(failure)
}

// CheckNotice returns what keeps notices from being sent through a target to these recipients:
// problems of the keys target and to.
func (d *Definitions) CheckNotice(target string, to []string) []config.Problem {
	v := &validation{}
	switch t, ok := d.Get(target); {
	case !ok:
		v.err("target", "target %q is not defined%s", legible.Clean(target, 80), nearest(target, d))
	case t.Disabled:
		v.err("target", "target %q is disabled", target)
	case t.onHost():
		v.err("target", "target %q is on a mail host: want one with a relay", target)
	}
	for i, address := range to {
		if _, err := parseMailbox("to", address); err != nil {
			v.err(fmt.Sprintf("to[%d]", i), "want an address such as ops@example.com")
		}
	}
	return v.found
}

// forNotice is the target with other recipients.
func (t *Target) forNotice(to []string) *Target {
	other := *t
	other.To, other.CC, other.BCC, other.ReplyTo, other.AllOrNothing = to, nil, nil, "", false
	return &other
}

// notice renders the mail.
func (a *attempt) notice(ctx context.Context, n Notice) (*message, *verdict.Failure) {
	t, now := a.target, time.Now()
	addresses, err := addressesOf(t, nil, nil, nil)
	if err != nil {
		return nil, asFailure(err)
	}
	domain := a.opts.MessageIDDomain
	if domain == "" {
		domain = addresses.from.domain()
	}
	id := "<" + legible.Header(n.ID, 64) + "@" + domain + ">"
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.SetMessageIDWithValue(strings.Trim(id, "<>"))
	msg.SetDateWithValue(now.UTC())
	msg.Subject(encodeWords(legible.Header(n.Subject, maxNoticeSubject)))
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834
	msg.SetGenHeader("X-Auto-Response-Suppress", "OOF, AutoReply")
	msg.SetAddrHeaderFromMailAddress(gomail.HeaderFrom, &mail.Address{Name: fromName(t, a.opts.Product), Address: string(addresses.from)})
	msg.SetAddrHeaderFromMailAddress(gomail.HeaderTo, headerAddresses(addresses.to)...)
	msg.SetBodyString(gomail.TypeTextPlain, n.Text)
	signing, failure := a.dkimOnly(ctx, now)
	if failure != nil {
		return nil, failure
	}
	var raw bytes.Buffer
	if _, err := msg.WriteTo(&raw); err != nil {
		return nil, asFailure(renderFailure("the mail cannot be assembled", err))
	}
	wire, err := signing.wire(raw.Bytes())
	if err != nil {
		return nil, asFailure(err)
	}
	return &message{from: addresses.from.wire(), recipients: addresses.envelope, raw: wire, messageID: id, envelopeID: legible.Header(n.ID, 64), needsUTF8: addresses.utf8}, nil
}

// dkimOnly fetches the target's DKIM key, unless its path is that of an event's certificate.
func (a *attempt) dkimOnly(ctx context.Context, now time.Time) (signing, *verdict.Failure) {
	t := *a.target
	t.Sign = Sign{}
	if needsCertificate(t.DKIM.PrivateKey) {
		return signing{}, nil
	}
	return a.signing(ctx, &t, a.p, now)
}
