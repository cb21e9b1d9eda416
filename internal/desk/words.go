package desk

import (
	"strings"

	"github.com/certpost/certpost/internal/verdict"
)

// words say what happened and what to fix.
type words struct{ cause, remedy string }

// byCode holds the words for every phase that is not in byPhase.
var byCode = map[verdict.Code]words{
	verdict.SMTPConnect: {"The relay could not be reached.",
		"Check host, port and firewall of the target, and that the relay is up; then replay."},
	verdict.SMTPTLS: {"No encrypted connection to the relay could be established, so nothing was sent.",
		"Check tls_mode and the relay's certificate and TLS settings, then replay."},
	verdict.SMTPAuth: {"The relay rejected the login.",
		"Check username, password and auth_method of the target, then replay."},
	verdict.SMTPTransient: {"The relay temporarily refused the mail.",
		"Certpost normally retries this automatically. Read the relay's reply, then replay."},
	verdict.SMTPPermanent: {"The relay permanently refused the mail.",
		"The relay's reply says why. Fix it with the relay's operator, then replay."},
	verdict.SMTPValidation: {"The relay rejected an address or a command as invalid.",
		"Check from_address and the recipients of the target, then replay."},
	verdict.SMTPPayload: {"The mail could not be built from the certificate, its key and the target's settings.",
		"Fix what the reason says. " + afterFix},
	verdict.EventInvalid: {"The published message is not a valid event.",
		"Fix the publisher and publish the event again under a new id, then discard this letter."},
	verdict.TargetUnknown: {"No target was found for the event.",
		"Define the target, extend its match, or give a renamed target its old id in former_ids, then replay. Discard events that no one should receive."},
	verdict.TargetInvalid: {"The target's definition is invalid.",
		"Run certpost check, fix the definition, then replay."},
	verdict.SecretUnavailable: {"A secret could not be fetched: its store did not respond.",
		"Check that Vault is up, unsealed and reachable, then replay."},
	verdict.SecretDenied: {"Certpost is not allowed to read a secret that the delivery needs.",
		"The reason says what refused it: Vault's policy, events.secret_paths, events.file_roots, those of the source in events.sources, or a file's permissions. Allow it there, then replay."},
	verdict.SecretNotFound: {"A secret that the delivery needs does not exist.",
		"Store the secret, or correct the reference to it, then replay."},
	verdict.DeliveryExpired: {"The delivery was retried until its time limit (delivery.give_up_after).",
		"Fix the cause of the last failure, then replay."},
	verdict.DeliveryUncertain: {"The connection ended after the mail was sent and before the relay replied: the mail may have arrived.",
		"Look for the Message-ID at the relay or the recipient. If it is there, discard this letter; if not, replay it."},
	verdict.DeliveryCancelled: {"An operator has cancelled the delivery while it waited.",
		"Replay the letter if the certificate shall be delivered after all; discard it if not."},
	verdict.DeployWrite: {"The certificate could not be written to the mail host.",
		"Check the directory, its owner and the free disk space, then replay."},
	verdict.DeployValidate: {"The mail server rejected its configuration with the new certificate, so the certificate was rolled back.",
		"Read the server's error in the reason, fix its configuration, then replay."},
	verdict.DeployReload: {"The mail server did not reload the new certificate.",
		"Check that the server runs and that Certpost may reload it, then replay."},
	verdict.DeployVerify: {"After the reload the mail server did not present the new certificate.",
		"Check which certificate the server's services are configured to use, then replay."},
	verdict.DeployHeld: {"The TLSA records in DNS do not fit the new certificate, or not for long enough, so mail servers that use DANE would stop to deliver.",
		"Publish the records that the reason has and keep the present ones; the deployment goes on by itself. To deploy in spite of the records, set dane: warn in the target."},
}

type occasion struct {
	code  verdict.Code
	phase verdict.Phase
}

