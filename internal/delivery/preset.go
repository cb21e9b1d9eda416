package delivery

import (
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// preset is what is known of a provider's relay.
type preset struct {
	host     string // "" if it depends on the customer
	port     int
	tlsMode  string
	username string // "" if it depends on the customer
	hint     string // what people trip over, for a refused login
}

// presets are the relays of providers, by the value of the key preset. The sources are their
// own manuals for SMTP.
var presets = map[string]preset{
	"gmail": {host: "smtp.gmail.com", port: 587, tlsMode: smtp.TLSStartTLS,
		hint: "Gmail takes no account passwords: want an app password (the account needs 2-step verification), or auth_method xoauth2"},
	"outlook": {host: "smtp-mail.outlook.com", port: 587, tlsMode: smtp.TLSStartTLS,
		hint: "Outlook.com takes no passwords: want auth_method xoauth2 with oauth2 or a token"},
	"office365": {host: "smtp.office365.com", port: 587, tlsMode: smtp.TLSStartTLS,
		hint: "Exchange Online wants auth_method xoauth2 with oauth2, SMTP AUTH enabled for the mailbox, and from_address of that mailbox"},
	"yahoo": {host: "smtp.mail.yahoo.com", port: 465, tlsMode: smtp.TLSSMTPS,
		hint: "Yahoo takes no account passwords: want an app password"},
	"sendgrid": {host: "smtp.sendgrid.net", port: 587, tlsMode: smtp.TLSStartTLS, username: "apikey",
		hint: "SendGrid wants the user name apikey, this very word, and an API key that may send mail as the password"},
	"mailgun": {host: "smtp.mailgun.org", port: 587, tlsMode: smtp.TLSStartTLS,
		hint: "Mailgun wants the SMTP credentials of the domain, not the API key; a domain in the EU region needs host: smtp.eu.mailgun.org"},
	"ses": {port: 587, tlsMode: smtp.TLSStartTLS,
		hint: "Amazon SES wants SMTP credentials of the same region as host, which are not the access key of an IAM user"},
	"postmark": {host: "smtp.postmarkapp.com", port: 587, tlsMode: smtp.TLSStartTLS,
		hint: "Postmark wants the server's API token as user name and as password"},
}

// applyPreset sets the keys that the target does not set itself to those of its preset. They
// count as the target's own.
func (t *Target) applyPreset() {
	p, known := presets[t.Preset]
	if !known {
		return
	}
	setDefault(&t.Host, p.host)
	if !t.given["port"] && t.Port == defaultPort {
		t.Port = p.port
	}
	setDefault(&t.TLSMode, p.tlsMode)
	if t.Username.IsZero() {
		t.Username.Plain = p.username
	}
	for _, key := range []string{"port", "tls_mode"} {
		t.Given(key)
	}
}

func (t *Target) validatePreset(v *validation) {
	if t.Host == "" && t.Preset == "ses" {
		v.err("host", "is required by preset ses: want email-smtp.REGION.amazonaws.com, such as email-smtp.eu-central-1.amazonaws.com")
	} else if t.Host == "" && t.Preset == "" { // an unknown preset has its own problem
		v.err("host", "is required")
	}
}

// explainLogin adds to a refused login what the provider's customers trip over.
func (t *Target) explainLogin(f *verdict.Failure) *verdict.Failure {
	if hint := presets[t.Preset].hint; f != nil && hint != "" && f.Code == verdict.SMTPAuth {
		f.Reason += "; " + hint
	}
	return f
}
