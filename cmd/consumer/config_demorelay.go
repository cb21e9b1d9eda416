package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/secrets"
)

// DemoRelayConfig is the section demo_relay: the SMTP server of `certpost relay`, for trying
// things out (docs/demo-relay.md). No other command reads it.
type DemoRelayConfig struct {
	// SMTP is the address of the listener with opportunistic STARTTLS.
	SMTP string `yaml:"smtp" required:"true"`
	// Submission is the address of the listener that takes mails only after STARTTLS; without
	// a certificate also without.
	Submission string `yaml:"submission" required:"true"`
	// SMTPS is the address of the listener with implicit TLS. It is not opened without a
	// certificate.
	SMTPS string `yaml:"smtps" required:"true"`
	// Inbox is the address of the pages that show the mails, with the private keys in them.
	Inbox string `yaml:"inbox" required:"true"`
	// Hostname is the relay's name in its greeting.
	Hostname string `yaml:"hostname" required:"true"`
	// CertFile is the certificate: PEM or DER with its issuers, or PKCS#12 (.pfx, .p12) with
	// the key. Changed files are used from the next connection on. Default: none, and no TLS.
	CertFile string `yaml:"cert_file"`
	// KeyFile is the private key, PEM or DER, not encrypted. Default: it is in cert_file.
	KeyFile string `yaml:"key_file"`
	// Passphrase is a secret reference to the passphrase of a PKCS#12 file.
	Passphrase secrets.Ref `yaml:"passphrase"`
	// OwnCAFile makes a CA and a certificate at the start, in place of cert_file, and writes
	// the CA's certificate to this file, for ca_file of a target.
	OwnCAFile string `yaml:"own_ca_file"`
	// Users are the only clients that may send mail; without users every client may.
	Users []DemoRelayUser `yaml:"users"`
	// AllowUnsecureAuthentication offers AUTH without TLS, too: passwords in clear text.
	AllowUnsecureAuthentication bool `yaml:"allow_unsecure_authentication"`
	// MaxMessageBytes is the size of a whole mail as it is sent; a larger one gets 552 5.3.4.
	MaxMessageBytes int64 `yaml:"max_message_bytes" min:"1024" max:"1073741824"`
	// MaxAttachmentBytes is the size of one attachment, decoded; likewise.
	MaxAttachmentBytes int64 `yaml:"max_attachment_bytes" min:"1" max:"1073741824"`
	// MaxMails is the number of mails on the pages; the oldest leaves first.
	MaxMails int `yaml:"max_mails" min:"1" max:"100000"`
	// Store is a directory where each mail becomes a file before it is acknowledged. Nothing
	// is removed there. Default: none; mails are in memory only.
	Store string `yaml:"store"`
	// StoreFormat is how: eml (one .eml file in the directory) or maildir.
	StoreFormat string `yaml:"store_format" enum:"eml,maildir"`
	// Faults are replies to some addresses; the first that fits answers. Others are accepted.
	Faults []DemoRelayFault `yaml:"faults"`
}

// DemoRelayUser is one entry of demo_relay.users.
type DemoRelayUser struct {
	// Name of the user.
	Name string `yaml:"name" required:"true"`
	// Password is a secret reference. It is read at the start.
	Password secrets.Ref `yaml:"password"`
}

// DemoRelayFault is one entry of demo_relay.faults.
type DemoRelayFault struct {
	// Stage is the command that is answered: mail (MAIL FROM), rcpt (RCPT TO) or data (the
	// end of the content).
	Stage string `yaml:"stage" enum:"mail,rcpt,data"`
	// Sender is a glob for the envelope's sender. Default: every sender.
	Sender string `yaml:"sender"`
	// Recipient is a glob for a recipient of the envelope; not with stage mail. Example:
	// full@*. Default: every recipient.
	Recipient string `yaml:"recipient"`
	// Code is the reply: 400 to 599. Example: 452.
	Code int `yaml:"code"`
	// EnhancedCode is the reply's enhanced status code (RFC 3463). Example: 4.2.2.
	EnhancedCode string `yaml:"enhanced_code"`
	// Text is the reply's text.
	Text string `yaml:"text"`
	// Disconnect closes the connection in place of a reply. With stage data the mail has been
	// accepted then, and its sender cannot know that.
	Disconnect bool `yaml:"disconnect"`
	// Delay is how long the answer takes.
	Delay time.Duration `yaml:"delay" min:"0s" max:"10m"`
	// Times is how often the fault happens; 0 is always.
	Times int `yaml:"times" min:"0"`
}

// SetDefaults sets the stage.
func (f *DemoRelayFault) SetDefaults() { f.Stage = string(devrelay.StageRcpt) }

func defaultDemoRelay() DemoRelayConfig {
	return DemoRelayConfig{
		SMTP: "127.0.0.1:25", Submission: "127.0.0.1:587", SMTPS: "127.0.0.1:465", Inbox: "127.0.0.1:8025", Hostname: "localhost",
		MaxMessageBytes: 50 << 20, MaxAttachmentBytes: 25 << 20, MaxMails: 1000, StoreFormat: string(devrelay.EML),
	}
}

