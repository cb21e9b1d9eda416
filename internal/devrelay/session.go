package devrelay

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"io"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// session is one client's connection.
type session struct {
	relay *Relay
	conn  *smtp.Conn

	user       string // authenticated user, or ""
	from       string
	options    smtp.MailOptions
	recipients []string
}

// AuthMechanisms returns the mechanisms that EHLO offers.
func (s *session) AuthMechanisms() []string {
	if _, secure := s.conn.TLSConnectionState(); !secure || len(s.relay.config.Users) == 0 {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
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
	if len(s.relay.config.Users) > 0 && s.user == "" {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	}
	if reply := s.relay.rules.answer(StageMail, from, nil); reply != nil {
		return reply
	}
	s.from, s.options = from, *options
	return nil
}

// Rcpt adds a recipient.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if reply := s.relay.rules.answer(StageRcpt, s.from, []string{to}); reply != nil {
		return reply
	}
	s.recipients = append(s.recipients, to)
	return nil
}

// Data stores the mail after its final dot.
func (s *session) Data(content io.Reader) error {
	var raw bytes.Buffer
	var into io.Writer = &raw
	if s.relay.config.Discard {
		into = io.Discard
	}
	if _, err := io.Copy(into, content); err != nil {
		return err
	}
	if reply := s.relay.rules.answer(StageData, s.from, s.recipients); reply != nil {
		return reply
	}
	time.Sleep(s.relay.config.Delay)
	_, secure := s.conn.TLSConnectionState()
	id := s.relay.mailbox.add(Mail{
		Received: time.Now(), From: s.from, Recipients: s.recipients,
		User: s.user, TLS: secure, Raw: raw.Bytes(),
		EnvelopeID: s.options.EnvelopeID, Return: string(s.options.Return),
	}, !s.relay.config.Discard)
	return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 0, 0}, Message: fmt.Sprintf("OK: queued as D%06d", id)}
}

// Reset discards the transaction.
func (s *session) Reset() { s.from, s.options, s.recipients = "", smtp.MailOptions{}, nil }

// Logout ends the session.
func (s *session) Logout() error { return nil }
