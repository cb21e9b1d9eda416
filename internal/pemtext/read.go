// Package pemtext reads PEM texts (RFC 7468): those that people publish, that events carry and
// that secret stores hold. It is the only reader of PEM in the program, so that a text means the
// same to the publisher, in the fan-out, in a delivery and on the pages.
//
// It accepts what editors, shells and secret stores turn PEM into where the meaning is plain, and
// refuses what would leave out a part of the text: a delivery without its leaf would carry the
// certificate of the issuer. Errors quote nothing of the text; they say "it", and the caller names
// the text.
package pemtext

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"
)

// Block is one block of a PEM text.
type Block struct {
	Kind      string // "CERTIFICATE"
	Line      int    // of its BEGIN, from 1
	Encrypted bool   // Proc-Type: 4,ENCRYPTED (RFC 1421)
	DER       []byte
}

const (
	beginMark = "-----BEGIN "
	endMark   = "-----END "
	dashes    = "-----"
	// MaxBlocks is more than any chain needs; blocks beyond it are not decoded.
	MaxBlocks = 64
	// maxKind is the length of the longest label, in bytes.
	maxKind = 40
)

// Read splits a PEM text into its blocks. It accepts byte order marks, UTF-16 with one, any line
// ends, line ends written as \n, lost line ends, indented lines, text around the blocks, and files
// concatenated without a line break. A block that is cut off or damaged is an error; the blocks
// before it are returned with it.
func Read(text []byte) ([]Block, error) {
	text, problem := plain(text)
	if problem != "" {
		return nil, errors.New(problem)
	}
	defer clear(text)
	p := parser{content: make([]byte, 0, len(text))}
	defer clear(p.content[:cap(p.content)])
	if err := p.read(text); err != nil {
		return p.blocks, err
	}
	if len(p.blocks) == 0 {
		return nil, errors.New(noBlocks(text))
	}
	return p.blocks, nil
}

// parser reads a text piece by piece: a line, or the part of a line up to, between or after the
// marks of blocks.
type parser struct {
	blocks  []Block
	open    Block  // without Kind between blocks
	content []byte // base64 of the open block; never grows, so that clearing it leaves no copy
	headers bool   // the open block has only had header lines so far
}

func (p *parser) read(text []byte) error {
	for number := 1; len(text) > 0; number++ {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		for line = bytes.TrimSpace(line); ; {
			var piece []byte
			if piece, line = p.cut(line); len(piece) > 0 {
				if err := p.piece(piece, number); err != nil {
					return err
				}
			}
			if line = bytes.TrimSpace(line); len(line) == 0 {
				break
			}
		}
	}
	if p.open.Kind != "" {
		return fmt.Errorf("it is cut off: the %s block that begins on line %d has no END line", p.open.Kind, p.open.Line)
	}
	return nil
}

// cut splits a line after a mark at its start, and before an END mark that follows base64: PEM
// whose line ends became spaces or were lost.
func (p *parser) cut(line []byte) (piece, rest []byte) {
	for _, mark := range []string{beginMark, endMark} {
		label, ok := bytes.CutPrefix(line, []byte(mark))
		if !ok {
			continue
		}
		if i := bytes.Index(label, []byte(dashes)); i >= 0 {
			end := len(mark) + i + len(dashes)
			return line[:end], line[end:]
		}
		return line, nil
	}
	if i := bytes.Index(line, []byte(endMark)); i >= 0 && p.open.Kind != "" {
		return line[:i], line[i:]
	}
	return line, nil
}

func (p *parser) piece(piece []byte, number int) error {
	switch mark := bytes.Index(piece, []byte(dashes)); {
	case bytes.HasPrefix(piece, []byte(beginMark)):
		return p.begin(piece[len(beginMark):], number)
	case bytes.HasPrefix(piece, []byte(endMark)):
		return p.end(piece[len(endMark):], number)
	case mark >= 0 && bytes.Contains(piece[mark:], []byte(beginMark)):
		return fmt.Errorf("line %d has text before -----BEGIN; a block must begin on its own line", number)
	case p.open.Kind == "" && mark >= 0 && bytes.Contains(piece[mark:], []byte(endMark)):
		return unopened(number)
	case p.open.Kind == "" && damagedMark(piece):
		return fmt.Errorf("the BEGIN line on line %d is damaged", number)
	case p.open.Kind == "": // text around the blocks
	case p.headers && bytes.IndexByte(piece, ':') > 0:
		p.open.Encrypted = p.open.Encrypted || bytes.HasPrefix(piece, []byte("Proc-Type")) && bytes.Contains(piece, []byte("ENCRYPTED"))
	default:
		p.headers = false
		for part := range bytes.FieldsSeq(piece) {
			p.content = append(p.content, part...)
		}
	}
	return nil
}

func (p *parser) begin(label []byte, number int) error {
	switch kind, ok := kindOf(label); {
	case p.open.Kind != "":
		return fmt.Errorf("it is cut off: the %s block that begins on line %d has no END line before the next block on line %d", p.open.Kind, p.open.Line, number)
	case len(p.blocks) == MaxBlocks:
		return fmt.Errorf("it has more than %d blocks", MaxBlocks)
	case !ok:
		return fmt.Errorf("the BEGIN line on line %d is damaged", number)
	default:
		p.open, p.headers, p.content = Block{Kind: kind, Line: number}, true, p.content[:0]
	}
	return nil
}

func (p *parser) end(label []byte, number int) error {
	kind, ok := kindOf(label)
	switch {
	case p.open.Kind == "":
		return unopened(number)
	case !ok || kind != p.open.Kind:
		return fmt.Errorf("the %s block that begins on line %d has a different END line on line %d", p.open.Kind, p.open.Line, number)
	}
	der := make([]byte, base64.StdEncoding.DecodedLen(len(p.content)))
	n, err := base64.StdEncoding.Decode(der, p.content)
	if err != nil { // not wrapped: it says nothing that the lines do not
		clear(der)
		return fmt.Errorf("the %s block on lines %d to %d is damaged: its content is not base64", kind, p.open.Line, number)
	}
	p.open.DER = der[:n]
	p.blocks = append(p.blocks, p.open)
	p.open = Block{}
	return nil
}

func unopened(number int) error {
	return fmt.Errorf("its beginning is cut off: line %d ends a block that has no BEGIN line", number)
}

// damagedMark reports whether a line between blocks looks like the BEGIN of a certificate: with
// other dashes, as word processors make them, too few, or in lower case. Its block would be skipped
// as text.
func damagedMark(line []byte) bool {
	first, _ := utf8.DecodeRune(line)
	if !unicode.Is(unicode.Pd, first) {
		return false
	}
	line = bytes.ToUpper(line)
	return bytes.Contains(line, []byte("BEGIN")) && bytes.Contains(line, []byte("CERTIFICATE"))
}

// kindOf parses the rest of a BEGIN or END line: the label and five dashes.
func kindOf(rest []byte) (string, bool) {
	kind, ok := bytes.CutSuffix(rest, []byte(dashes))
	if !ok || len(kind) == 0 || len(kind) > maxKind {
		return "", false
	}
	for _, c := range kind {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != ' ' {
			return "", false
		}
	}
	return string(kind), true
}

// noBlocks describes a text that has no block.
func noBlocks(text []byte) string {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("MI")) {
		return "it is base64 without the -----BEGIN and -----END lines of PEM"
	}
	return "it has no PEM block: no line starts with -----BEGIN"
}
