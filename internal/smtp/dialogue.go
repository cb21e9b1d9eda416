package smtp

import (
	"bytes"
	"fmt"
	"net/textproto"
	"strconv"
	"strings"
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

// sendLines sends lines in one packet; each gets a reply. The lines (at most 52, for 50
// recipients) and their replies are short enough to fit into the buffers of both sides, so
// that neither side has to read before the other has finished writing.
func (s *Session) sendLines(lines ...string) error {
	if err := s.checkNoExtraReply(); err != nil {
		return err
	}
	packet := []byte(strings.Join(lines, "\r\n") + "\r\n")
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

// content writes the mail and the final dot. If it fails, the final dot was not sent.
func (s *Session) content(raw []byte) error {
	if err := s.checkNoExtraReply(); err != nil {
		s.dead = true // the relay expects content, not a command
		return err
	}
	stuffed := stuff(raw)
	if len(stuffed) != len(raw) {
		defer clear(stuffed) // a copy of a mail that may contain a private key
	}
	end := ".\r\n"
	if !bytes.HasSuffix(raw, []byte("\r\n")) {
		end = "\r\n.\r\n"
	}
	s.wire.expect(1)
	s.transcript.recordLines(fmt.Sprintf("(the mail, %d bytes)", len(raw)), ".")
	if err := s.write(stuffed); err != nil {
		return err
	}
	return s.write([]byte(end))
}

// stuff doubles the dot at the beginning of every line that has one (RFC 5321 section
// 4.5.2). If there is none, it returns raw itself.
func stuff(raw []byte) []byte {
	dots := bytes.Count(raw, []byte("\r\n."))
	first := bytes.HasPrefix(raw, []byte("."))
	if dots == 0 && !first {
		return raw
	}
	stuffed := make([]byte, 0, len(raw)+dots+1)
	if first {
		stuffed = append(stuffed, '.')
	}
	for rest := raw; ; {
		i := bytes.Index(rest, []byte("\r\n."))
		if i < 0 {
			return append(stuffed, rest...)
		}
		stuffed = append(append(stuffed, rest[:i]...), "\r\n.."...)
		rest = rest[i+len("\r\n."):]
	}
}
