package delivery

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// readMail is a mail as a mail program reads it.
type readMail struct {
	header mail.Header
	text   string
	html   string
	files  []payload.Attachment
}

// read parses a mail and fails if it is not multipart/mixed of
// multipart/alternative (text, html) and attachments.
func read(t testing.TB, raw []byte) *readMail {
	t.Helper()
	msg, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("not a mail: %v", err)
	}
	m := &readMail{header: msg.Header}
	mixed := parts(t, msg.Header.Get("Content-Type"), "multipart/mixed", msg.Body)
	if len(mixed) < 2 {
		t.Fatalf("the mail has %d parts", len(mixed))
	}
	bodies := parts(t, mixed[0].header.Get("Content-Type"), "multipart/alternative", bytes.NewReader(mixed[0].body))
	if len(bodies) != 2 || bodies[0].header.Get("Content-Type") != "text/plain; charset=UTF-8" || bodies[1].header.Get("Content-Type") != "text/html; charset=UTF-8" {
		t.Fatal("the bodies are not text, then HTML")
	}
	m.text, m.html = string(bodies[0].body), string(bodies[1].body)
	for _, p := range mixed[1:] {
		if p.header.Get("Content-Transfer-Encoding") != "base64" {
			t.Errorf("an attachment has the encoding %s", p.header.Get("Content-Transfer-Encoding"))
		}
		contentType, _, err := mime.ParseMediaType(p.header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		disposition, params, err := mime.ParseMediaType(p.header.Get("Content-Disposition"))
		if err != nil || disposition != "attachment" {
			t.Fatalf("an attachment is %q: %v", disposition, err)
		}
		m.files = append(m.files, payload.Attachment{Name: params["filename"], ContentType: contentType, Data: p.body})
	}
	return m
}

type readPart struct {
	header mail.Header
	body   []byte // decoded
}

func parts(t testing.TB, contentType, want string, body io.Reader) (list []readPart) {
	t.Helper()
	got, params, err := mime.ParseMediaType(contentType)
	if err != nil || got != want {
		t.Fatalf("got %q (%v), want %s", contentType, err, want)
	}
	reader := multipart.NewReader(body, params["boundary"])
	for {
		part, err := reader.NextRawPart()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		var decoded io.Reader = part
		switch strings.ToLower(part.Header.Get("Content-Transfer-Encoding")) {
		case "quoted-printable":
			decoded = quotedprintable.NewReader(part)
		case "base64":
			decoded = base64.NewDecoder(base64.StdEncoding, part)
		}
		data, err := io.ReadAll(decoded)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, readPart{mail.Header(part.Header), data})
	}
}

// goodWire checks what every mail must keep to, whatever its content: ASCII
// (unless an address is not), CRLF line ends and no CR or LF without the other,
// no control characters, lines within RFC 5321 and base64 within RFC 2045.
func goodWire(t testing.TB, m *message) {
	t.Helper()
	for i, c := range m.raw {
		switch {
		case c == '\n' && (i == 0 || m.raw[i-1] != '\r'), c == '\r' && (i+1 == len(m.raw) || m.raw[i+1] != '\n'):
			t.Fatalf("a bare %q at byte %d", c, i)
		case c < ' ' && c != '\r' && c != '\n' && c != '\t', c == 0x7f, c >= 0x80 && !m.needsUTF8:
			t.Fatalf("byte %#x at %d", c, i)
		}
	}
	inBase64, inHeader := false, true
	for line := range bytes.SplitSeq(m.raw, []byte("\r\n")) {
		if len(line) > 998 {
			t.Fatalf("a line of %d bytes: %.80q...", len(line), line)
		}
		switch {
		case bytes.HasPrefix(line, []byte("--")):
			inBase64 = false
		case bytes.Equal(line, []byte("Content-Transfer-Encoding: base64")):
			inBase64 = true
		case inBase64 && len(line) > 76 && !bytes.Contains(line, []byte(":")):
			t.Fatalf("a base64 line of %d bytes", len(line))
		case inHeader && len(line) > 0 && len(bytes.TrimSpace(line)) == 0:
			t.Fatal("a header is folded into a blank line")
		}
		inHeader = inHeader && len(line) > 0
	}
	if !bytes.HasSuffix(m.raw, []byte("\r\n")) {
		t.Fatal("the last line has no end")
	}
}

// headerNames are the headers that a mail may have.
var headerNames = []string{
	"Auto-Submitted", "Cc", "Content-Type", "Date", "From", "In-Reply-To", "List-Id", "Message-Id", "Mime-Version", "References", "Reply-To", "Subject", "To",
	"X-Auto-Response-Suppress", "X-Certpost-Event-Id", "X-Certpost-Possible-Duplicate", "X-Certpost-Target",
}

