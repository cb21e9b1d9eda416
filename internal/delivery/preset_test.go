package delivery

import (
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/smtp"
	"github.com/certpost/certpost/internal/verdict"
)

// A preset gives what a provider's customers have in common, and the target's own keys come
// first.
func TestPresets(t *testing.T) {
	t.Parallel()
	for lines, want := range map[string]Target{
		"preset: gmail":                                        {Host: "smtp.gmail.com", Port: 587, TLSMode: smtp.TLSStartTLS, AuthMethod: smtp.AuthNone},
		"preset: yahoo":                                        {Host: "smtp.mail.yahoo.com", Port: 465, TLSMode: smtp.TLSSMTPS, AuthMethod: smtp.AuthNone},
		"preset: sendgrid|password: {env: X}":                  {Host: "smtp.sendgrid.net", Port: 587, TLSMode: smtp.TLSStartTLS, AuthMethod: smtp.AuthPlain, Username: Text{Plain: "apikey"}},
		"preset: sendgrid|password: {env: X}|username: me":     {Host: "smtp.sendgrid.net", Port: 587, TLSMode: smtp.TLSStartTLS, AuthMethod: smtp.AuthPlain, Username: Text{Plain: "me"}},
		"preset: mailgun|host: smtp.eu.mailgun.org":            {Host: "smtp.eu.mailgun.org", Port: 587, TLSMode: smtp.TLSStartTLS, AuthMethod: smtp.AuthNone},
		"preset: gmail|port: 465|tls_mode: smtps":              {Host: "smtp.gmail.com", Port: 465, TLSMode: smtp.TLSSMTPS, AuthMethod: smtp.AuthNone},
		"preset: ses|host: email-smtp.eu-west-1.amazonaws.com": {Host: "email-smtp.eu-west-1.amazonaws.com", Port: 587, TLSMode: smtp.TLSStartTLS, AuthMethod: smtp.AuthNone},
	} {
		got, problems := loadTarget(t, append([]string{"host:"}, strings.Split(lines, "|")...)...)
		if len(problems) > 0 {
			t.Errorf("%s: %q", lines, problems)
			continue
		}
		if got.Host != want.Host || got.Port != want.Port || got.TLSMode != want.TLSMode || got.AuthMethod != want.AuthMethod || got.Username.Plain != want.Username.Plain {
			t.Errorf("%s: %s:%d %s %s %q", lines, got.Host, got.Port, got.TLSMode, got.AuthMethod, got.Username.Plain)
		}
	}
	for lines, want := range map[string]string{
		"preset: ses":      "email-smtp.REGION.amazonaws.com",
		"preset: sendgird": "sendgrid",
		"preset:":          "host: is required",
	} {
		if _, problems := loadTarget(t, append([]string{"host:"}, lines)...); len(problems) != 1 || !strings.Contains(problems[0], want) {
			t.Errorf("%s: %q, want %q", lines, problems, want)
		}
	}
	for name, p := range presets {
		if p.hint == "" || p.port == 0 || p.tlsMode == "" {
			t.Errorf("%s is not complete", name)
		}
	}
}

// A refused login says what the provider expects, in the dead letter and in the check.
func TestPresetExplainsRefusedLogin(t *testing.T) {
	t.Parallel()
	server, err := devrelay.Start(devrelay.Config{Users: map[string]string{"apikey": "right"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	o := newFixture(t, server.Submission(), RelayLimits{}, func(target *Target) {
		target.Preset, target.TLSMode, target.TLSSkipVerify, target.AllowInsecureAuth = "sendgrid", smtp.TLSStartTLS, true, true
		target.Password = secrets.Ref{Value: secrets.New([]byte("wrong"))}
	})
	const want = "SendGrid wants the user name apikey"
	_, failure := o.deliver(t.Context())
	if failure == nil || failure.Code != verdict.SMTPAuth || !strings.Contains(failure.Reason, want) {
		t.Errorf("the delivery: %v", failure)
	}
	if found := o.Inspector().Check(t.Context(), o.target.ID); !finds(found, "error relay", want) {
		t.Errorf("the check: %q", spoken(found))
	}
}
