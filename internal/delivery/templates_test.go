package delivery

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// withTemplates gives a target templates with these texts.
func withTemplates(t testing.TB, target *Target, subject, text, html string) {
	t.Helper()
	dir := t.TempDir()
	for name, c := range map[string]struct {
		text string
		path *string
	}{"subject.txt": {subject, &target.Templates.Subject}, "text.txt": {text, &target.Templates.Text}, "mail.html": {html, &target.Templates.HTML}} {
		if c.text != "" {
			*c.path = filepath.Join(dir, name)
			lab.Write(t, *c.path, []byte(c.text))
		}
	}
	target.words = ReadTemplates(target.Templates)
	if problems := target.words.Problems(); len(problems) > 0 {
		t.Fatal(problems)
	}
}

// issuedFor returns the facts of a mail for a certificate of one shape.
func issuedFor(t testing.TB, target *Target, cn string, edit ...func(*x509.Certificate)) mailFacts {
	t.Helper()
	root := lab.Issue(t, nil, lab.SeededKey(1), "Example Root", lab.AsCA)
	ca := lab.Issue(t, root, lab.SeededKey(2), "Example CA 1", lab.AsCA)
	leaf := lab.Issue(t, ca, lab.SeededKey(3), cn, edit...)
	b, err := payload.ParseBundle(lab.PEM(leaf, ca, root))
	if err != nil {
		t.Fatal(err)
	}
	files, err := payload.Build(target.settings(nil), b, lab.KeyPEM(t, leaf.Key), []byte(passphrase), lab.TestNow)
	if err != nil {
		t.Fatal(err)
	}
	return mailFacts{eventID: "e1", now: lab.TestNow, bundle: b, attachments: files}
}

// Each language of examples/templates works for each shape of certificate and each kind of
// payload, and shows what a recipient must know.
func TestExampleTemplates(t *testing.T) {
	t.Parallel()
	shapes := map[string][]func(*x509.Certificate){
		"ordinary": {lab.DNSNames("www.example.com", "example.com")},
		"many":     {lab.DNSNames(lab.ManyNames(250)...)},
		"IDN":      {lab.DNSNames("xn--bcher-kva.example")},
		"no names": {},
	}
	for language, words := range map[string]struct{ subject, danger string }{
		"de": {"[PROD] Zertifikat für www.example.com, gültig bis 01.06.2026", "privaten Schlüssel unverschlüsselt"},
		"fr": {"[PROD] Certificat pour www.example.com, valable jusqu’au 01/06/2026", "clé privée en clair"},
		"ja": {"[PROD] 証明書の発行: www.example.com（有効期限 2026年6月1日）", "暗号化されていない秘密鍵"},
	} {
		dir := "../../examples/templates/" + language + "/"
		for shape, edit := range shapes {
			for _, kind := range []string{payload.PEM, payload.PEMAndKey, payload.PKCS12} {
				target := testTarget()
				target.SetDefaults()
				target.Payload = kind
				target.Templates = Templates{Subject: dir + "subject.txt", Text: dir + "text.txt", HTML: dir + "mail.html"}
				if kind == payload.PKCS12 {
					target.PKCS12Passphrase = Passphrase{Ref: secrets.Ref{Vault: &secrets.VaultRef{Mount: "secret", Path: "p12/ops", Key: "passphrase"}}}
				}
				defined, problems := (Relays{}).Define([]Target{*target})
				if len(problems) > 0 {
					t.Fatalf("%s: %v", language, problems)
				}
				cn := map[string]string{"ordinary": "www.example.com", "IDN": "xn--bcher-kva.example"}[shape]
				target = defined.All()[0]
				facts := issuedFor(t, target, cn, edit...)
				tip := howToOpen(target, facts.attachments)[0].Command
				m, err := renderMail(target, facts)
				if err != nil {
					t.Fatalf("%s, %s: %v", language, shape, err)
				}
				goodWire(t, m)
				got := bodiesOf(t, m.raw)
				onlyOurHeaders(t, got)
				for _, body := range []string{got.text, unescape(got.html)} {
					if shape == "many" && !strings.Contains(body, "150") || shape == "IDN" && !strings.Contains(body, "xn--bcher-kva.example (bücher.example)") ||
						strings.Contains(body, words.danger) != (kind == payload.PEMAndKey) || strings.Contains(body, "secret/p12/ops#passphrase") != (kind == payload.PKCS12) ||
						!strings.Contains(body, tip) || strings.Contains(body, "<no value>") {
						t.Errorf("%s, %s, %s: the body is\n%s", language, shape, kind, body)
					}
				}
				if shape == "ordinary" && subjectOf(t, got) != words.subject {
					t.Errorf("%s: the subject is %q", language, subjectOf(t, got))
				}
			}
		}
	}
}