// onlyOurHeaders checks that a mail has only the headers of headerNames, each once.
func onlyOurHeaders(t testing.TB, m *readMail) {
	t.Helper()
	for name, values := range m.header {
		if !slices.Contains(headerNames, name) || len(values) != 1 {
			t.Errorf("header %s: %q", name, values)
		}
	}
}

func subjectOf(t testing.TB, m *readMail) string {
	t.Helper()
	decoded, err := new(mime.WordDecoder).DecodeHeader(m.header.Get("Subject"))
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

func TestEncodeWords(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "plain words stay", "[Prüfung] Certpost: certificate", "Zertifikatsverwaltungsbüro der Stadt", "für über ärger und ä",
		"证书已签发证书已签发证书已签发 ok", strings.Repeat("x", 100) + " ü", "a=b?c_d ü=?_", "😀😀😀😀😀😀",
	} {
		encoded := encodeWords(s)
		decoded, err := new(mime.WordDecoder).DecodeHeader(encoded)
		if err != nil || decoded != s {
			t.Errorf("%q becomes %q and is read as %q: %v", s, encoded, decoded, err)
		}
		for word := range strings.SplitSeq(encoded, " ") {
			if strings.HasPrefix(word, "=?") && len(word) > 60 || !ascii(word) {
				t.Errorf("%q becomes %q", s, word)
			}
		}
	}
}

// passphrase has characters that a shell or a lax parser could misread.
const passphrase = `p12 "Pass" $phrase;\ ~`

func testTarget() *Target {
	return &Target{
		ID: "ops-archive", Host: "smtp.example.com",
		FromAddress: "certs@example.com", FromName: "Certificates",
		To: []string{"ops@example.com"}, SubjectPrefix: "[PROD]",
	}
}

// goldenPKI returns the same bytes in every run.
func goldenPKI(t testing.TB) (b *payload.Bundle, key []byte) {
	t.Helper()
	root := lab.Issue(t, nil, lab.SeededKey(1), "Example Root", lab.AsCA)
	ca := lab.Issue(t, root, lab.SeededKey(2), "Example CA 1", lab.AsCA)
	leaf := lab.Issue(t, ca, lab.SeededKey(3), "*.example.com", lab.DNSNames("*.example.com", "example.com"))
	b, err := payload.ParseBundle(lab.PEM(leaf, ca))
	if err != nil {
		t.Fatal(err)
	}
	return b, lab.KeyPEM(t, leaf.Key)
}

func goldenFacts(t testing.TB, target *Target) mailFacts {
	t.Helper()
	b, key := goldenPKI(t)
	files, err := payload.Build(target.settings(nil), b, key, []byte(passphrase), lab.TestNow)
	if err != nil {
		t.Fatal(err)
	}
	return mailFacts{
		eventID: "01JD3ZX8W4", source: "certbot://web1", time: lab.TestNow.Add(-time.Minute), now: lab.TestNow,
		bundle: b, attachments: files,
	}
}

// The golden mails are raw mails with LF line ends. "*" stands for any text
// within a line, a line of "**" for any lines. CERTPOST_UPDATE_GOLDEN=1 rewrites
// them.
func TestGoldenMails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		target func(*Target)
		facts  func(*mailFacts)
	}{
		"pem": {},
		"pem_and_key": {target: func(t *Target) {
			t.Payload = payload.PEMAndKey
			t.CC, t.BCC, t.ReplyTo = []string{"team@example.com"}, []string{"archive@example.com"}, "helpdesk@example.com"
		}},
		"pkcs12": {target: func(t *Target) {
			t.Payload = payload.PKCS12
			t.PKCS12Passphrase = Passphrase{Ref: secrets.Ref{Vault: &secrets.VaultRef{Mount: "secret", Path: "p12/ops", Key: "passphrase"}}}
		}},
		"warned_duplicate": {facts: func(m *mailFacts) {
			m.possibleDuplicate = true
			m.now = lab.TestNow.Add(100 * 24 * time.Hour)
			m.warnings, _ = payload.CheckDates(m.bundle, m.now, "warn")
			m.bundle.Notes = []string{`"Example CA 1" was given twice`}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := testTarget()
			if c.target != nil {
				c.target(target)
			}
			facts := goldenFacts(t, target)
			if c.facts != nil {
				c.facts(&facts)
			}
			m, err := renderMail(target, facts)
			if err != nil {
				t.Fatal(err)
			}
			goodWire(t, m)
			onlyOurHeaders(t, read(t, m.raw))
			inspectMail(t, m.raw, func(mailPart) {})
			got := strings.ReplaceAll(string(m.raw), "\r\n", "\n")
			path := filepath.Join("testdata", "mail_"+name+".golden")
			if os.Getenv("CERTPOST_UPDATE_GOLDEN") == "1" {
				lab.Write(t, path, []byte(withWildcards(got)))
			}
			golden, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if at, ok := fits(string(golden), got); !ok {
				t.Errorf("%s does not fit from here on:\n%.600s", path, at)
			}
		})
	}
}

