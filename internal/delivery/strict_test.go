package delivery

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
)

// mailPart is an entity of a mail, decoded.
type mailPart struct {
	depth  int // 0 is the mail itself
	header mail.Header
	body   []byte
}

var fieldLine = regexp.MustCompile(`^([!-9;-~]+): ?(.*)$`)

// partHeaders are the headers that a part of a mail may have.
var partHeaders = []string{"Content-Description", "Content-Disposition", "Content-Id", "Content-Transfer-Encoding", "Content-Type"}

// inspectMail walks through a mail with a parser that is not that of the writer, nor of the
// standard library, and accepts nothing beyond RFC 5322 and RFC 2045 to 2047: each line ends
// in CRLF and has at most 998 bytes, each header is a field, folded lines begin with a blank
// and are not blank, boundaries stand alone and the last one closes, nothing follows it, and
// encodings have only their own characters.
func inspectMail(t testing.TB, raw []byte, visit func(mailPart)) {
	t.Helper()
	if !bytes.HasSuffix(raw, []byte("\r\n")) {
		t.Fatal("the last line has no end")
	}
	lines := strings.Split(strings.TrimSuffix(string(raw), "\r\n"), "\r\n")
	for _, line := range lines {
		if strings.ContainsAny(line, "\r\n\x00") {
			t.Fatalf("a line has a bare CR or LF, or a NUL: %.80q", line)
		}
		if len(line) > 998 {
			t.Fatalf("a line has %d bytes", len(line))
		}
	}
	inspectEntity(t, lines, 0, visit)
}

func inspectEntity(t testing.TB, lines []string, depth int, visit func(mailPart)) {
	t.Helper()
	p := mailPart{depth: depth, header: mail.Header{}}
	name := ""
	for len(lines) > 0 && lines[0] != "" {
		line := lines[0]
		lines = lines[1:]
		if line[0] == ' ' || line[0] == '\t' {
			if name == "" || strings.Trim(line, " \t") == "" {
				t.Fatalf("a folded line belongs to nothing, or is blank: %q", line)
			}
			last := &p.header[name][len(p.header[name])-1]
			*last = strings.TrimSpace(*last + " " + strings.TrimLeft(line, " \t"))
			continue
		}
		field := fieldLine.FindStringSubmatch(line)
		if field == nil {
			t.Fatalf("a header line is no field: %.80q", line)
		}
		name = mailHeaderKey(field[1])
		if p.header[name] != nil {
			t.Fatalf("%s occurs twice", name)
		}
		if allowed := slices.Contains(partHeaders, name); !allowed && depth > 0 || !allowed && !slices.Contains(headerNames, name) && name != "Dkim-Signature" {
			t.Fatalf("the header %s at depth %d", name, depth)
		}
		p.header[name] = []string{field[2]}
	}
	if len(lines) > 0 {
		lines = lines[1:]
	}
	kind, params, err := mime.ParseMediaType(p.header.Get("Content-Type"))
	if err != nil {
		t.Fatalf("Content-Type %q: %v", p.header.Get("Content-Type"), err)
	}
	body := strings.Join(lines, "\r\n")
	switch encoding := strings.ToLower(p.header.Get("Content-Transfer-Encoding")); encoding {
	case "base64":
		for i, line := range lines {
			if len(line) > 76 || i < len(lines)-2 && len(line) != 76 && line != "" {
				t.Fatalf("a base64 line of %d bytes", len(line))
			}
		}
		p.body, err = base64.StdEncoding.DecodeString(strings.Join(lines, ""))
	case "quoted-printable":
		for _, line := range lines {
			if len(line) > 76 || strings.HasSuffix(line, " ") || strings.ContainsFunc(line, func(r rune) bool { return r > '~' || r < ' ' && r != '\t' }) {
				t.Fatalf("a quoted-printable line is %q", line)
			}
		}
		p.body, err = io.ReadAll(quotedprintable.NewReader(strings.NewReader(body)))
	case "", "7bit":
		p.body = []byte(body)
	default:
		t.Fatalf("the encoding %s", encoding)
	}
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	visit(p)
	if !strings.HasPrefix(kind, "multipart/") {
		return
	}
	boundary := params["boundary"]
	var part []string
	inside, closed := false, false
	for i, line := range lines {
		switch {
		case closed && line != "":
			t.Fatalf("text after the last part: %.80q", line)
		case line == "--"+boundary || line == "--"+boundary+"--":
			if inside {
				if n := len(part); n > 0 && part[n-1] == "" {
					part = part[:n-1] // go-mail writes a blank line before a boundary
				}
				inspectEntity(t, part, depth+1, visit)
			}
			part, inside, closed = nil, true, strings.HasSuffix(line, "--") && line != "--"+boundary
		case strings.HasPrefix(line, "--"+boundary):
			t.Fatalf("line %d is not quite a boundary: %q", i, line)
		case inside:
			part = append(part, line)
		case line != "":
			t.Fatalf("text before the first part: %.80q", line)
		}
	}
	if !closed {
		t.Fatalf("%s is not closed", kind)
	}
}

func mailHeaderKey(name string) string {
	words := strings.Split(strings.ToLower(name), "-")
	for i, w := range words {
		if w != "" {
			words[i] = strings.ToUpper(w[:1]) + w[1:]
		}
	}
	return strings.Join(words, "-")
}

// Whatever a template and its fields are, a strict parser reads the mail.
//
// Fault: text in the fields of a template that looks like a header. Result: no new header.
func FuzzTemplateMail(f *testing.F) {
	for _, text := range hostile {
		f.Add("{{.Name}} {{.Labels.owner}}", "{{.EventID}}\n{{range .Names}}{{.}}\n{{end}}{{.Labels.owner}}", text[:min(len(text), 3000)])
	}
	f.Add("=?utf-8?q?=0D=0ABcc:_x?= {{.Source}}", "--x\r\n.\r\n..\r\nFrom x\r\n{{printf \"%c%c\" 13 10}}", "x\r\n\r\ny")
	f.Add(strings.Repeat("日本語", 90), strings.Repeat("x", 2000)+"{{.Source}}", strings.Repeat("z", 2000))
	b, _ := goldenPKI(f)
	f.Fuzz(func(t *testing.T, subject, body, text string) {
		target := testTarget()
		dir := t.TempDir()
		target.Templates = Templates{Subject: dir + "/s", Text: dir + "/t", HTML: dir + "/h"}
		lab.Write(t, target.Templates.Subject, []byte(subject))
		lab.Write(t, target.Templates.Text, []byte(body))
		lab.Write(t, target.Templates.HTML, []byte("<p>"+body+"</p>"))
		if target.words = ReadTemplates(target.Templates); len(target.words.Problems()) > 0 {
			return
		}
		m, err := renderMail(target, mailFacts{eventID: text, source: text, now: lab.TestNow, bundle: b, warnings: []string{text},
			labels: map[string]string{"owner": text, text: text}, product: text})
		if err != nil {
			return // stopped by a limit
		}
		goodWire(t, m)
		var kinds []string
		inspectMail(t, m.raw, func(p mailPart) {
			kind, _, _ := strings.Cut(p.header.Get("Content-Type"), ";")
			kinds = append(kinds, kind)
		})
		if want := []string{"multipart/alternative", "text/plain", "text/html"}; !slices.Equal(kinds, want) {
			t.Errorf("the parts are %q", kinds)
		}
	})
}