// bodiesOf is read for mails that may have no HTML.
func bodiesOf(t testing.TB, raw []byte) *readMail {
	t.Helper()
	if bytes.Contains(raw, []byte("Content-Type: multipart/alternative")) {
		return read(t, raw)
	}
	m := &readMail{}
	inspectMail(t, raw, func(p mailPart) {
		switch {
		case p.depth == 0:
			m.header = p.header
		case strings.HasPrefix(p.header.Get("Content-Type"), "text/plain"):
			m.text = string(p.body)
		case p.header.Get("Content-Disposition") != "":
			m.files = append(m.files, payload.Attachment{Data: p.body})
		}
	})
	return m
}

// A target's own templates come before those of the section delivery; text and HTML are
// taken together.
func TestTemplatesOfTargetAndDefault(t *testing.T) {
	t.Parallel()
	general := testTarget()
	withTemplates(t, general, "general {{.Name}}", "general text {{.Name}}", "<p>general HTML {{.Name}}</p>")
	for _, c := range []struct {
		name                string
		subject, text, html string
		want                [3]string
	}{
		{"none", "", "", "", [3]string{"[PROD] general *.example.com", "general text *.example.com", "<p>general HTML *.example.com</p>"}},
		{"subject", "own {{.Name}}", "", "", [3]string{"[PROD] own *.example.com", "general text *.example.com", "<p>general HTML *.example.com</p>"}},
		{"text", "", "own text {{.Labels.owner}}", "", [3]string{"[PROD] general *.example.com", "own text web-team", ""}},
		{"all", "own", "own text", "<p>own HTML {{.Labels.owner}}</p>", [3]string{"[PROD] own", "own text", "<p>own HTML web-team</p>"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target := testTarget()
			if c.subject+c.text+c.html != "" {
				withTemplates(t, target, c.subject, c.text, c.html)
			}
			facts := goldenFacts(t, target)
			facts.words, facts.labels = general.words, map[string]string{"owner": "web-team"}
			m, err := renderMail(target, facts)
			if err != nil {
				t.Fatal(err)
			}
			goodWire(t, m)
			got := bodiesOf(t, m.raw)
			if have := [3]string{subjectOf(t, got), strings.TrimSpace(got.text), strings.TrimSpace(got.html)}; have != c.want {
				t.Errorf("got %q, want %q", have, c.want)
			}
			if len(got.files) != 1 || !bytes.Equal(got.files[0].Data, facts.bundle.PEM()) {
				t.Error("the attachment was changed")
			}
		})
	}
}

// The subject of an own template keeps the prefix, the warning, and one line.
func TestTemplateSubject(t *testing.T) {
	t.Parallel()
	target := testTarget()
	withTemplates(t, target, "Zertifikat für {{.Labels.owner}}", "", "")
	facts := goldenFacts(t, target)
	facts.labels = map[string]string{"owner": "x\r\nBcc: victim@evil.example =?utf-8?q?x?="}
	facts.now = lab.TestNow.Add(100 * 24 * time.Hour)
	facts.warnings, _ = payload.CheckDates(facts.bundle, facts.now, "warn")
	m, err := renderMail(target, facts)
	if err != nil {
		t.Fatal(err)
	}
	goodWire(t, m)
	got := read(t, m.raw)
	onlyOurHeaders(t, got)
	if want := "[PROD] Zertifikat für x Bcc: victim@evil.example = ?utf-8?q?x?= - WARNING: expired"; subjectOf(t, got) != want {
		t.Errorf("got %q, want %q", subjectOf(t, got), want)
	}
}

// Fault: a template that fails for one event only. Result: dead (SMTP_VALIDATION), with file
// and line.
func TestTemplateFailsAtRun(t *testing.T) {
	t.Parallel()
	target := testTarget()
	withTemplates(t, target, "", "x{{with .Labels.rows}}\n{{range (len .)}}{{range 99999}}x{{end}}{{end}}{{end}}", "")
	facts := goldenFacts(t, target)
	facts.labels = map[string]string{"rows": "canary"}
	_, err := renderMail(target, facts)
	f := asFailure(err)
	if f.Code != verdict.SMTPValidation || f.Phase != verdict.PhaseRender || f.Certainty != verdict.NotSent || strings.Contains(f.Reason, "canary") ||
		!strings.Contains(f.Reason, "text.txt, ") || !strings.HasSuffix(f.Reason, "line 2; correct it, then replay") {
		t.Errorf("got %v", f)
	}
}