// byPhase holds more specific words for a code in one phase.
var byPhase = map[occasion]words{
	{verdict.SMTPConnect, verdict.PhaseConnect}: {"The relay's name could not be resolved, or nothing answered at its address and port.",
		"Check host and port of the target, DNS, and the firewall between Certpost and the relay; then replay."},
	{verdict.SMTPConnect, verdict.PhaseBanner}: {"The relay accepted the connection, but did not send a valid SMTP greeting.",
		"Check that port and tls_mode match (465 is smtps, 587 is starttls), then replay."},
	{verdict.SMTPConnect, verdict.PhaseTLS}: {"The connection was closed during the TLS handshake.",
		"Check that port and tls_mode match (465 is smtps, 587 is starttls), then replay."},
	{verdict.SMTPTLS, verdict.PhaseSTARTTLS}: {"The relay does not offer STARTTLS, or refused it. Nothing was sent unencrypted.",
		"Enable STARTTLS at the relay, or set the tls_mode and port that the relay offers; then replay."},
	{verdict.SMTPTLS, verdict.PhaseTLS}: {"The relay's certificate was rejected, or there is no common TLS version.",
		"The reason says whether the certificate is expired, for another name or from an unknown authority. Fix it at the relay, or set ca_file in the target; then replay."},
	{verdict.SMTPTLS, verdict.PhaseAuth}: {"The TLS connection failed during the login.",
		"Check the relay's TLS settings, then replay."},
	{verdict.SMTPAuth, verdict.PhaseEHLO}: {"The relay offers no login method that the target may use.",
		"Check auth_method and tls_mode: many relays offer a login only over TLS. Then replay."},
	{verdict.SMTPPermanent, verdict.PhaseConnect}: {"The relay permanently refused the connection.",
		"Ask the relay's operator whether this host's address is blocked, then replay."},
	{verdict.SMTPPermanent, verdict.PhaseBanner}: {"The relay refused this host in its greeting.",
		"Ask the relay's operator whether this host's address is blocked, then replay."},
	{verdict.SMTPPermanent, verdict.PhaseEHLO}: {"The relay refused the EHLO of this host.",
		"Check the name that Certpost sends in EHLO, and whether this host's address is blocked; then replay."},
	{verdict.SMTPPermanent, verdict.PhaseMail}: {"The relay refused the sender, or the size of the mail.",
		"Check from_address and which senders this login may use, or the relay's size limit; then replay."},
	{verdict.SMTPPermanent, verdict.PhaseRcpt}: {"The relay permanently refused a recipient.",
		"The reply says which address and why. Correct the address in the target, then replay."},
	{verdict.SMTPPermanent, verdict.PhaseData}: {"The relay refused the mail before its content was sent.",
		"The relay's reply says why. Fix it with the relay's operator, then replay."},
	{verdict.SMTPPermanent, verdict.PhaseContent}: {"The relay received the mail and refused its content, as spam and attachment filters do.",
		"Have the sender or this type of attachment allowed at the relay, or set another payload; then replay."},
	{verdict.SMTPValidation, verdict.PhaseMail}: {"The relay rejected the sender address as invalid.",
		"Check from_address of the target, then replay."},
	{verdict.SMTPValidation, verdict.PhaseRcpt}: {"The relay rejected a recipient address as invalid.",
		"Check to, cc and bcc of the target; the reply says which address. Then replay."},
	{verdict.SMTPValidation, verdict.PhaseResolve}: {"The target was already sent a newer certificate for these names, and wants no older one after it.",
		"Discard the letter. To send it all the same, replay it with force, or set superseded: deliver in the target."},
	{verdict.SMTPPayload, verdict.PhaseRender}: {"The mail is too large, or could not be written.",
		"Fix what the reason says. " + afterFix},
	{verdict.SMTPPayload, verdict.PhaseSettle}: {"A defect in Certpost prevents this delivery.",
		"Report it with the stack trace from the log; replay once it is fixed."},
	{verdict.EventInvalid, verdict.PhaseResolve}: {"The event's id was already used for another certificate.",
		"Have the publisher use a new id for every certificate and publish the event again, then discard this letter."},
	{verdict.EventInvalid, verdict.PhaseSource}: {"The source that published the event may not send it there.",
		"The reason names the source and the setting (events.sources, events.other_sources). If it should be allowed, allow it there, restart Certpost and replay; if not, find out who published the event, and discard it."},
	{verdict.SecretDenied, verdict.PhaseResolve}: {"The event refers to a secret that events may not use. Nothing was fetched.",
		"If the reference is right, allow it in events.secret_paths or events.file_roots and replay; if not, find out who published the event."},
}

// afterFix is what holds for every failure that a certificate, a key or a setting may have caused.
const afterFix = "If the event itself has to change, publish a corrected one and discard this letter; otherwise replay."

// adviceOf returns what to do as the reason itself says it, behind its last semicolon: the code has
// one text for a dozen faults of certificates, keys and settings, and only the reason knows which.
// "" if the code's own text is right for every reason, or the reason has no advice.
func adviceOf(code verdict.Code, phase verdict.Phase, reason string) string {
	if code != verdict.SMTPPayload || phase == verdict.PhaseSettle {
		return ""
	}
	if i := strings.LastIndex(reason, "; "); i >= 0 {
		return reason[i+len("; "):]
	}
	return ""
}

// remedyOf makes a sentence of a reason's advice, and adds how to go on if it does not say so.
func remedyOf(advice string) string {
	advice = strings.ToUpper(advice[:1]) + strings.TrimSuffix(advice[1:], ".") + "."
	if strings.HasSuffix(advice, "then replay.") || strings.Contains(advice, "please report") {
		return advice
	}
	return advice + " " + afterFix
}

// Explain returns what a code in a phase means, and what to do about it. advice is that of the
// letter's reason (adviceOf), "" for none or if several letters differ in it. For a code that
// this build does not know, it refers to the letter's own reason.
func Explain(code verdict.Code, phase verdict.Phase, advice string) (cause, remedy string) {
	w, ok := byPhase[occasion{code, phase}]
	if !ok {
		w, ok = byCode[code]
	}
	if ok && advice != "" {
		return w.cause, remedyOf(advice)
	}
	if ok {
		return w.cause, w.remedy
	}
	return "The delivery failed with a code that this version does not know.", "Read the letter's reason, fix what it says, then replay."
}