// withWildcards replaces what differs between runs: boundaries, and the content of
// encrypted attachments.
func withWildcards(raw string) string {
	raw = regexp.MustCompile(`[0-9a-f]{60}`).ReplaceAllString(raw, "*")
	return regexp.MustCompile(`(?s)(Content-Type: application/x-pkcs12;[^\n]*\n\n).*?(\n--\*)`).ReplaceAllString(raw, "$1**$2")
}

// fits compares line by line, and returns the rest of the text from the first line
// that does not fit.
func fits(golden, text string) (rest string, ok bool) {
	want, got := strings.Split(golden, "\n"), strings.Split(text, "\n")
	for i, j := 0, 0; ; i, j = i+1, j+1 {
		switch {
		case i == len(want) || j == len(got):
			return strings.Join(got[min(j, len(got)):], "\n"), i == len(want) && j == len(got)
		case want[i] == "**":
			if i+1 == len(want) {
				return "", true
			}
			for j < len(got) && !lineFits(want[i+1], got[j]) {
				j++
			}
			j--
		case !lineFits(want[i], got[j]):
			return strings.Join(got[j:], "\n"), false
		}
	}
}

func lineFits(want, got string) bool {
	pieces := strings.Split(want, "*")
	if len(pieces) == 1 {
		return want == got
	}
	for i, piece := range pieces {
		at := strings.Index(got, piece)
		if at < 0 || i == 0 && at != 0 {
			return false
		}
		if i == len(pieces)-1 {
			return strings.HasSuffix(got, piece)
		}
		got = got[at+len(piece):]
	}
	return true
}

// Fault: bidi and very long text in names. Result: one header line each.
func TestMailHeaders(t *testing.T) {
	t.Parallel()
	target := testTarget()
	target.CC, target.BCC, target.ReplyTo = []string{"cc@example.com"}, []string{"secret-reader@example.com"}, "help@example.com"
	facts := goldenFacts(t, target)
	facts.now = lab.TestNow.In(time.FixedZone("elsewhere", 3*60*60))
	m, err := renderMail(target, facts)
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, m.raw)
	onlyOurHeaders(t, got)
	for name, want := range map[string]string{
		"Subject":                       "[PROD] Certpost: certificate for *.example.com issued, expires 2026-06-01",
		"From":                          `"Certificates" <certs@example.com>`,
		"To":                            "<ops@example.com>",
		"Cc":                            "<cc@example.com>",
		"Reply-To":                      "<help@example.com>",
		"Date":                          "Wed, 04 Mar 2026 12:00:00 +0000",
		"Auto-Submitted":                "auto-generated",
		"X-Certpost-Event-Id":           "01JD3ZX8W4",
		"X-Certpost-Target":             "ops-archive",
		"Message-ID":                    m.messageID,
		"List-Id":                       "<ops-archive.certpost.example.com>",
		"In-Reply-To":                   got.header.Get("References"),
		"X-Certpost-Possible-Duplicate": "",
	} {
		if got := got.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if want := []string{"ops@example.com", "cc@example.com", "secret-reader@example.com"}; !slices.Equal(m.recipients, want) {
		t.Errorf("recipients %q, want %q", m.recipients, want)
	}
	if m.from != "certs@example.com" || m.needsUTF8 {
		t.Errorf("from %q, needsUTF8 %v", m.from, m.needsUTF8)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"secret-reader", "go-mail", "User-Agent", "X-Mailer", "@" + host} {
		if bytes.Contains(m.raw, []byte(leak)) || strings.Contains(got.text, leak) || strings.Contains(got.html, leak) {
			t.Errorf("the mail contains %s", leak)
		}
	}
	if len(got.files) != 1 || !bytes.Equal(got.files[0].Data, facts.bundle.PEM()) || got.files[0].Name != "_wildcard.example.com.pem" || got.files[0].ContentType != payload.TypePEM {
		t.Error("the attachment was changed")
	}

	facts.possibleDuplicate = true
	again, err := renderMail(target, facts)
	if err != nil {
		t.Fatal(err)
	}
	if again.messageID != m.messageID || read(t, again.raw).header.Get("X-Certpost-Possible-Duplicate") != "yes" {
		t.Error("a possible duplicate has another Message-ID, or no header that says so")
	}
}

