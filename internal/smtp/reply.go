package smtp

import (
	"bufio"
	"errors"
	"io"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
)

// maxReplyText limits how much of a reply's text is stored, in bytes.
const maxReplyText = 512

// errMalformed is the error of a reply that does not follow RFC 5321 section 4.2.
const errMalformed = textproto.ProtocolError("malformed reply")

// readReply reads one reply, of one line or several (RFC 5321 section 4.2): each line is
// the code, then a hyphen if another line follows, and text, which may be missing
// together with the space before it. net/textproto wants the space, and would wait for
// more lines after a last one without it. The text has the lines without the code,
// joined by line feeds. A line without a code within a reply counts as text.
func readReply(r *bufio.Reader) (code int, text string, err error) {
	var lines []string
	for {
		line, err := r.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		number, separator, text := parseReplyLine(line)
		if err != nil && !(errors.Is(err, io.EOF) && separator != 0) {
			return 0, "", err // a line that was cut off behind its separator says enough
		}
		switch {
		case code == 0 && number == 0:
			return 0, "", errMalformed
		case code == 0:
			code = number
		case number == code:
		case number != 0 && separator != '-':
			return 0, "", errMalformed // it is unclear which of the codes is meant
		default:
			text, separator = line, '-'
		}
		lines = append(lines, text)
		if separator != '-' {
			return code, strings.Join(lines, "\n"), nil
		}
	}
}

// parseReplyLine splits a line into its code (0 if it has none), the separator (0 at the
// end of the line) and the text.
func parseReplyLine(line string) (code int, separator byte, text string) {
	const digits = 3
	if len(line) < digits || strings.Trim(line[:digits], "0123456789") != "" || line[0] == '0' {
		return 0, 0, ""
	}
	code, _ = strconv.Atoi(line[:digits])
	switch {
	case len(line) == digits:
		return code, 0, ""
	case line[digits] == ' ' || line[digits] == '-':
		return code, line[digits], line[digits+1:]
	}
	return 0, 0, ""
}

// matches reports whether a code is the expected one; expect may be a prefix of one or
// two digits, and 0 matches every code.
func matches(code, expect int) bool {
	for code > 0 && code != expect {
		code /= 10
	}
	return code == expect
}

// replyCode is the code of the relay's reply in err, 0 if there is none.
func replyCode(err error) int {
	if reply, ok := errors.AsType[*textproto.Error](err); ok {
		return reply.Code
	}
	return 0
}

// replyEnhanced is the enhanced status code of the reply in err, "" if there is none.
func replyEnhanced(err error) string {
	reply, ok := errors.AsType[*textproto.Error](err)
	if !ok {
		return ""
	}
	return enhancedCode(reply.Code, reply.Msg)
}

// enhancedCode is the enhanced status code that a reply's text begins with (RFC
// 2034), "" if there is none or if its class is not the reply's.
func enhancedCode(code int, text string) string {
	first, _, _ := strings.Cut(text, " ")
	first, _, _ = strings.Cut(first, "\n")
	parts := strings.Split(first, ".")
	if len(parts) != 3 || parts[0] != strconv.Itoa(code/100) {
		return ""
	}
	for _, part := range parts {
		if n, err := strconv.Atoi(part); err != nil || n < 0 || len(part) > 3 || part[0] == '+' {
			return ""
		}
	}
	return first
}

// speaksOfSession reports whether a temporary refusal concerns the connection, as a limit
// of mails per session does (452 4.4.5), and not the mail: on another connection the
// relay may take it. Its text counts, because relays have no common
// code for it; it never changes the verdict on a mail, and at worst costs a connection.
func speaksOfSession(err error) bool {
	reply, ok := errors.AsType[*textproto.Error](err)
	if !ok || reply.Code/100 != 4 {
		return false
	}
	text := strings.ToLower(reply.Msg)
	return enhancedCode(reply.Code, reply.Msg) == "4.4.5" || strings.Contains(text, "session") || strings.Contains(text, "connection")
}

// queueIDs match the relay's queue id in its reply to the final dot, in the form that
// the relay's log has.
var queueIDs = []*regexp.Regexp{
	regexp.MustCompile(`\bqueued as ([A-Za-z0-9_-]{4,64})`),                           // Postfix, devrelay
	regexp.MustCompile(`\bid=([A-Za-z0-9]{6,11}-[A-Za-z0-9]{6,11}-[A-Za-z0-9]{2,4})`), // Exim, before and since 4.97
	regexp.MustCompile(`\[InternalId=([0-9]{1,20})[,\]]`),                             // Exchange
	regexp.MustCompile(`(?:^| )([A-Za-z0-9]{8,32}) Message accepted for delivery`),    // Sendmail, OpenSMTPD
	regexp.MustCompile(` ([A-Za-z0-9.-]{10,64}) - gsmtp$`),                            // Google
	regexp.MustCompile(`^(?:2\.\d\.\d )?Ok ([0-9a-f]{16}-[0-9a-f-]{20,64})$`),         // Amazon SES
}

// queueID is the relay's queue id for the mail, "" if no pattern matches its reply.
func queueID(text string) string {
	for _, pattern := range queueIDs {
		if found := pattern.FindStringSubmatch(text); found != nil {
			return found[1]
		}
	}
	return ""
}
