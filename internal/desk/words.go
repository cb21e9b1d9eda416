package desk

import "github.com/certpost/certpost/internal/verdict"

// words say in plain language what happened and what to mend.
type words struct{ cause, remedy string }

// deployment codes are those of mail hosts, which are told without their phases.
const (
	deployWrite    verdict.Code = "DEPLOY_WRITE"
	deployValidate verdict.Code = "DEPLOY_VALIDATE"
	deployReload   verdict.Code = "DEPLOY_RELOAD"
	deployVerify   verdict.Code = "DEPLOY_VERIFY"
)

// byCode holds for every phase that byPhase does not speak of.
var byCode = map[verdict.Code]words{
	verdict.SMTPConnect: {"The relay could not be reached.",
		"Check host, port and firewall of the target, and that the relay is up; then replay."},
	verdict.SMTPTLS: {"No protected connection to the relay came about, so nothing was sent.",
		"Check tls_mode and the relay's certificate and TLS settings, then replay."},
	verdict.SMTPAuth: {"The relay did not accept the login.",
		"Check username, password and auth_method of the target, then replay."},
	verdict.SMTPTransient: {"The relay put the mail off.",
		"It was to be tried again by itself; look at the relay's reply, then replay."},
	verdict.SMTPPermanent: {"The relay refused the mail for good.",
		"The relay's reply says why; mend that with its operator and replay."},
	verdict.SMTPValidation: {"The relay did not take an address or a command.",
		"Check from_address and the recipients of the target, then replay."},
	verdict.SMTPPayload: {"The mail could not be made from this certificate and key.",
		"Read what is wrong with the certificate or its key; publish the event anew once it is mended, and discard this letter."},
	verdict.EventInvalid: {"What was published is not an event that Certpost can read.",
		"Mend the publisher and publish the event anew, under an id of its own; then discard this letter."},
	verdict.TargetUnknown: {"No target was found for the event.",
		"Add the target or its match to the definitions, then replay; or discard what nobody is to get."},
	verdict.TargetInvalid: {"The target's definition cannot be used.",
		"Run certpost check, mend the definition, then replay."},
	verdict.SecretUnavailable: {"A secret could not be fetched: its store did not answer.",
		"Check that Vault is up, unsealed and reachable, then replay."},
	verdict.SecretDenied: {"Certpost may not read a secret that the delivery needs.",
		"Allow the path in Vault's policy or in events.secret_paths, then replay."},
	verdict.SecretNotFound: {"A secret that the delivery needs does not exist.",
		"Store it, or correct the reference to it, then replay."},
	verdict.DeliveryExpired: {"It was tried again until its time was over (delivery.give_up_after).",
		"Mend what the last failure says, then replay."},
	verdict.DeliveryUncertain: {"The connection ended after the mail had gone out and before the relay had answered: it may have arrived.",
		"Look for the Message-ID at the relay or the recipient. If it is there, discard this letter; if not, replay it."},
	deployWrite: {"The certificate could not be written to the mail host.",
		"Check the directory, its owner and the space on the disk, then replay."},
	deployValidate: {"The mail server did not accept its configuration with the new certificate, which was taken back.",
		"Read the server's own words in the reason, mend its configuration, then replay."},
	deployReload: {"The mail server could not be made to load the new certificate.",
		"Check that the server runs and may be reloaded by Certpost, then replay."},
	deployVerify: {"After the reload the mail server did not show the new certificate.",
		"Check which certificate the server's services are set to use, then replay."},
}

type occasion struct {
	code  verdict.Code
	phase verdict.Phase
}