func TestMessageID(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^<[a-z2-7]{20}@[A-Za-z0-9_][A-Za-z0-9._-]*>$`)
	seen := make(map[string]string)
	for _, c := range []struct{ event, target, domain, want string }{
		{"e1", "t1", "example.com", "@example.com>"},
		{"e1", "t2", "example.com", "@example.com>"},
		{"e2", "t1", "example.com", "@example.com>"},
		{"e", "1t1", "example.com", "@example.com>"},
		{"", "", "example.com", "@example.com>"},
		{"e3", "t", "certificates.notifications.corp.example.com", "@notifications.corp.example.com>"},
		{"e4", "t", strings.Repeat("a", 63) + ".com", "@com>"},
		{"e5", "t", strings.Repeat("a", 63), "@certpost.invalid>"},
		{"e6", "t", "[192.0.2.1]", "@192.0.2.1>"},
		{"e7", "t", "[IPv6:2001:db8::1]", "@IPv6_2001_db8__1>"},
	} {
		id := messageID(c.event, c.target, c.domain)
		if id != messageID(c.event, c.target, c.domain) {
			t.Errorf("%v: two calls give different ids", c)
		}
		if !form.MatchString(id) || len(id) > 60 || !strings.HasSuffix(id, c.want) {
			t.Errorf("%v gives %s, want ...%s", c, id, c.want)
		}
		if other, taken := seen[id[:22]]; taken {
			t.Errorf("%v has the id of %s", c, other)
		}
		seen[id[:22]] = c.event + "/" + c.target
	}
}

// Fault: internationalized names. Result: A-labels on the wire.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		to, cc, bcc []string
		owed        []string
		accepted    []string
		want        []string
		headerTo    string
		utf8        bool
		wantRefusal string
	}{
		{name: "duplicates", to: []string{"a@example.com", "a@EXAMPLE.com"}, cc: []string{"a@Example.Com", "b@example.com"}, bcc: []string{"b@example.com", "c@example.com"},
			want: []string{"a@example.com", "b@example.com", "c@example.com"}, headerTo: "<a@example.com>"},
		{name: "local parts keep their case", to: []string{"Ops@example.com", "ops@example.com"}, want: []string{"Ops@example.com", "ops@example.com"}, headerTo: "<Ops@example.com>, <ops@example.com>"},
		{name: "IDN", to: []string{"ops@bücher.example", "ops@xn--bcher-kva.example"}, want: []string{"ops@xn--bcher-kva.example"}, headerTo: "<ops@xn--bcher-kva.example>"},
		{name: "local part not ASCII", to: []string{"jürgen@bücher.example"}, want: []string{"jürgen@xn--bcher-kva.example"}, headerTo: "<jürgen@xn--bcher-kva.example>", utf8: true},
		{name: "only bcc not ASCII", to: []string{"a@example.com"}, bcc: []string{"jürgen@example.com"}, want: []string{"a@example.com", "jürgen@example.com"}, headerTo: "<a@example.com>", utf8: true},
		{name: "bcc not ASCII and not owed", to: []string{"a@example.com"}, bcc: []string{"jürgen@example.com"}, owed: []string{"a@example.com"}, want: []string{"a@example.com"}, headerTo: "<a@example.com>"},
		{name: "quoted local part", to: []string{`"ops team"@example.com`}, want: []string{`"ops team"@example.com`}, headerTo: `<"ops team"@example.com>`},
		{name: "address literal", to: []string{"ops@[192.0.2.1]"}, want: []string{"ops@[192.0.2.1]"}, headerTo: "<ops@[192.0.2.1]>"},
		{name: "some still owed", to: []string{"a@example.com"}, cc: []string{"b@example.com"}, bcc: []string{"c@example.com"}, owed: []string{"c@EXAMPLE.com", "b@example.com"},
			want: []string{"b@example.com", "c@example.com"}, headerTo: "<a@example.com>"},
		{name: "owed to a removed recipient", to: []string{"a@example.com"}, owed: []string{"gone@example.com", "a@example.com"}, want: []string{"a@example.com"}, headerTo: "<a@example.com>"},
		{name: "owed only to removed recipients", to: []string{"a@example.com"}, owed: []string{"gone@example.com"}, wantRefusal: "none of the recipients still owed the mail"},
		{name: "some have it", to: []string{"a@example.com", "corrected@example.com"}, bcc: []string{"c@example.com"}, accepted: []string{"C@example.com", "c@EXAMPLE.com"},
			want: []string{"a@example.com", "corrected@example.com"}, headerTo: "<a@example.com>, <corrected@example.com>"},
		{name: "owed, but already accepted", to: []string{"a@example.com", "b@example.com"}, owed: []string{"a@example.com", "b@example.com"}, accepted: []string{"b@example.com"},
			want: []string{"a@example.com"}, headerTo: "<a@example.com>, <b@example.com>"},
		{name: "all have it", to: []string{"a@example.com"}, accepted: []string{"a@example.com"}, wantRefusal: "already have the mail; discard the dead letter"},
		{name: "no address", to: []string{"nobody"}, wantRefusal: "the target's to is not an address"},
		{name: "line break", to: []string{"a@example.com\r\nRCPT TO:<b@example.com>"}, wantRefusal: "control characters"},
		{name: "angle brackets", to: []string{"A <a@example.com>"}, wantRefusal: "angle brackets"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target := testTarget()
			target.To, target.CC, target.BCC = c.to, c.cc, c.bcc
			facts := goldenFacts(t, target)
			facts.recipients, facts.accepted = c.owed, c.accepted
			m, err := renderMail(target, facts)
			if c.wantRefusal != "" {
				var f *verdict.Failure
				if !errors.As(err, &f) || f.Code != verdict.TargetInvalid || f.Phase != verdict.PhaseRender || f.Certainty != verdict.NotSent || !strings.Contains(f.Reason, c.wantRefusal) {
					t.Errorf("got %v, want TARGET_INVALID with %q", err, c.wantRefusal)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			goodWire(t, m)
			if !slices.Equal(m.recipients, c.want) || m.needsUTF8 != c.utf8 {
				t.Errorf("got %q, UTF-8 %v; want %q, %v", m.recipients, m.needsUTF8, c.want, c.utf8)
			}
			if got := read(t, m.raw).header.Get("To"); got != c.headerTo {
				t.Errorf("To: %s, want %s", got, c.headerTo)
			}
		})
	}
}

// The longest lists and texts that a definition may have arrive whole.
//
// Fault: a mail to the most recipients that a target can have (150). Result: its header
// names To and Cc whole.
func TestLongestDefinition(t *testing.T) {
	t.Parallel()
	for name, letter := range map[string]string{"ASCII": "x", "wide": "𠀀"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := testTarget()
			target.SetDefaults()
			target.FromName, target.SubjectPrefix = strings.Repeat(letter, 128), strings.Repeat(letter, 100)
			names := lab.ManyNames(150)
			for i, list := range []*[]string{&target.To, &target.CC, &target.BCC} {
				*list = nil
				for _, name := range names[50*i : 50*i+50] {
					*list = append(*list, strings.Repeat("x", 50)+"@"+name)
				}
			}
			if _, problems := (Relays{}).Define([]Target{*target}); config.Failed(problems) {
				t.Fatal(problems)
			}
			facts := goldenFacts(t, target)
			facts.product = strings.Repeat(letter, 100)
			m, err := renderMail(target, facts)
			if err != nil {
				t.Fatal(err)
			}
			goodWire(t, m)
			header := read(t, m.raw).header
			to, _ := header.AddressList("To")
			cc, _ := header.AddressList("Cc")
			from, err := header.AddressList("From")
			if err != nil || len(to) != 50 || len(cc) != 50 || len(m.recipients) != 150 {
				t.Errorf("To has %d addresses, Cc %d, the envelope %d: %v", len(to), len(cc), len(m.recipients), err)
			}
			if len(from) != 1 || from[0].Name != target.FromName {
				t.Errorf("From is %v", from)
			}
			if subject := subjectOf(t, read(t, m.raw)); !strings.HasPrefix(subject, target.SubjectPrefix+" "+facts.product+": ") {
				t.Errorf("the subject is %q", subject)
			}
		})
	}
}

func TestBodiesSayTheSame(t *testing.T) {
	t.Parallel()
	p := lab.NewPKI(t, "rsa")
	leaf := lab.Issue(t, p.Intermediate, p.Leaf.Key, "web1.example.com", lab.DNSNames(append([]string{"xn--pypal-4ve.com"}, lab.ManyNames(59)...)...))
	b, err := payload.ParseBundle(lab.PEM(leaf, p.Intermediate, leaf))
	if err != nil {
		t.Fatal(err)
	}
	target := testTarget()
	target.Payload = payload.PEMAndKey
	files, err := payload.Build(target.settings(nil), b, lab.KeyPEM(t, leaf.Key), nil, lab.TestNow)
	if err != nil {
		t.Fatal(err)
	}
	m, err := renderMail(target, mailFacts{eventID: "e1", source: "lego://host", time: lab.TestNow, now: lab.TestNow, bundle: b, attachments: files, warnings: []string{"something to know"}})
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, m.raw)
	s := verdict.CertificateOf(b.Leaf)
	fingerprint := colons(s.Fingerprint)
	for _, want := range []string{
		"web1.example.com", "It is valid until 2026-06-01, 89 days left.", "2026-03-03 12:00 UTC to 2026-06-01 12:00 UTC",
		"xn--pypal-4ve.com", "pаypal.com, mixes Cyrillic and Latin letters", "host-0018.example.com", "and 40 more",
		"CN=Test CA 1", "RSA, 2048 bits", "4A:7B:E5", fingerprint[0].Text, fingerprint[1].Text,
		"web1.example.com.pem", "web1.example.com.key.pem", "contains the private key", "Something to know.", "was given twice",
		"ops-archive", "e1", "lego://host", "Certpost",
	} {
		for kind, body := range map[string]string{"text": got.text, "HTML": unescape(got.html)} {
			if !strings.Contains(strings.Join(strings.Fields(body), " "), want) {
				t.Errorf("the %s body does not say %s", kind, want)
			}
		}
	}
	if strings.Contains(got.text, "host-0019") || strings.Contains(got.html, "host-0019") {
		t.Error("the names are not cut")
	}
	for line := range strings.SplitSeq(got.text, "\n") {
		if n := utf8.RuneCountInString(line); n > 78 && !strings.HasPrefix(line, "    ") { // commands stay whole
			t.Errorf("a line of %d characters: %s", n, line)
		}
	}
	if want := "[PROD] Certpost: certificate for web1.example.com issued, expires 2026-06-01 - WARNING"; subjectOf(t, got) != want {
		t.Errorf("subject %q, want %q", subjectOf(t, got), want)
	}
}

func unescape(html string) string {
	return strings.NewReplacer("&#34;", `"`, "&#39;", "'", "&#43;", "+", "&amp;", "&").Replace(html)
}

