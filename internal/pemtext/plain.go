package pemtext

import (
	"bytes"
	"encoding/binary"
	"unicode"
	"unicode/utf8"
)

// byteOrderMark is U+FEFF. Windows programs write one at the start of each file, so
// concatenated files have them in the middle.
const byteOrderMark = '\ufeff'

// plain returns a copy of text in UTF-8 without byte order marks, whose lines end in LF; or why it
// cannot be PEM. The caller clears the copy.
func plain(text []byte) (copied []byte, problem string) {
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return nil, "it is empty"
	case text[0] == 0x30 && len(text) > 1 && (text[1] >= 0x80 || bytes.IndexByte(text, 0) >= 0):
		return nil, "it is binary (DER, or a PKCS#12 file), not PEM; convert it with openssl"
	case bytes.HasPrefix(text, []byte("\xff\xfe")):
		return fromUTF16(text[2:], binary.LittleEndian)
	case bytes.HasPrefix(text, []byte("\xfe\xff")):
		return fromUTF16(text[2:], binary.BigEndian)
	}
	return lines(text), ""
}

// fromUTF16 reads what Windows PowerShell writes by default. PEM is ASCII, so that a character
// beyond the basic plane can only be in the text around the blocks, where its value is of no matter.
func fromUTF16(text []byte, order binary.ByteOrder) ([]byte, string) {
	if len(text)%2 != 0 {
		return nil, "it is UTF-16 text that is cut off"
	}
	narrow := make([]byte, 0, len(text)/2*utf8.UTFMax) // never grows: one unit is at most 3 bytes
	defer func() { clear(narrow) }()
	for i := 0; i < len(text); i += 2 {
		narrow = utf8.AppendRune(narrow, rune(order.Uint16(text[i:])))
	}
	if len(bytes.TrimSpace(narrow)) == 0 {
		return nil, "it is empty"
	}
	return lines(narrow), ""
}

// lines copies text without byte order marks, with LF for CRLF, CR and the escapes \n, \r and \r\n,
// which remain when JSON, YAML or a shell quoted the text once too often. No base64 has a backslash.
func lines(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		i := 0
		for i < len(text) && text[i] < utf8.RuneSelf && text[i] != '\n' && text[i] != '\r' && text[i] != '\\' {
			i++
		}
		out = append(out, text[:i]...)
		if text = text[i:]; len(text) == 0 {
			break
		}
		switch n := lineEnd(text); {
		case n > 0:
			out = append(out, '\n')
			text = text[n:]
		case text[0] < utf8.RuneSelf:
			out = append(out, text[0])
			text = text[1:]
		default:
			r, size := utf8.DecodeRune(text)
			if unicode.IsSpace(r) { // web pages indent with no-break spaces
				out = append(out, ' ')
			} else if r != byteOrderMark {
				out = append(out, text[:size]...)
			}
			text = text[size:]
		}
	}
	return out
}

// lineEnd returns the length of the line end that text begins with, 0 if it begins with none.
func lineEnd(text []byte) int {
	for _, end := range []string{"\r\n", "\n", "\r", `\r\n`, `\n`, `\r`} {
		if bytes.HasPrefix(text, []byte(end)) {
			return len(end)
		}
	}
	return 0
}
