package smtp

import (
	"errors"
	"net/textproto"
	"regexp"
	"strconv"
	"strings"
)

// maxReplyText limits how much of a reply's text is stored, in bytes.
const maxReplyText = 512

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