// Fault: a template that names a field or function that does not exist. Result: refused when
// it is read, with file, line, column and target; the old definitions stay in force.
func TestTemplatesAreReadAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "subject.txt")
	write := func(text string) { lab.Write(t, file, []byte(text)) }
	write("one {{.Name}}")
	w := watch(t, Source{File: "targets.yaml"}, map[string]string{"targets.yaml": list(
		definition("a", "    templates: {subject: "+file+"}"), definition("b", "    templates: {subject: "+file+"}"), definition("c"))})
	subject := func() string {
		target := w.w.book.Current().All()[0]
		got, err := compose(target, goldenFacts(t, target), new(draft))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	write("two {{.Name}}")
	w.says("targets: 2 changed (a, b)")
	if subject() != "two *.example.com" {
		t.Errorf("the subject is %q", subject())
	}
	write("three\n{{.Nmae}}")
	problem := func(i int, id string) string {
		return fmt.Sprintf("%s:2:3: targets[%d].templates.subject: there is no field .Nmae: did you mean .Name? (target %s)", file, i, id)
	}
	w.says("the new targets are invalid: the old ones stay in force", problem(0, "a"), problem(1, "b"))
	if subject() != "two *.example.com" {
		t.Errorf("the subject is %q", subject())
	}
	w.do(os.Remove(file))
	w.says("the new targets are invalid: the old ones stay in force",
		"targets.yaml:"+line(t, w.dir, "subject", 1)+": targets[0].templates.subject: "+file+" does not exist (target a)",
		"targets.yaml:"+line(t, w.dir, "subject", 2)+": targets[1].templates.subject: "+file+" does not exist (target b)")
	write("four {{.Name}}")
	w.says("targets: 2 changed (a, b)")
	if subject() != "four *.example.com" {
		t.Errorf("the subject is %q", subject())
	}
}

// line returns line and column of the value after the n-th occurrence of a key in
// targets.yaml.
func line(t *testing.T, dir, key string, n int) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "targets.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range strings.Split(string(text), "\n") {
		if at := strings.Index(l, key+": "); at >= 0 {
			if n--; n == 0 {
				return fmt.Sprintf("%d:%d", i+1, at+len(key)+3)
			}
		}
	}
	t.Fatalf("no %s", key)
	return ""
}

