package smtp

import (
	"net/textproto"
	"regexp"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/verdict"
)

// limitRule is a row of limitRules. It fits a refusal with one of the enhanced status codes
// (a code that ends with a dot stands for all that begin with it, noCode for a reply without
// one), in one of the phases, whose text has the words; what is left out fits always.
type limitRule struct {
	codes  []string
	phases []verdict.Phase
	words  *regexp.Regexp
	limit  bool // it is a limit of the relay on all mails of its client
}

const noCode = "-"

func words(any ...string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(` + strings.Join(any, "|") + `)\b`)
}

// limitRules tell a limit of the relay on all mails of its client, so that each further mail
// would be refused too, from what concerns one mail, one recipient or one connection. The first rule
// that fits decides; without one it is no limit.
//
// A code alone makes a limit of a permanent refusal. Words choose only between two ways to
// retry: in doubt a single mail is retried soon, because a wrong pause keeps all mails for an hour.
var limitRules = []limitRule{
	// Google: "550 5.4.5 Daily user sending limit exceeded" (support.google.com/a/answer/3726730).
	// Exchange Online: "550 5.1.90 ... you've reached your daily limit for message recipients",
	// "550 5.7.232/5.7.233 ... tenant exceeded its daily limit for sending email to external
	// recipients" (learn.microsoft.com, Email non-delivery reports in Exchange Online).
	{codes: []string{"5.4.5", "5.1.90", "5.7.232", "5.7.233"}, limit: true},
	{codes: []string{"5."}},

	// Before AUTH a limit is one of connections, which ends soon: Postfix "421 4.7.0 Error: too many
	// connections from" (postconf(5), smtpd_client_connection_count_limit).
	{phases: []verdict.Phase{verdict.PhaseBanner, verdict.PhaseEHLO, verdict.PhaseSTARTTLS}},

	// Google: "421 4.7.28 ... an unusual rate of unsolicited mail", in many languages.
	{codes: []string{"4.7.28"}, limit: true},

	// Greylisting: the first mail from this sender and address to this recipient is refused for
	// some minutes (RFC 6647). postgrey "450 4.2.0 ... Greylisted, see ...", milter-greylist "451 4.7.1
	// Greylisting in action, please come back in 00:05:00", sqlgrey "450 4.7.1 Greylisted for 5
	// minutes", policyd "Greylisting in effect", greylistd for Exim "451 ... is greylisted"; rspamd and
	// OpenBSD's spamd say only "Try again later". Others describe it: "Too many new senders",
	// "retrying too fast".
	{words: words(`gr[ea]y[- ]?list\w*`, `postgrey`, `(new|unknown|unseen|first[- ]?time) (senders?|clients?|hosts?|servers?|triplets?|connections?|correspondents?)`,
		`triplets?`, `first (attempt|contact|time|delivery|try)`, `not (yet )?(seen|known)`, `too (early|soon)`, `(retr(y|ies|ied|ying)|resend(ing)?|come back|coming back) too \w+`)},

	// One recipient: Google "450 4.2.1 The user ... is receiving mail at a rate that", "452 4.2.2
	// ... over quota"; a full mailbox that a policy service of Postfix reports as 4.7.1.
	{codes: []string{"4.2.", "4.1.", "4.5."}},
	{words: words(`mailbox(es)?`, `inbox`, `(unknown|invalid|bad|non-?existent) (users?|recipients?|addresses)`)},

	// One connection: Postfix "421 4.7.0 Error: too many errors" (smtpd_hard_error_limit).
	{words: words(`too many (\w+ )?(errors|commands|failures|unrecognized)`)},

	// Limits of a rate or a number. Postfix "450 4.7.1 Error: too much mail from", "too many
	// recipients from" (anvil(8)); Google "454 4.7.0 Too many login attempts", "421 4.7.26 Your
	// email has been rate limited because it is unauthenticated"; Microsoft "451 4.7.650 ... temporarily
	// rate limited due to IP reputation"; Yahoo "421 4.7.0 [TSS04] ... temporarily deferred due to
	// unexpected volume" (senders.yahooinc.com/smtp-error-codes).
	{codes: []string{"4.7."}, words: limitWords, limit: true},
	// Without a code: Amazon SES "454 Throttling failure: Daily message quota exceeded", Outlook.com
	// "421 RP-001 ... has exceeded the rate limit allowed", Exim's ratelimit "Sender rate exceeds".
	// To RCPT such words mean the recipients of one mail.
	{codes: []string{noCode}, phases: []verdict.Phase{verdict.PhaseAuth, verdict.PhaseMail, verdict.PhaseData, verdict.PhaseContent}, words: limitWords, limit: true},
}

var limitWords = words(`rate`, `rates`, `rate-?limit\w*`, `limits?`, `limited`, `quotas?`, `exceed\w*`, `throttl\w*`, `too (many|much|fast|quickly)`, `mail flood`, `(unexpected|unusual|high) volume`)

// isLimit reports whether a refusal is a limit of the relay on all mails of its client.
func isLimit(phase verdict.Phase, reply *textproto.Error) bool {
	if speaksOfSession(reply) {
		return false
	}
	for _, rule := range limitRules {
		if rule.fits(phase, reply) {
			return rule.limit
		}
	}
	return false
}

func (r limitRule) fits(phase verdict.Phase, reply *textproto.Error) bool {
	code := enhancedCode(reply.Code, reply.Msg)
	if code == "" {
		code = noCode
	}
	fits := func(want string) bool {
		return code == want || strings.HasSuffix(want, ".") && strings.HasPrefix(code, want)
	}
	return (r.codes == nil || slices.ContainsFunc(r.codes, fits)) &&
		(r.phases == nil || slices.Contains(r.phases, phase)) &&
		(r.words == nil || r.words.MatchString(reply.Msg)) &&
		(reply.Code/100 == 4 || strings.HasPrefix(code, "5."))
}