func (c *DemoRelayConfig) validate(f *findings) {
	for key, address := range map[string]string{"smtp": c.SMTP, "submission": c.Submission, "smtps": c.SMTPS, "inbox": c.Inbox} {
		f.address("demo_relay."+key, address)
	}
	switch {
	case c.CertFile == "" && c.KeyFile != "":
		f.err("demo_relay.key_file", "has no certificate: set cert_file")
	case c.CertFile != "" && c.OwnCAFile != "":
		f.err("demo_relay.own_ca_file", "is for a relay without a certificate of its own: set only one of cert_file and own_ca_file")
	}
	f.secret("demo_relay.passphrase", c.Passphrase)
	seen := map[string]bool{}
	for i, user := range c.Users {
		path := fmt.Sprintf("demo_relay.users[%d]", i)
		if seen[user.Name] {
			f.err(path+".name", "is there twice")
		}
		seen[user.Name] = true
		if user.Password.IsZero() {
			f.err(path+".password", "is required: a secret reference, such as {file: PATH}")
		}
		f.secret(path+".password", user.Password)
	}
	if c.AllowUnsecureAuthentication && len(c.Users) == 0 {
		f.warn("demo_relay.allow_unsecure_authentication", "has no effect without users")
	}
	if err := devrelay.CheckRules(c.rules()); err != nil {
		f.err("demo_relay.faults", err.Error())
	}
}

// warnOpen warns of what others on the network can see.
func (c *DemoRelayConfig) warnOpen(f *findings) {
	if !access.IsLoopback(c.Inbox) {
		f.warn("demo_relay.inbox", c.Inbox+" can be reached from other machines: everybody there can read the mails, with the private keys in them")
	}
	if c.AllowUnsecureAuthentication && len(c.Users) > 0 {
		f.warn("demo_relay.allow_unsecure_authentication", "clients may send passwords in clear text")
	}
	if c.CertFile+c.OwnCAFile == "" {
		f.warn("demo_relay.cert_file", "there is no certificate: no STARTTLS, and no listener on "+c.SMTPS+" (--own-ca FILE makes one)")
	}
}

func (c *DemoRelayConfig) rules() []devrelay.Rule {
	var rules []devrelay.Rule
	for _, f := range c.Faults {
		rules = append(rules, devrelay.Rule{
			Stage: devrelay.Stage(f.Stage), Sender: f.Sender, Recipient: f.Recipient, Code: f.Code, Enhanced: f.EnhancedCode,
			Text: f.Text, Disconnect: f.Disconnect, Delay: f.Delay, Times: f.Times,
		})
	}
	return rules
}

// faultFlag are the parts of --fault: [STAGE:]ADDRESS=REPLY.
var faultFlag = regexp.MustCompile(`^(?:(mail|rcpt|data):)?([^=]*)=(?:(disconnect)|([45]\d\d)(?: (\d\.\d{1,3}\.\d{1,3}))?(?: (.*))?)$`)

// likeEnhanced are the texts that begin with what was meant to be an enhanced code.
var likeEnhanced = regexp.MustCompile(`^\d+\.[\d.]*(?: |$)`)

// parseFault reads --fault. The address is the sender's for MAIL, else a recipient's.
func parseFault(text string) (fault DemoRelayFault, err error) {
	m := faultFlag.FindStringSubmatch(text)
	if m == nil {
		return fault, fmt.Errorf("--fault %q: want [mail:|rcpt:|data:]ADDRESS=REPLY, such as 'full@*=452 4.2.2 Mailbox full' or 'data:lost@*=disconnect'", text)
	}
	if likeEnhanced.MatchString(m[6]) {
		return fault, fmt.Errorf("--fault %q: %q is no enhanced code: want one like 4.2.2 for a code 4yz, or 5.1.1 for 5yz", text, strings.Fields(m[6])[0])
	}
	fault.SetDefaults()
	if m[1] != "" {
		fault.Stage = m[1]
	}
	if fault.Stage == string(devrelay.StageMail) {
		fault.Sender = m[2]
	} else {
		fault.Recipient = m[2]
	}
	fault.Disconnect, fault.EnhancedCode, fault.Text = m[3] != "", m[5], m[6]
	if m[4] != "" {
		fault.Code, err = strconv.Atoi(m[4])
	}
	return fault, err
}

// parseDemoUser reads --user: NAME=REF.
func parseDemoUser(text string) (DemoRelayUser, error) {
	name, ref, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return DemoRelayUser{}, fmt.Errorf("--user: want NAME=REF, such as certs=file:/run/secrets/password")
	}
	password, err := secrets.ParseRef(ref)
	if err != nil {
		return DemoRelayUser{}, fmt.Errorf("--user %s: %w", name, err)
	}
	return DemoRelayUser{Name: name, Password: password}, nil
}

// check returns the problems of the section, after flags have changed it.
func (c *DemoRelayConfig) check() []config.Problem {
	f := findings(config.Check(c, "demo_relay"))
	c.validate(&f)
	c.warnOpen(&f)
	return f
}