func TestValidateTemplates(t *testing.T) {
	t.Parallel()
	warns := "Text {{.Warnings}}{{.KeyInClear}}"
	for _, c := range []struct {
		name                string
		subject, text, html string
		edit                func(*Target)
		want                []string
	}{
		{"HTML without text", "", "", "<p>{{.Warnings}}</p>", nil, []string{"templates.text: is required with html: programs that show no HTML need it (target ops-archive)"}},
		{"no warnings", "", "Text", "<p>{{range .Warnings}}<b>{{.}}</b>{{end}}</p>", nil, []string{"warning: templates.text: does not show .Warnings"}},
		{"key in clear", "", "{{.Warnings}}", "", func(t *Target) { t.Payload = payload.PEMAndKey }, []string{"warning: templates.text: does not show by .KeyInClear"}},
		{"key in clear, said", "", warns, "", func(t *Target) { t.Payload = payload.PEMAndKey }, nil},
		{"encrypted", "{{.Name}}", warns, "", func(t *Target) { t.Encryption = encryption.SMIME }, []string{"warning: templates.subject: shows the certificate, and the subject"}},
		{"encrypted, tells nothing", "Neues Zertifikat von {{.Product}}", warns, "", func(t *Target) { t.Encryption = encryption.SMIME }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target := testTarget()
			dir := t.TempDir()
			for name, f := range map[string]struct {
				text string
				path *string
			}{"s": {c.subject, &target.Templates.Subject}, "t": {c.text, &target.Templates.Text}, "h": {c.html, &target.Templates.HTML}} {
				if f.text != "" {
					*f.path = filepath.Join(dir, name)
					lab.Write(t, *f.path, []byte(f.text))
				}
			}
			if c.edit != nil {
				c.edit(target)
			}
			target.words = ReadTemplates(target.Templates)
			v := &validation{}
			target.validateTemplates(v)
			var got []string
			for _, p := range v.found {
				got = append(got, p.Error())
			}
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestValidateHeaders(t *testing.T) {
	t.Parallel()
	target := testTarget()
	target.SetDefaults()
	target.Headers = map[string]string{"x-team": "Büro", "Organization": "Example GmbH", "List-Help": "<mailto:help@example.com>", "List-Id": "<certs.example.com>"}
	if _, problems := (Relays{}).Define([]Target{*target}); len(problems) > 0 {
		t.Error(problems)
	}
	m, err := renderMail(target, goldenFacts(t, target))
	if err != nil {
		t.Fatal(err)
	}
	goodWire(t, m)
	got := read(t, m.raw).header
	if got.Get("X-Team") != "=?utf-8?q?B=C3=BCro?=" || got.Get("Organization") != "Example GmbH" || got.Get("List-Id") != "<certs.example.com>" || len(got["List-Id"]) != 1 {
		t.Errorf("got %v", got)
	}
	for name, c := range map[string]struct{ value, want string }{
		"Bcc":                          {"a@example.com", "is not a header that a target may set"},
		"From":                         {"a@example.com", "is not a header that a target may set"},
		"Received":                     {"x", "is not a header that a target may set"},
		"X-Certpost-Target":            {"x", "is not a header that a target may set"},
		"X-Auto-Response-Suppress":     {"All", "is not a header that a target may set"},
		"X-A: b\r\nBcc":                {"x", "is not a header that a target may set"},
		"X-Ä":                          {"x", "is not a header that a target may set"},
		"Subject":                      {"x", "is not a header that a target may set"},
		"X-Lines":                      {"x\r\nBcc: y", "has control characters"},
		"X-Long":                       {strings.Repeat("x", 201), "has 201 characters: at most 200 are allowed"},
		"X-Empty":                      {" ", "is empty"},
		"List-Id":                      {"certificates", "want a name with dots in angle brackets"},
		"List-Help":                    {"mailto:help@example.com", "want one URL in angle brackets"},
		"list-unsubscribe":             {"<mailto:hélp@example.com>", "want one URL in angle brackets"},
		"X-" + strings.Repeat("a", 61): {"x", "is not a header that a target may set"},
	} {
		target.Headers = map[string]string{name: c.value}
		if _, problems := (Relays{}).Define([]Target{*target}); len(problems) != 1 || !strings.Contains(problems[0].Message, c.want) {
			t.Errorf("%s: %q: got %v, want %q", name, c.value, problems, c.want)
		}
	}
	target.Headers = map[string]string{"X-A": "1", "x-a": "2"}
	if _, problems := (Relays{}).Define([]Target{*target}); len(problems) != 1 || !strings.Contains(problems[0].Message, "is set twice") {
		t.Errorf("got %v", problems)
	}
}

// Renewals of a certificate are one thread, whatever their event; other names and other
// targets are others.
func TestThreads(t *testing.T) {
	t.Parallel()
	target := testTarget()
	thread := func(target *Target, event, cn string, edit ...func(*x509.Certificate)) string {
		facts := issuedFor(t, target, cn, edit...)
		facts.eventID = event
		m, err := renderMail(target, facts)
		if err != nil {
			t.Fatal(err)
		}
		h := read(t, m.raw).header
		if h.Get("References") != h.Get("In-Reply-To") || h.Get("References") == m.messageID || strings.Contains(h.Get("References"), "www") {
			t.Errorf("In-Reply-To %q, References %q, Message-ID %q", h.Get("In-Reply-To"), h.Get("References"), m.messageID)
		}
		return h.Get("References")
	}
	first := thread(target, "e1", "www.example.com")
	other := testTarget()
	other.ID = "other"
	for name, c := range map[string]struct {
		got  string
		same bool
	}{
		"renewal":          {thread(target, "e2", "www.example.com", lab.DNSNames("www.example.com", "new.example.com")), true},
		"in capitals":      {thread(target, "e3", "WWW.example.com"), true},
		"another name":     {thread(target, "e1", "web.example.com"), false},
		"another target":   {thread(other, "e1", "www.example.com"), false},
		"without CN":       {thread(target, "e1", "", lab.DNSNames("zzz.example.com", "www.example.com")), true},
		"without any name": {thread(target, "e1", ""), false},
		"address instead":  {thread(target, "e1", "", func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} }), false},
	} {
		if (c.got == first) != c.same {
			t.Errorf("%s: the thread is %s, that of the first mail %s", name, c.got, first)
		}
	}
}

// A model has nothing of the target's secrets, nor of the event's private key.
func TestModelHasNoSecret(t *testing.T) {
	t.Parallel()
	target := testTarget()
	target.Payload = payload.PKCS12
	target.PKCS12Passphrase = Passphrase{Ref: secrets.Ref{Value: secrets.New([]byte("canary-passphrase"))}}
	target.Password = secrets.Ref{Env: "CANARY_PASSWORD"}
	facts := goldenFacts(t, target)
	facts.product = "Certpost"
	if text := fmt.Sprintf("%+v", newModel(target, facts)); strings.Contains(strings.ToLower(text), "canary") || strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, passphrase) {
		t.Errorf("the model is %s", text)
	}
	if config.Failed(ReadTemplates(Templates{}).Problems()) {
		t.Error("no templates are no problem")
	}
}
