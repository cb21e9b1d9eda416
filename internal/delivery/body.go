package delivery

import (
	"bytes"
	_ "embed"
	"html/template"
	"strings"
	"unicode/utf8"
)

// The bodies are written by hand, not by templates: executing those took a quarter of the
// time that a mail with a certificate takes. The HTML is in templates/mail.html, in blocks.

//go:embed templates/mail.html
var htmlSource string

var htmlBlocks = cutBlocks(htmlSource)

// block is a piece of HTML: literal texts, and between each two of them a place for a value.
type block []string

// cutBlocks cuts a file at its lines "<!-- block NAME -->". A block extends to the next such
// line; with ", joined" after its name, it ends without its last line break. In a block,
// {{word}} is the place of a value.
func cutBlocks(source string) map[string]block {
	blocks := make(map[string]block)
	for part := range strings.SplitSeq(source, "<!-- block ") {
		name, text, found := strings.Cut(part, " -->\n")
		if !found {
			continue
		}
		if short, joined := strings.CutSuffix(name, ", joined"); joined {
			name, text = short, strings.TrimSuffix(text, "\n")
		}
		var b block
		for {
			literal, rest, more := strings.Cut(text, "{{")
			b = append(b, literal)
			if !more {
				break
			}
			_, text, _ = strings.Cut(rest, "}}")
		}
		blocks[name] = b
	}
	return blocks
}

// htmlWriter writes blocks. Every value is escaped for text and for quoted attributes.
type htmlWriter struct{ *bytes.Buffer }

// put writes a block with its values. It panics if the block has another number of places:
// a mistake in the source, which every test of a mail finds.
func (w htmlWriter) put(name string, values ...string) {
	b := htmlBlocks[name]
	if len(b) != len(values)+1 {
		panic("block " + name + " of templates/mail.html has another number of values")
	}
	w.WriteString(b[0])
	for i, v := range values {
		w.WriteString(template.HTMLEscapeString(v))
		w.WriteString(b[i+1])
	}
}

// writeHTML writes the HTML body.
func (v *mailView) writeHTML(to *bytes.Buffer) {
	w := htmlWriter{to}
	w.Grow(12 << 10)
	w.put("head", v.Name.Text, v.Name.Text, v.Valid, v.Product, v.Name.Text)
	if v.Name.Note != "" {
		w.put("note", v.Name.Note)
	}
	w.put("valid", v.Valid)
	if v.KeyInClear {
		w.put("danger", keyWarning)
	}
	for _, warning := range v.Warnings {
		w.put("warning", warning)
	}
	if v.Duplicate {
		w.put("duplicate", duplicateText)
	}
	w.put("facts")
	for _, row := range v.Rows {
		kind := "row"
		if row.Code {
			kind = "code row"
		}
		w.put(kind, row.Label)
		for i, line := range row.Lines {
			if i > 0 {
				w.WriteString("<br>")
			}
			w.WriteString(template.HTMLEscapeString(line.Text))
			if line.Note != "" {
				w.put("line note", line.Note)
			}
		}
		w.put("row end")
	}
	w.put("attached")
	for _, a := range v.Attachments {
		w.put("attachment", a.Name, a.Size, a.About)
	}
	for _, i := range v.Instructions {
		kind := "instruction"
		if i.Care {
			kind = "care"
		}
		w.put(kind, i.Text)
	}
	if len(v.Tips) > 0 {
		w.put("tips")
		for _, one := range v.Tips {
			w.put("tip", one.Program, one.Command)
		}
		w.put("tips end")
	}
	for _, note := range v.Notes {
		w.put("remark", note)
	}
	published := ""
	if v.Time != "" {
		published = ", " + v.Time
	}
	if v.Source != "" {
		published += ", from " + v.Source
	}
	w.put("foot", v.Product, v.Target, v.EventID, published)
}

// duplicateText tells a recipient why a mail may come twice.
const duplicateText = "You may receive this mail twice: the mail server's reply to an earlier attempt was lost. Both copies have the same certificate."

// writeText writes the plain text body. Its lines stay below 78 characters where the facts allow
// it.
func (v *mailView) writeText(w *bytes.Buffer) {
	w.Grow(4 << 10)
	lines := func(texts ...string) {
		for _, text := range texts {
			w.WriteString(text)
		}
		w.WriteByte('\n')
	}
	lines(v.Name.Text)
	lines(underline(v.Name.Text))
	if v.Name.Note != "" {
		lines("(", v.Name.Note, ")")
	}
	lines()
	lines("A certificate was issued and is attached to this mail.")
	lines(v.Valid)
	lines()
	if v.KeyInClear {
		lines("DANGER: ", wrap("        ", keyWarning))
		lines()
	}
	for _, warning := range v.Warnings {
		lines("WARNING: ", wrap("         ", warning))
		lines()
	}
	if v.Duplicate {
		lines(wrap("", duplicateText))
		lines()
	}
	for _, row := range v.Rows {
		label := row.Label
		for _, line := range row.Lines {
			note := ""
			if line.Note != "" {
				note = "  (" + line.Note + ")"
			}
			lines(pad(10, label), line.Text, note)
			label = ""
		}
	}
	lines()
	lines("Attached")
	for _, a := range v.Attachments {
		lines("  ", a.Name, "  (", a.Size, ")")
		lines("    ", a.About)
	}
	for _, i := range v.Instructions {
		lines()
		lines(wrap("", i.Text))
	}
	if len(v.Tips) > 0 {
		lines()
		lines("How to open it")
	}
	for _, one := range v.Tips {
		lines("  ", one.Program, ":")
		lines("    ", one.Command)
	}
	for _, note := range v.Notes {
		lines()
		lines("Note: ", wrap("      ", note))
	}
	lines()
	lines("-- ")
	lines(v.Product, " sent this for target ", v.Target, ".")
	w.WriteString("Event " + v.EventID)
	if v.Time != "" {
		w.WriteString(", " + v.Time)
	}
	if v.Source != "" {
		w.WriteString("\nfrom " + v.Source)
	}
	w.WriteByte('\n')
}

// wrap breaks a paragraph at spaces into lines of at most 72 characters; prefix is put
// in front of each but the first.
func wrap(prefix, s string) string {
	const width = 72
	var b strings.Builder
	column := utf8.RuneCountInString(prefix)
	for i, word := range strings.Fields(s) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > width:
			b.WriteString("\n" + prefix)
			column = utf8.RuneCountInString(prefix)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}

// pad fills s up to width characters.
func pad(width int, s string) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

func underline(s string) string { return strings.Repeat("-", utf8.RuneCountInString(s)) }
