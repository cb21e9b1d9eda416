package smtp

import (
	"bytes"
	"fmt"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"time"
)

// offers maps the extensions of a relay's reply to EHLO, keyword in upper case, to
// their parameters.
type offers map[string]string

// parseOffers reads the reply to EHLO. Keywords are case-insensitive (RFC 5321
// section 4.1.1.1); "AUTH=LOGIN" is how servers offered it before there was an RFC.
func parseOffers(text string) offers {
	o := offers{}
	for i, line := range strings.Split(text, "\n") {
		if i == 0 {
			continue // the relay's name
		}
		keyword, parameters, _ := strings.Cut(strings.TrimSpace(line), " ")
		keyword = strings.ToUpper(keyword)
		if method, old := strings.CutPrefix(keyword, "AUTH="); old {
			keyword, parameters = "AUTH", method+" "+parameters
		}
		o[keyword] = strings.TrimSpace(o[keyword] + " " + parameters)
	}
	return o
}

func (o offers) has(keyword string) bool {
	_, offered := o[keyword]
	return offered
}

// mechanisms are the AUTH mechanisms, in upper case.
func (o offers) mechanisms() []string { return strings.Fields(strings.ToUpper(o["AUTH"])) }

// SizeLimit is the largest mail the relay accepts, in bytes; 0 if it states no limit (RFC 1870).
func (o offers) SizeLimit() int {
	limit, err := strconv.Atoi(o["SIZE"])
	if err != nil || limit < 0 {
		return 0
	}
	return limit
}

// command sends one line and returns the reply to it.
func (s *Session) command(expect int, line string) (code int, text string, err error) {
	if err := s.sendLines(line); err != nil {
		return 0, "", err
	}
	return s.readReply(expect)
}

// sendLines sends lines in one packet, at most maxPipelined; each gets a reply.
func (s *Session) sendLines(lines ...string) error {
	if err := s.checkNoExtraReply(); err != nil {
		return err
	}
	size := 0
	for _, line := range lines {
		size += len(line) + len("\r\n")
	}
	packet := make([]byte, 0, size)
	for _, line := range lines {
		packet = append(append(packet, line...), "\r\n"...)
	}
	defer clear(packet) // it may contain credentials (AUTH)
	s.wire.expect(len(lines))
	s.transcript.recordLines(lines...)
	return s.write(packet)
}

// checkNoExtraReply fails if a reply is left over from earlier commands: it would be taken
// for the reply to the next command, in the worst case for the acceptance of the mail. If
// it is a refusal, the error is that refusal, else errExtraReply.
func (s *Session) checkNoExtraReply() error {
	if s.in.Buffered() == 0 {
		return nil
	}
	code, text, err := s.readReply(0)
	if err == nil && code >= 400 {
		return &textproto.Error{Code: code, Msg: text}
	} else if err == nil {
		return errExtraReply
	}
	return err
}

// write sends p, to which a reply is expected. If the write fails, the error is an
// earlyReply, if there is one.
func (s *Session) write(p []byte) error {
	if _, err := s.wire.Write(p); err != nil {
		return s.earlyReply(err)
	}
	return nil
}

// readReply reads the next reply. It is an error if its code does not match expect, which
// may be a prefix; 0 accepts any code.
func (s *Session) readReply(expect int) (code int, text string, err error) {
	code, text, err = readReply(s.in)
	if err == nil && !matches(code, expect) {
		err = &textproto.Error{Code: code, Msg: text}
	}
	s.transcript.recordReply(code, text)
	return code, text, err
}

// earlyReply returns the refusal that the relay sent before it closed the connection
// during a write, as relays do if the mail is too large or their disk is full; else err.
func (s *Session) earlyReply(err error) error {
	_ = s.tcp.SetReadDeadline(time.Now().Add(earlyReplyTimeout))
	code, text, readErr := s.readReply(0)
	if readErr != nil || code < 400 {
		return err
	}
	return &textproto.Error{Code: code, Msg: text}
}

// content writes the mail and the final dot, at once. If it fails, the final dot was not sent.
func (s *Session) content(raw []byte) error {
	if err := s.checkNoExtraReply(); err != nil {
		s.dead = true // the relay expects content, not a command
		return err
	}
	s.wire.expect(1)
	s.transcript.recordLines(fmt.Sprintf("(the mail, %d bytes)", len(raw)), ".")
	buffer := contents.Get().(*[]byte)
	*buffer = stuff(*buffer, raw)
	err := s.write(*buffer)
	clear(*buffer) // a copy of a mail that may contain a private key
	if cap(*buffer) <= maxKeptContent {
		contents.Put(buffer)
	}
	return err
}

// contents are buffers for content, all of them cleared. Larger ones than maxKeptContent are
// not kept.
var contents = sync.Pool{New: func() any { return new([]byte) }}

const maxKeptContent = 256 << 10 // bytes

// stuff returns a mail as it follows DATA: with a dot before the dot at the beginning of every line
// that has one, and with the final dot (RFC 5321 sections 4.5.2 and 4.1.1.4). It writes into the
// buffer if that is large enough, else into a new one: none is moved while it is filled.
func stuff(buffer, raw []byte) []byte {
	if most := len(raw) + bytes.Count(raw, []byte("\n.")) + len(".\r\n.\r\n"); cap(buffer) < most {
		buffer = make([]byte, 0, most)
	}
	to := buffer[:0]
	for line, rest := []byte(nil), raw; len(rest) > 0; {
		line = rest
		if end := bytes.IndexByte(rest, '\n'); end >= 0 {
			line = rest[:end+1]
		}
		rest = rest[len(line):]
		if line[0] == '.' {
			to = append(to, '.')
		}
		to = append(to, line...)
	}
	if !bytes.HasSuffix(raw, []byte("\r\n")) {
		to = append(to, "\r\n"...)
	}
	return append(to, ".\r\n"...)
}