// The mail never contains the passphrase, and names its place only if that is of use
// to a recipient.
func TestPassphraseInstructions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ref  secrets.Ref
		want string
	}{
		"vault":  {secrets.Ref{Vault: &secrets.VaultRef{Mount: "secret", Path: "p12/ops", Key: "passphrase"}}, "The passphrase is in Vault: secret/p12/ops#passphrase"},
		"env":    {secrets.Ref{Env: "CANARY_VARIABLE"}, "ask the operators of this service (certs@example.com)"},
		"file":   {secrets.Ref{File: "/etc/canary"}, "ask the operators of this service (certs@example.com)"},
		"inline": {secrets.Ref{Value: secrets.New([]byte(passphrase))}, "ask the operators of this service (certs@example.com)"},
	} {
		target := testTarget()
		target.Payload, target.PKCS12Passphrase = payload.PKCS12, Passphrase{Ref: c.ref}
		m, err := renderMail(target, goldenFacts(t, target))
		if err != nil {
			t.Fatal(err)
		}
		got := read(t, m.raw)
		for _, body := range []string{got.text, unescape(got.html)} {
			body = strings.Join(strings.Fields(body), " ")
			if !strings.Contains(body, c.want) {
				t.Errorf("%s: the mail does not say %q", name, c.want)
			}
			if strings.Contains(body, passphrase) || strings.Contains(strings.ToLower(body), "canary") {
				t.Errorf("%s: the mail contains the passphrase or its place", name)
			}
			if !strings.Contains(body, "built on NSS cannot open") {
				t.Errorf("%s: nothing is said of Ed25519 and NSS", name)
			}
		}
	}
}

