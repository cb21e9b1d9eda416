package devrelay

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// session is one client's connection.
type session struct {
	relay      *Relay
	conn       *smtp.Conn
	requireTLS bool

	user       string // authenticated user, or ""
	from       string
	options    smtp.MailOptions
	recipients []string
}

// AuthMechanisms returns the mechanisms that EHLO offers.
func (s *session) AuthMechanisms() []string {
	if len(s.relay.config.Users) == 0 || !s.secure() && !s.relay.config.AllowUnsecureAuthentication {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
}

func (s *session) secure() bool {
	_, secure := s.conn.TLSConnectionState()
	return secure
}

// Auth begins an AUTH.
func (s *session) Auth(mechanism string) (sasl.Server, error) {
	switch mechanism {
	case sasl.Plain:
		return sasl.NewPlainServer(func(identity, user, password string) error {
			if identity != "" && identity != user {
				return smtp.ErrAuthFailed
			}
			return s.login(user, password)
		}), nil
	case sasl.Login:
		return &loginServer{authenticate: s.login}, nil
	}
	return nil, smtp.ErrAuthUnknownMechanism
}

func (s *session) login(user, password string) error {
	known, found := s.relay.password(user)
	if !found || subtle.ConstantTimeCompare([]byte(known), []byte(password)) != 1 {
		return smtp.ErrAuthFailed
	}
	s.user = user
	return nil
}

// loginServer is the server's side of AUTH LOGIN, which go-sasl no longer has: it asks
// for the user name, then for the password.
type loginServer struct {
	authenticate func(user, password string) error
	user         *string
	asked        bool
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case !l.asked && response == nil:
		l.asked = true
		return []byte("Username:"), false, nil
	case l.user == nil:
		user := string(response)
		l.asked, l.user = true, &user
		return []byte("Password:"), false, nil
	}
	return nil, true, l.authenticate(*l.user, string(response))
}

// Mail begins a transaction.
func (s *session) Mail(from string, options *smtp.MailOptions) error {
	switch {
	case s.requireTLS && !s.secure():
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Must issue a STARTTLS command first"}
	case len(s.relay.config.Users) > 0 && s.user == "":
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	case options.Size > s.relay.config.MaxMailBytes:
		return smtp.ErrDataTooLarge
	}
	if rule := s.relay.rules.match(StageMail, from, nil); rule != nil {
		return s.apply(rule)
	}
	s.from, s.options = from, *options
	return nil
}

// Rcpt adds a recipient.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if rule := s.relay.rules.match(StageRcpt, s.from, []string{to}); rule != nil {
		return s.apply(rule)
	}
	s.recipients = append(s.recipients, to)
	return nil
}

// apply answers as a rule says.
func (s *session) apply(rule *Rule) error {
	time.Sleep(rule.Delay)
	if rule.Disconnect {
		_ = s.conn.Conn().Close() // what go-smtp writes afterwards is lost
		return errDisconnected
	}
	return rule.reply()
}

var errDisconnected = errors.New("the connection was closed by a rule")

// Data stores the mail after its final dot.
func (s *session) Data(content io.Reader) error {
	raw, err := s.read(content)
	if err != nil {
		return err
	}
	rule := s.relay.rules.match(StageData, s.from, s.recipients)
	if rule != nil && !rule.Disconnect {
		return s.apply(rule)
	}
	time.Sleep(s.relay.config.Delay)
	if err := s.relay.config.Folder.store(raw); err != nil {
		s.relay.config.Log("the mail was not accepted: " + err.Error())
		return &smtp.SMTPError{Code: 452, EnhancedCode: smtp.EnhancedCode{4, 3, 1}, Message: "The mail cannot be stored"}
	}
	id := s.relay.mailbox.add(Mail{
		Received: time.Now(), From: s.from, Recipients: s.recipients,
		User: s.user, TLS: s.secure(), Raw: raw,
		EnvelopeID: s.options.EnvelopeID, Return: string(s.options.Return),
	}, !s.relay.config.Discard)
	s.relay.config.Log(fmt.Sprintf("accepted mail %d: %d bytes, recipients: %d, TLS: %t, AUTH: %t", id, len(raw), len(s.recipients), s.secure(), s.user != ""))
	if rule != nil {
		return s.apply(rule)
	}
	return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 0, 0}, Message: fmt.Sprintf("OK: queued as D%06d", id)}
}

// read reads a mail's content, and refuses one that is too large or has an attachment that is.
// With Discard nothing is kept and attachments are not looked at.
func (s *session) read(content io.Reader) ([]byte, error) {
	var raw bytes.Buffer
	var into io.Writer = &raw
	if s.relay.config.Discard {
		into = io.Discard
	}
	limit := s.relay.config.MaxMailBytes
	n, err := io.Copy(into, io.LimitReader(content, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, smtp.ErrDataTooLarge
	}
	// An attachment is not larger than its mail.
	if most := s.relay.config.MaxAttachmentBytes; int64(raw.Len()) > most && largestAttachment(raw.Bytes()) > most {
		return nil, &smtp.SMTPError{Code: 552, EnhancedCode: smtp.EnhancedCode{5, 3, 4}, Message: fmt.Sprintf("Attachments may have %d bytes each", most)}
	}
	return raw.Bytes(), nil
}

// Reset discards the transaction.
func (s *session) Reset() { s.from, s.options, s.recipients = "", smtp.MailOptions{}, nil }

// Logout ends the session.
func (s *session) Logout() error { return nil }
