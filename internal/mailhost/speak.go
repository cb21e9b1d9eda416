package mailhost

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/certpost/certpost/internal/legible"
)

// Protocol is what a server speaks before TLS begins.
type Protocol string

// The protocols. All but TLS begin in clear text and change to TLS by STARTTLS (RFC 3207,
// 9051, 2595, 5804).
const (
	SMTP  Protocol = "smtp"
	LMTP  Protocol = "lmtp"
	IMAP  Protocol = "imap"
	POP3  Protocol = "pop3"
	Sieve Protocol = "sieve" // ManageSieve
	TLS   Protocol = "tls"   // from the first byte: smtps, imaps, pop3s
)

var ports = map[string]Protocol{
	"25": SMTP, "587": SMTP, "24": LMTP, "143": IMAP, "110": POP3, "4190": Sieve, "465": TLS, "993": TLS, "995": TLS,
}

// ProtocolOf returns the protocol that is usual for the port of an address; "" if none is.
func ProtocolOf(address string) Protocol {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return ports[port]
}

func (e Endpoint) protocol() Protocol {
	if e.Protocol != "" {
		return e.Protocol
	}
	return ProtocolOf(e.Address)
}

// problem returns what is wrong with the endpoint, if anything is.
func (e Endpoint) problem() (p Problem, found bool) {
	if _, _, err := net.SplitHostPort(e.Address); err != nil {
		return Problem{"post_deploy_verify.endpoint", fmt.Sprintf("%q is not host:port", legible.Clean(e.Address, 255))}, true
	}
	switch e.protocol() {
	case SMTP, LMTP, IMAP, POP3, Sieve, TLS:
		return Problem{}, false
	case "":
		return Problem{"post_deploy_verify.protocol", fmt.Sprintf("is required for %s: no protocol is usual for its port; use smtp, lmtp, imap, pop3, sieve or tls", legible.Clean(e.Address, 255))}, true
	}
	return Problem{"post_deploy_verify.protocol", fmt.Sprintf("%q is unknown; use smtp, lmtp, imap, pop3, sieve or tls", legible.Clean(string(e.Protocol), 40))}, true
}

var (
	// errRefused: the server does not begin TLS. Servers do that with files they cannot load.
	errRefused  = errors.New("the server does not begin TLS")
	errInjected = errors.New("the server sent more than its answer before TLS began, which is an attack or a server that gives up")
)

const (
	maxLine  = 8 << 10 // bytes of a line
	maxLines = 100     // of a greeting or an answer
)

// startTLS speaks a protocol up to the point where TLS begins.
func startTLS(conn net.Conn, p Protocol) error {
	s := &speaker{conn: conn, in: bufio.NewReaderSize(conn, maxLine)}
	var err error
	switch p {
	case SMTP:
		err = s.smtp("EHLO")
	case LMTP:
		err = s.smtp("LHLO")
	case IMAP:
		err = s.imap()
	case POP3:
		err = s.pop3()
	case Sieve:
		err = s.sieve()
	}
	if err == nil && s.in.Buffered() > 0 {
		err = errInjected
	}
	return err
}

// goodbye is what a client says at its end; servers then log no lost connection.
var goodbye = map[Protocol]string{SMTP: "QUIT\r\n", LMTP: "QUIT\r\n", IMAP: "a2 LOGOUT\r\n", POP3: "QUIT\r\n", Sieve: "LOGOUT\r\n"}

// speaker is the clear-text part of a conversation.
type speaker struct {
	conn net.Conn
	in   *bufio.Reader
}

func (s *speaker) smtp(hello string) error {
	if _, err := s.reply("220"); err != nil {
		return err
	}
	// An address literal is valid for every client (RFC 5321 section 4.1.3).
	name := "[127.0.0.1]"
	if host, _, err := net.SplitHostPort(s.conn.LocalAddr().String()); err == nil && !strings.Contains(host, ":") {
		name = "[" + host + "]"
	}
	if err := s.say(hello + " " + name); err != nil {
		return err
	}
	lines, err := s.reply("250")
	if err != nil {
		return err
	}
	offered := false
	for _, line := range lines {
		offered = offered || len(line) > 4 && strings.EqualFold(strings.TrimSpace(line[4:]), "STARTTLS")
	}
	if !offered {
		return fmt.Errorf("%w: it does not offer STARTTLS", errRefused)
	}
	if err := s.say("STARTTLS"); err != nil {
		return err
	}
	if _, err := s.reply("220"); err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return nil
}

// reply reads a reply of SMTP, of one or more lines, with a code.
func (s *speaker) reply(code string) (lines []string, err error) {
	for range maxLines {
		line, err := s.line()
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
		if len(line) < 4 || line[3] != '-' {
			return lines, expect(line, code)
		}
	}
	return nil, errTooLong
}

func (s *speaker) imap() error {
	line, err := s.line()
	if err == nil {
		err = expect(line, "* OK")
	}
	if err == nil {
		err = s.say("a1 STARTTLS")
	}
	if err != nil {
		return err
	}
	return s.answer("a1 OK", "a1 ", "* BYE")
}

func (s *speaker) pop3() error {
	line, err := s.line()
	if err == nil {
		err = expect(line, "+OK")
	}
	if err == nil {
		err = s.say("STLS")
	}
	if err != nil {
		return err
	}
	return s.answer("+OK", "-ERR")
}

// sieve reads the capabilities that ManageSieve greets with, and changes to TLS.
func (s *speaker) sieve() error {
	offered := false
	for range maxLines {
		line, err := s.line()
		if err != nil {
			return err
		}
		upper := strings.ToUpper(line)
		switch {
		case strings.HasPrefix(upper, "OK"):
			if !offered {
				return fmt.Errorf("%w: it does not offer STARTTLS", errRefused)
			}
			if err := s.say("STARTTLS"); err != nil {
				return err
			}
			return s.answer("OK", "NO", "BYE")
		case strings.HasPrefix(upper, "BYE"), strings.HasPrefix(upper, "NO"):
			return expect(line, "OK")
		case strings.TrimSpace(upper) == `"STARTTLS"`:
			offered = true
		}
	}
	return errTooLong
}

// answer reads lines up to one that begins with want, or with one of the refusals.
func (s *speaker) answer(want string, refusals ...string) error {
	for range maxLines {
		line, err := s.line()
		if err != nil {
			return err
		}
		upper := strings.ToUpper(line)
		if strings.HasPrefix(upper, strings.ToUpper(want)) {
			return nil
		}
		for _, refusal := range refusals {
			if strings.HasPrefix(upper, strings.ToUpper(refusal)) {
				return fmt.Errorf("%w: %w", errRefused, expect(line, want))
			}
		}
	}
	return errTooLong
}

var errTooLong = errors.New("the server's answer is too long")

func expect(line, want string) error {
	if strings.HasPrefix(strings.ToUpper(line), strings.ToUpper(want)) {
		return nil
	}
	return fmt.Errorf("the server answered %q instead of %s", legible.Clean(line, 200), want)
}

func (s *speaker) say(line string) error {
	_, err := io.WriteString(s.conn, line+"\r\n")
	return err
}

func (s *speaker) line() (string, error) {
	line, err := s.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", errTooLong
	}
	if errors.Is(err, io.EOF) {
		return "", errors.New("the server closed the connection")
	}
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}
