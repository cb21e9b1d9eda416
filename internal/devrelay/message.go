package devrelay

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on what is parsed of a mail, whose sender is not trusted.
const (
	maxDepth = 8
	maxParts = 100
)

// Message is a parsed mail.
type Message struct {
	Header      mail.Header // as sent, not decoded
	Text, HTML  string      // the first text/plain and text/html parts that are not attachments
	Attachments []Attachment
}

// Attachment is a part of a mail that is a file.
type Attachment struct {
	Name string // decoded, without directories; "attachment-1" for the first if it has no name
	Type string // media type without parameters
	Data []byte
}

// Message parses the mail. For a malformed mail it returns what could be parsed, and the
// error.
func (m Mail) Message() (*Message, error) {
	read, err := mail.ReadMessage(bytes.NewReader(m.Raw))
	if err != nil {
		return &Message{Text: string(m.Raw)}, fmt.Errorf("mail %d has no readable header: %w", m.ID, err)
	}
	message := &Message{Header: read.Header}
	err = message.part(textproto.MIMEHeader(read.Header), read.Body, 0, new(int))
	return message, err
}

// largestAttachment is the size of a mail's largest attachment, decoded; 0 without one. What
// cannot be parsed does not count: the relay judges no mail by its form.
func largestAttachment(raw []byte) (size int64) {
	message, _ := Mail{Raw: raw}.Message()
	for _, a := range message.Attachments {
		size = max(size, int64(len(a.Data)))
	}
	return size
}

// Decoded returns a header's value with encoded words decoded.
func (m *Message) Decoded(name string) string { return decodeWords(m.Header.Get(name)) }

func (m *Message) part(header textproto.MIMEHeader, body io.Reader, depth int, seen *int) error {
	if *seen++; *seen > maxParts || depth > maxDepth {
		return errors.New("the mail has more than 100 parts, or parts nested deeper than 8 levels")
	}
	kind, parameters, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		kind = "text/plain"
	}
	if strings.HasPrefix(kind, "multipart/") {
		parts := multipart.NewReader(body, parameters["boundary"])
		for {
			part, err := parts.NextRawPart()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("a %s part cannot be read: %w", kind, err)
			}
			if err := m.part(part.Header, part, depth+1, seen); err != nil {
				return err
			}
		}
	}
	content, err := io.ReadAll(decodeTransfer(header.Get("Content-Transfer-Encoding"), body))
	m.keep(kind, parameters, header.Get("Content-Disposition"), content)
	if err != nil {
		return fmt.Errorf("a %s part does not have the declared encoding: %w", kind, err)
	}
	return nil
}

func (m *Message) keep(kind string, parameters map[string]string, disposition string, content []byte) {
	how, more, _ := mime.ParseMediaType(disposition)
	name := more["filename"]
	if name == "" {
		name = parameters["name"]
	}
	switch {
	case how != "attachment" && name == "" && kind == "text/plain" && m.Text == "":
		m.Text = decodeCharset(parameters["charset"], content)
	case how != "attachment" && name == "" && kind == "text/html" && m.HTML == "":
		m.HTML = decodeCharset(parameters["charset"], content)
	default:
		m.Attachments = append(m.Attachments, Attachment{Name: fileName(name, len(m.Attachments)+1), Type: kind, Data: content})
	}
}

func decodeTransfer(encoding string, body io.Reader) io.Reader {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, body)
	case "quoted-printable":
		return quotedprintable.NewReader(body)
	}
	return body
}

// decodeCharset supports UTF-8 (and so ASCII) and Latin-1; in other charsets all but ASCII
// becomes U+FFFD.
func decodeCharset(charset string, content []byte) string {
	if strings.EqualFold(charset, "iso-8859-1") {
		var b strings.Builder
		for _, c := range content {
			b.WriteRune(rune(c))
		}
		return b.String()
	}
	return strings.ToValidUTF8(string(content), "\ufffd")
}

func decodeWords(value string) string {
	decoded, err := new(mime.WordDecoder).DecodeHeader(value)
	if err != nil {
		return tidy(value)
	}
	return tidy(decoded)
}

// fileName returns the last element of a name, without invisible characters.
func fileName(name string, number int) string {
	name = decodeWords(name)
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	if strings.Trim(name, ". ") == "" {
		return fmt.Sprintf("attachment-%d", number)
	}
	return name
}

// tidy replaces control and format characters, including bidi controls, by U+FFFD, so that
// they do not change the text around them.
func tidy(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r)) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(text, "\ufffd"))
}