// hostile has texts that try to break out of the place where they are inserted.
var hostile = map[string]string{
	"header":        "x\r\nBcc: victim@evil.example\r\n\r\nbody",
	"bare line end": "x\nBcc: victim@evil.example",
	"NUL":           "paypal.com\x00.evil.example",
	"bidi":          "cert\u202egpj.exe\u2066",
	"encoded word":  "=?utf-8?q?=0D=0ABcc:_victim@evil.example?=",
	"long":          strings.Repeat("x", 70_000),
	"long words":    strings.Repeat("word ", 2_000),
	"wide":          strings.Repeat("☃", 2_000),
	"markup":        `<script>alert(1)</script><img src=x onerror=alert(1)>"'</title></style>`,
	"template":      `{{.EventID}}{{define "x"}}`,
	"invalid UTF-8": "\xff\xfe\x80abc",
	"dots":          "\n.\n..\r\n.\r\n",
	"backslash":     `ü\x "quoted\"`,
	"blanks":        "a" + strings.Repeat(" ", 300) + strings.Repeat("b", 90) + "  c",
}

// Whatever text a certificate, an event or a target contains, a mail passes goodWire,
// has only the headers of Certpost, and its HTML has no element from that text.
//
// Fault: CR, LF, NUL, bidi and very long text in names, prefixes, ids and file names.
// Result: cleaned; one header line each; no new header.
func TestHostileText(t *testing.T) {
	t.Parallel()
	for name, text := range hostile {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cert := lab.Issue(t, nil, lab.SeededKey(1), strings.ToValidUTF8(text, "?"), func(c *x509.Certificate) {
				c.Subject.Organization = []string{strings.ToValidUTF8(text[:min(len(text), 5000)], "?")}
				if ascii(text) && len(text) < 10_000 {
					c.DNSNames = []string{text, "", "example.com"}
				}
			})
			b, err := payload.ParseBundle(lab.PEM(cert))
			if err != nil {
				// The certificate of 70,000 bytes is too large and must be refused. Its text
				// is cleaned nevertheless.
				if f := asFailure(err); f.Code != verdict.SMTPPayload {
					t.Fatalf("got %v, want SMTP_PAYLOAD", err)
				}
				b = &payload.Bundle{Leaf: cert.Certificate}
			}
			hostileMail(t, b, text)
		})
	}
}

