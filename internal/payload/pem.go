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
	// maxBlocks is more than any chain needs; blocks beyond it are not decoded.
	maxBlocks = 64
)

// readPEM splits a PEM text into its blocks. It accepts what editors, shells and
// openssl turn PEM files into: a byte order mark, any line ends, indented lines,
// text around the blocks, files concatenated without a line break. Blocks that
// encoding/pem silently skips (truncated, damaged, or all on one line) are errors
// here, because a delivery would otherwise lack them. Error texts quote nothing of
// the input; they say "it" and the caller names the text.
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
				return nil, fmt.Errorf("the BEGIN line on line %d is damaged; the line breaks that PEM requires seem to be lost", number)
			}
			kind, start, startLine = k, offset, number
		case bytes.HasPrefix(line, []byte(endMark)):
			if kind == "" {
				return nil, fmt.Errorf("its beginning is cut off: line %d ends a block that has no BEGIN line", number)
			}
			if k, ok := blockKind(line[len(endMark):]); !ok || k != kind {
				return nil, fmt.Errorf("the %s block that begins on line %d has a different END line on line %d", kind, startLine, number)
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
			return nil, fmt.Errorf("line %d has text before -----BEGIN; a block must begin on its own line", number)
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

// notText returns why a text cannot be PEM, "" if it may be PEM.
func notText(text []byte) string {
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		return "it is empty"
	case text[0] == 0x30 && len(text) > 1 && (text[1] >= 0x80 || bytes.IndexByte(text, 0) >= 0):
		return "it is binary (DER, or a PKCS#12 file), not PEM; convert it with openssl"
	case bytes.HasPrefix(text, []byte("\xff\xfe")), bytes.HasPrefix(text, []byte("\xfe\xff")):
		return "it is UTF-16 text, as Windows PowerShell writes it; save it as ASCII or UTF-8"
	case bytes.Contains(text, []byte(endDashes+`\n`)), bytes.Contains(text, []byte(endDashes+`\r\n`)):
		return `its line breaks are escaped: it has the two characters \ and n instead of line breaks`
	}
	return ""
}

// noBlocks describes a text that has no block.
func noBlocks(text []byte) string {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("MI")) {
		return "it is base64 without the -----BEGIN and -----END lines of PEM"
	}
	return "it has no PEM block: no line starts with -----BEGIN"
}

// normalise returns a copy of text in which every line, the last too, ends in LF and has
// no white space or byte order mark around it.
func normalise(text []byte) []byte {
	// The capacity is never exceeded, so the caller's clear reaches the whole copy: only
	// the last line and END lines directly followed by BEGIN get a byte that text lacks.
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
		// A file without a final line break, with another file appended to it.
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

// blockKind parses the rest of a BEGIN or END line: the kind and five dashes.
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

// encodedSize returns the length in bytes of a DER certificate as a PEM block.
func encodedSize(der []byte) int {
	n := base64.StdEncoding.EncodedLen(len(der))
	return n + (n+63)/64 + len("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
}