// byPhase is what the phase adds.
var byPhase = map[occasion]words{
	{verdict.SMTPConnect, verdict.PhaseConnect}: {"The relay's name did not resolve, or nothing answered at its address and port.",
		"Check host and port of the target, DNS and the firewall between here and the relay; then replay."},
	{verdict.SMTPConnect, verdict.PhaseBanner}: {"The relay took the connection and then said nothing that SMTP knows.",
		"Check that port and tls_mode belong together (465 is smtps, 587 is starttls), then replay."},
	{verdict.SMTPConnect, verdict.PhaseTLS}: {"The connection broke off during the TLS handshake.",
		"Check that port and tls_mode belong together (465 is smtps, 587 is starttls), then replay."},
	{verdict.SMTPTLS, verdict.PhaseSTARTTLS}: {"The relay does not offer STARTTLS, or refused it. Nothing was sent in clear.",
		"Have STARTTLS switched on at the relay, or set the tls_mode and port that it does offer; then replay."},
	{verdict.SMTPTLS, verdict.PhaseTLS}: {"The relay's certificate was not accepted, or there is no version of TLS in common.",
		"The reason says whether it is expired, for another name or from an unknown authority: mend that at the relay, or give the target its ca_file; then replay."},
	{verdict.SMTPTLS, verdict.PhaseAuth}: {"The protected connection failed during the login.",
		"Check the relay's TLS settings, then replay."},
	{verdict.SMTPAuth, verdict.PhaseEHLO}: {"The relay offers no way to log in that the target may use.",
		"Check auth_method and tls_mode: relays often offer a login over TLS alone. Then replay."},
	{verdict.SMTPPermanent, verdict.PhaseConnect}: {"The relay sent the connection away for good.",
		"Ask the relay's operator whether this host's address is blocked, then replay."},
	{verdict.SMTPPermanent, verdict.PhaseBanner}: {"The relay greeted with a refusal.",
		"Ask the relay's operator whether this host's address is blocked, then replay."},
	{verdict.SMTPPermanent, verdict.PhaseEHLO}: {"The relay refused to talk to this host.",
		"Check the name that Certpost gives in EHLO and whether its address is blocked, then replay."},
	{verdict.SMTPPermanent, verdict.PhaseMail}: {"The relay refused the sender, or the mail for its size.",
		"Check from_address and what this login may send as, or the relay's limit on size; then replay."},
	{verdict.SMTPPermanent, verdict.PhaseRcpt}: {"The relay refused a recipient for good.",
		"Check the addresses of the target; the reply says which one and why. A mended address is enough, then replay."},
	{verdict.SMTPPermanent, verdict.PhaseData}: {"The relay refused the mail before its content.",
		"The relay's reply says why; mend that with its operator and replay."},
	{verdict.SMTPPermanent, verdict.PhaseContent}: {"The relay read the mail and refused its content, as filters for spam or attachments do.",
		"Have the sender or this kind of attachment allowed, or choose another payload; then replay."},
	{verdict.SMTPValidation, verdict.PhaseMail}: {"The relay did not take the sender's address.",
		"Check from_address of the target, then replay."},
	{verdict.SMTPValidation, verdict.PhaseRcpt}: {"The relay did not take a recipient's address.",
		"Check to, cc and bcc of the target; the reply says which one. Then replay."},
	{verdict.SMTPPayload, verdict.PhaseRender}: {"The mail could not be written from its template.",
		"Check the templates and the target's texts with certpost render, then replay."},
	{verdict.SMTPPayload, verdict.PhaseSettle}: {"A defect in Certpost keeps this delivery from being made.",
		"Report it with the stack from the log; replay when it is mended."},
	{verdict.EventInvalid, verdict.PhaseResolve}: {"The event's id was used before for another certificate.",
		"Have the publisher give every certificate an id of its own and publish it anew, then discard this letter."},
	{verdict.SecretDenied, verdict.PhaseResolve}: {"The event refers to a secret outside of what events may refer to. Nothing was fetched.",
		"If the reference is right, allow it in events.secret_paths or events.file_roots and replay; if not, find out who published it."},
}

// Explain says in words what a code in a phase means, and what to do about it. A
// code that this build does not know is explained by the letter's own reason.
func Explain(code verdict.Code, phase verdict.Phase) (cause, remedy string) {
	if w, ok := byPhase[occasion{code, phase}]; ok {
		return w.cause, w.remedy
	}
	if w, ok := byCode[code]; ok {
		return w.cause, w.remedy
	}
	return "The delivery failed with a code that this version does not know.", "Read the letter's reason; mend what it says and replay."
}