// TestHostileCombinations combines pieces that are each known to cause problems
// somewhere. The seed is fixed, so a failure can be reproduced.
//
// Fault: CR; LF; NUL; bidi and very long text in names. Result: no new header.
func TestHostileCombinations(t *testing.T) {
	t.Parallel()
	pieces := []string{
		"\r", "\n", "\r\n", "\r\n ", "\t", " ", "  ", "\x00", "\x7f", "=?", "?=", "=?utf-8?b?", "=", "_", ".", "\r\n.\r\n", `"`, `\`, "(", "<", ">", ",", ";", ":", "@", "--", "{{", "&",
		"ü", "证书", "😀", "\u202e", "\u200b", "\ufeff", "\u2028", "\u0301", "\xff", "\xc3", "word", strings.Repeat("x", 75), strings.Repeat("y", 990), strings.Repeat("é", 60), "*.", "xn--", "аррӏе.com",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var text strings.Builder
		for range 1 + random.IntN(12) {
			text.WriteString(pieces[random.IntN(len(pieces))])
		}
		cn := strings.ToValidUTF8(text.String(), "?")
		hostileMail(t, &payload.Bundle{Leaf: lab.Issue(t, nil, lab.SeededKey(1), cn).Certificate}, text.String())
		if t.Failed() {
			t.Fatalf("with %q", text.String())
		}
	}
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 0x7e }) < 0
}

func hostileMail(t testing.TB, b *payload.Bundle, text string) {
	t.Helper()
	b.Notes = []string{text}
	target := testTarget()
	target.ID, target.FromName, target.SubjectPrefix = text, text, text
	files, err := payload.Build(target.settings(nil), b, nil, nil, lab.TestNow)
	if err != nil {
		t.Fatal(err)
	}
	m, err := renderMail(target, mailFacts{
		eventID: text, source: text, now: lab.TestNow, bundle: b, attachments: files,
		warnings: []string{text}, product: text, messageIDDomain: text,
	})
	if err != nil {
		t.Fatal(err)
	}
	goodWire(t, m)
	inspectMail(t, m.raw, func(mailPart) {})
	got := read(t, m.raw)
	onlyOurHeaders(t, got)
	if len(m.recipients) != 1 || m.recipients[0] != "ops@example.com" {
		t.Errorf("recipients %q", m.recipients)
	}
	subject := subjectOf(t, got)
	if legible.Clean(subject, 2000) != subject {
		t.Errorf("the subject is not clean: %q", subject)
	}
	from, err := got.header.AddressList("From")
	if err != nil || len(from) != 1 || from[0].Address != "certs@example.com" || legible.Clean(from[0].Name, 2000) != from[0].Name {
		t.Errorf("From: %q: %v", got.header.Get("From"), err)
	}
	if len(m.messageID) > 60 || strings.ContainsAny(m.messageID, " \r\n") {
		t.Errorf("Message-ID: %s", m.messageID)
	}
	if len(got.files) != 1 || !bytes.Equal(got.files[0].Data, b.PEM()) || got.files[0].Name != files[0].Name {
		t.Error("the attachment was changed")
	}
	html := strings.ToLower(got.html)
	for _, tag := range []string{"<script", "<img", "<iframe", "<a ", "onerror=alert(1)>"} {
		if strings.Contains(html, tag) {
			t.Errorf("the HTML has %s", tag)
		}
	}
	for _, body := range []string{got.text, got.html} {
		for line := range strings.SplitSeq(body, "\r\n") {
			if strings.TrimSpace(strings.ReplaceAll(legible.Clean(line, 5000), " ", "")) != strings.ReplaceAll(line, " ", "") {
				t.Errorf("a line of a body is not clean: %q", line)
			}
		}
	}
	if n := len(m.raw) - len(b.PEM())*3/2; n > 100_000 {
		t.Errorf("the mail has %d bytes besides the attachment", n)
	}
}

func FuzzRenderMail(f *testing.F) {
	for _, text := range hostile {
		f.Add(text[:min(len(text), 3000)])
	}
	f.Add("web1.example.com")
	f.Fuzz(func(t *testing.T, text string) {
		cn := strings.ToValidUTF8(text, "?")
		if len(cn) > 10_000 {
			return
		}
		hostileMail(t, &payload.Bundle{Leaf: lab.Issue(t, nil, lab.SeededKey(1), cn).Certificate}, text)
	})
}

// Python's mail parser, which is independent of Go's, reads the same mail.
func TestPythonReadsMail(t *testing.T) {
	t.Parallel()
	python := lab.Need(t, "python3")
	target := testTarget()
	target.Payload, target.SubjectPrefix, target.FromName = payload.PKCS12, "[Prüfung]", "Zertifikate für alle"
	facts := goldenFacts(t, target)
	m, err := renderMail(target, facts)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mail.eml")
	lab.Write(t, file, m.raw)
	const script = `
import base64, email, email.policy, json, sys
m = email.message_from_binary_file(open(sys.argv[1], "rb"), policy=email.policy.default)
print(json.dumps({
  "defects": [str(d) for p in m.walk() for d in p.defects] + [str(d) for p in m.walk() for h in p.values() for d in h.defects],
  "subject": m["subject"], "from": m["from"].addresses[0].display_name, "id": m["message-id"],
  "parts": [p.get_content_type() for p in m.walk()],
  "text": m.get_body(("plain",)).get_content(), "html": m.get_body(("html",)).get_content(),
  "files": [{"name": a.get_filename(), "data": base64.b64encode(a.get_payload(decode=True)).decode()} for a in m.iter_attachments()],
}))`
	var got struct {
		Defects, Parts    []string
		Subject, From, ID string
		Text, HTML        string
		Files             []struct{ Name, Data string }
	}
	if err := json.Unmarshal([]byte(lab.Output(t, python, "-c", script, file)), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Defects) > 0 {
		t.Errorf("defects: %q", got.Defects)
	}
	if want := []string{"multipart/mixed", "multipart/alternative", "text/plain", "text/html", "application/x-pkcs12"}; !slices.Equal(got.Parts, want) {
		t.Errorf("parts %q, want %q", got.Parts, want)
	}
	mine := read(t, m.raw)
	if got.Subject != subjectOf(t, mine) || !strings.HasPrefix(got.Subject, "[Prüfung] Certpost:") || got.From != "Zertifikate für alle" || got.ID != m.messageID {
		t.Errorf("subject %q, from %q, id %q", got.Subject, got.From, got.ID)
	}
	lf := func(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }
	if lf(got.Text) != lf(mine.text) || lf(got.HTML) != lf(mine.html) {
		t.Error("the bodies differ from those that Go reads")
	}
	if len(got.Files) != 1 || got.Files[0].Name != "_wildcard.example.com.p12" || got.Files[0].Data != base64.StdEncoding.EncodeToString(facts.attachments[0].Data) {
		t.Error("the attachment differs")
	}
}

func BenchmarkMail(b *testing.B) {
	for _, kind := range []string{payload.PEM, payload.PEMAndKey, payload.PKCS12} {
		b.Run(kind, func(b *testing.B) {
			p := lab.NewPKI(b, "rsa")
			text, key := lab.PEM(p.Leaf, p.Intermediate), lab.KeyPEM(b, p.Leaf.Key)
			target := testTarget()
			target.Payload = kind
			b.ReportAllocs()
			for b.Loop() {
				parsed, err := payload.ParseBundle(text)
				if err != nil {
					b.Fatal(err)
				}
				files, err := payload.Build(target.settings(nil), parsed, key, []byte(passphrase), lab.TestNow)
				if err != nil {
					b.Fatal(err)
				}
				m, err := renderMail(target, mailFacts{eventID: "e1", now: lab.TestNow, bundle: parsed, attachments: files})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(m.raw)))
			}
		})
	}
}
