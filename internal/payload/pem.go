package payload

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// pemBlock is one block of a PEM text.
type pemBlock struct {
	kind      string // "CERTIFICATE"
	line      int    // of its BEGIN, from 1
	encrypted bool   // Proc-Type: 4,ENCRYPTED
	der       []byte
}

const (
	beginMark = "-----BEGIN "
	endMark   = "-----END "
	endDashes = "-----"
	utf8BOM   = "\ufeff"
	// maxBlocks is above what any chain needs; more is not even decoded.
	maxBlocks = 64
)

// readPEM splits a PEM text into its blocks. It takes what editors, shells and
// openssl make of PEM files: a byte order mark, any line ends, indented lines,
// text around the blocks, files put together without a line break. What
// encoding/pem skips in silence is an error here: a block cut off, damaged or
// pressed into one line would otherwise be missing from a delivery. Errors are
// our own words and quote nothing of the text; the caller says whose text it is.
func readPEM(text []byte) ([]pemBlock, error) {
	if problem := notText(text); problem != "" {
		return nil, errors.New(problem)
	}
	text = normalise(text)
	defer clear(text)

	var blocks []pemBlock
	kind, start, startLine := "", 0, 0 // of the open block
	for offset, number := 0, 1; offset < len(text); number++ {
		next := len(text)
		if i := bytes.IndexByte(text[offset:], '\n'); i >= 0 {
			next = offset + i + 1
		}
		line := text[offset : next-1]

		switch mark := bytes.Index(line, []byte("-----")); {
		case mark < 0:
		case bytes.HasPrefix(line, []byte(beginMark)):
			if kind != "" {
				return nil, fmt.Errorf("it is cut off: the %s block that begins on line %d has no END line before the next block on line %d", kind, startLine, number)
			}
			if len(blocks) == maxBlocks {
				return nil, fmt.Errorf("it has more than %d blocks", maxBlocks)
			}
			k, ok := blockKind(line[len(beginMark):])
			if !ok {
				return nil, fmt.Errorf("the BEGIN line of the block on line %d is damaged; PEM needs its line breaks, and they seem to be lost", number)
			}
			kind, start, startLine = k, offset, number
		case bytes.HasPrefix(line, []byte(endMark)):
			if kind == "" {
				return nil, fmt.Errorf("it is cut off at the front: line %d ends a block that never began", number)
			}
			if k, ok := blockKind(line[len(endMark):]); !ok || k != kind {
				return nil, fmt.Errorf("the %s block that begins on line %d is not ended by its own END line on line %d", kind, startLine, number)
			}
			block, _ := pem.Decode(text[start:next])
			if block == nil {
				return nil, fmt.Errorf("the %s block on lines %d to %d is damaged: its content is not base64", kind, startLine, number)
			}
			blocks = append(blocks, pemBlock{
				kind: kind, line: startLine, der: block.Bytes,
				encrypted: strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"),
			})
			kind = ""
		case bytes.Contains(line[mark:], []byte(beginMark)):
			return nil, fmt.Errorf("line %d has text in front of -----BEGIN; a block has to begin on a line of its own", number)
		}
		offset = next
	}
	switch {
	case kind != "":
		return nil, fmt.Errorf("it is cut off: the %s block that begins on line %d has no END line", kind, startLine)
	case len(blocks) == 0:
		return nil, errors.New(noBlocks(text))
	}
	return blocks, nil
}

// notText says why a text cannot be PEM at all, "" if it may be.
func notText(text []byte) string {
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return "it is empty"
	case text[0] == 0x30 && len(text) > 1 && (text[1] >= 0x80 || bytes.IndexByte(text, 0) >= 0):
		return "it is binary (DER, or a PKCS#12 file), not PEM; convert it with openssl"
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		return "it is UTF-16 text, as Windows PowerShell writes it; save it as ASCII or UTF-8"
	case bytes.Contains(text, []byte(endDashes+`\n`)), bytes.Contains(text, []byte(endDashes+`\r\n`)):
		return `its line breaks are escaped: there are the two characters \ and n where line breaks belong`
	}
	return ""
}

// noBlocks says what a text without any block seems to be.
func noBlocks(text []byte) string {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("MI")) {
		return "it is base64 without the -----BEGIN and -----END lines of PEM"
	}
	return "there is no PEM block in it: it has no line that starts with -----BEGIN"
}

// normalise gives a copy of text with LF line ends, the last line ended, and
// no white space or byte order marks around the lines.
func normalise(text []byte) []byte {
	// Never grown beyond this, so that clear reaches all of it: a line ends in at
	// least one byte, but for the last one and for END lines with a BEGIN behind.
	out := make([]byte, 0, len(text)+len(text)/len(endMark)+1)
	for len(text) > 0 {
		end := bytes.IndexAny(text, "\r\n")
		line, rest := text, []byte(nil)
		if end >= 0 {
			line, rest = text[:end], text[end+1:]
			if text[end] == '\r' && len(rest) > 0 && rest[0] == '\n' {
				rest = rest[1:]
			}
		}
		line = bytes.TrimSpace(bytes.TrimPrefix(bytes.TrimSpace(line), []byte(utf8BOM)))
		// A file without a final line break, and another one put behind it.
		if i := bytes.Index(line, []byte(endDashes+beginMark)); i >= 0 && bytes.HasPrefix(line, []byte(endMark)) {
			text = text[bytes.Index(text, []byte(endDashes+beginMark))+len(endDashes):]
			out = append(append(out, line[:i+len(endDashes)]...), '\n')
			continue
		}
		out = append(append(out, line...), '\n')
		text = rest
	}
	return out
}

// blockKind reads the rest of a BEGIN or END line: the kind and five dashes.
func blockKind(rest []byte) (string, bool) {
	kind, ok := bytes.CutSuffix(rest, []byte(endDashes))
	if !ok || len(kind) == 0 || len(kind) > 40 {
		return "", false
	}
	for _, c := range kind {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != ' ' {
			return "", false
		}
	}
	return string(kind), true
}

// encodedSize is the length in bytes of a DER certificate as a PEM block.
func encodedSize(der []byte) int {
	n := base64.StdEncoding.EncodedLen(len(der))
	return n + (n+63)/64 + len("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
}
