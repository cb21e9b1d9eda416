package mailtext

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

func parsed(t testing.TB, kind Kind, source string) *Template {
	t.Helper()
	made, problems := Parse(kind, "mail.txt", source)
	if len(problems) > 0 {
		t.Fatalf("%q: %v", source, problems[0])
	}
	return made
}

func TestExecute(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   Kind
		source string
		want   string
	}{
		{Subject, "Zertifikat für {{.Name}}\n", "Zertifikat für www.example.com"},
		{Subject, "{{if .Expired}}\nAbgelaufen\n{{- else}}Bis {{date \"02.01.2006\" .NotAfter}}{{end}}\r\n", "Bis 01.06.2026"},
		{Text, "Names\n{{range .Names}}- {{.}}\n{{end}}", "Names\n- www.example.com\n- example.com\n"},
		{Text, "{{range $i, $n := .Names}}{{if $i}}, {{end}}{{$n.ASCII}}{{else}}none{{end}}", "www.example.com, example.com"},
		{Text, `{{join ", " .Names}} {{upper .Key}} {{.Labels.owner}} {{index .Labels "env"}}|{{.Labels.none}}|`, "www.example.com, example.com ECDSA, P-256 web-team prod||"},
		{Text, "{{define \"n\"}}<{{.ASCII}}>{{end}}of {{range .Names}}{{template \"n\" .}}{{end}}", "of <www.example.com><example.com>"},
		{Text, `by {{with .Labels.owner}}{{$.Product}} {{.}}{{end}}{{with date "2006" .Time}} {{.}}{{end}}`, "by Certpost web-team 2026"},
		{Text, `{{printf "%3d|%s" .DaysLeft .Serial}} {{len .Files}}{{(index .Files 0).Size}}`, " 89|4A:7B:E5 11.2 kB"},
		{Text, "\ufeff{{$x := \"\"}}{{range .Chain}}{{$x = .}}{{end}}{{$x}}\r\nend", "Example CA 1\nend"},
		{Text, `a{{printf "%c%c" 0 13}}b`, "a\ufffd\ufffdb"},
		{HTML, `<p title="{{.Issuer}}">{{.Name}}</p>`, `<p title="CN=Example CA 1">www.example.com</p>`},
	} {
		got, err := parsed(t, c.kind, c.source).Execute(Sample())
		if err != nil || got != c.want {
			t.Errorf("%q makes %q: %v; want %q", c.source, got, err, c.want)
		}
	}
}

// Fault: a template that names a field or function that does not exist, never ends, makes an
// empty mail. Result: refused when it is read.
func TestProblems(t *testing.T) {
	t.Parallel()
	deep := "x" + strings.Repeat("{{range $.Chain}}", 8) + "x" + strings.Repeat("{{end}}", 8)
	for _, c := range []struct {
		name   string
		kind   Kind
		source string
		want   string
	}{
		{"field", Text, "Hello\n  {{.Nmae}}", "line 2: there is no field .Nmae: did you mean .Name?"},
		{"field in a branch that no sample takes", Text, "x{{if eq .Target \"other\"}}{{.SHA265}}{{end}}", "line 1: there is no field .SHA265: did you mean .SHA256?"},
		{"field far from all", Text, "{{.Password}}", "line 1: there is no field .Password: want one of .Product, .Target, .Contact"},
		{"field in a loop", Text, "{{range .Names}}{{.Product}}{{end}}", "there is no field .Product here, where the dot is another value: want $.Product"},
		{"field of a name", Text, "{{range .Names}}{{.Ascii}}{{end}}", "there is no field .Ascii: a name has .ASCII, .Unicode"},
		{"method", Text, "{{.NotAfter.Format \"2006\"}}", "there is no field .Format: a moment has no fields"},
		{"field of a text", Text, "{{.Issuer.CommonName}}", "there is no field .CommonName: a text has no fields"},
		{"field of a list", Text, "{{.Files.Name}}", "there is no field .Name here"},
		{"field with arguments", Text, "{{.Name \"x\"}}", ".Name is not a function"},
		{"value before a field", Text, "{{\"x\" | .Name}}", ".Name is not a function"},
		{"function", Text, "{{toupper .Name}}", "there is no function toupper: did you mean upper?"},
		{"function of text/template", Text, "{{html .Name}}", "there is no function html: want one of and, date"},
		{"call", Text, "{{call .Name}}", "there is no function call"},
		{"the hidden function", Text, "{{certpost_step 1 1}}", "there is no function certpost_step"},
		{"function as an argument", Text, "{{print (js .Name)}}", "there is no function js"},
		{"not closed", Text, "a\n{{.Name", "line 2: unclosed action"},
		{"no end", Text, "a\n{{if .Expired}}\nb\n", "line 4: ends too early"},
		{"end without a beginning", Text, "a{{end}}", "line 1: unexpected {{end}}: no {{if}}"},
		{"quote", Text, "{{print \"a}}", "line 1: unterminated quoted string"},
		{"variable", Text, "{{$x}}", "line 1: undefined variable \"$x\""},
		{"template", Text, "{{template \"foot\"}}{{define \"food\"}}x{{end}}", "template \"foot\" is not defined: did you mean food?"},
		{"template calls itself", Text, "{{define \"a\"}}{{template \"a\" .}}{{end}}{{template \"a\" .}}", "template \"a\" calls itself"},
		{"templates call each other", Text, "{{define \"a\"}}{{template \"b\" .}}{{end}}{{define \"b\"}}{{template \"a\" .}}{{end}}{{template \"a\" .}}", "calls itself"},
		{"not a list", Text, "{{range .Issuer}}x{{end}}", ".Issuer is not a list"},
		{"date without layout", Text, "{{date .NotAfter}}", "line 1: date wants a layout and a time"},
		{"date of a text", Text, "{{date \"2006\" .Serial}}", "a moment is wanted here, not a text"},
		{"index out of range", Text, "{{index .Names 0}}", "there is no such entry: ask with if or with before (with a certificate without names"},
		{"endless loop", Text, "{{range 1000000000}}{{end}}x", "takes more than 200000 steps in the loop or template of line 1"},
		{"nested loops", Text, deep, "takes more than 200000 steps"},
		{"templates that double", Text, doubling(40), "takes more than 200000 steps"},
		{"doubling value", Text, "{{$x := \"aaaaaaaa\"}}{{range 100}}{{$x = printf \"%s%s\" $x $x}}{{end}}{{$x}}", "the result is too long"},
		{"width", Text, "{{printf \"%9999999d\" 1}}", "a width is over 200"},
		{"star", Text, "{{printf \"%*d\" 999999999 1}}", "a width cannot be *"},
		{"verbs", Text, "{{printf \"" + strings.Repeat("%s", 33) + "\"}}", "more than 32 verbs"},
		{"long result", Text, "{{range 3000}}" + strings.Repeat("x", 100) + "{{end}}", "at most 262144 bytes"},
		{"large file", Text, strings.Repeat("x", maxSource+1), "has 65537 bytes: at most 65536 are allowed"},
		{"empty", Text, " \n ", "is empty"},
		{"only definitions", Text, "{{define \"x\"}}y{{end}}", "is empty"},
		{"empty for some", Text, "{{if .Names}}x{{end}}", "makes an empty text (with a certificate without names"},
		{"control character", Text, "a\nb\x1b[0m", "line 2: has the control character U+001B"},
		{"not UTF-8", Text, "gr\xfcn", "line 1: is not UTF-8"},
		{"no dot", Text, "Hi {{Name}}", "line 1: there is no function Name: a field has a dot before it, .Name"},
		{"no dot in a loop", Text, "{{range Names}}{{.}}{{end}}", "a field has a dot before it, .Names"},
		{"small letters", Text, "{{.name}}", "there is no field .name: did you mean .Name?"},
		{"Jinja", Text, "a\n {% if x %}", "line 2: {% would be sent as it is: want {{ and }}"},
		{"for", Text, "{{for n in .Names}}{{n}}{{end}}", "line 1: there is no for: want range"},
		{"endfor", Text, "{{range .Names}}{{.}}{{endfor}}", "line 1: there is no endfor: want end"},
		{"elif", Text, "{{if .Expired}}a{{elif .HasKey}}b{{end}}", "there is no elif: want else if"},
		{"include", Text, "{{include \"foot.txt\"}}", "there is no include: want the text itself"},
		{"equals", Text, "{{if .DaysLeft == 1}}a{{end}}", "want eq before both values"},
		{"plus", Text, "{{.DaysLeft + 1}}", "there is no arithmetic"},
		{"and", Text, "{{if .Expired && .HasKey}}a{{end}}", "want eq, ne"},
		{"single quotes", Text, "{{date '02.01.2006' .NotAfter}}", "want text in double quotes"},
		{"strftime", Text, "{{date \"%d.%m.%Y\" .NotAfter}}", "the layout has no part of a date"},
		{"letters for a date", Text, "{{date \"dd.MM.yyyy\" .NotAfter}}", "the layout has no part of a date"},
		{"date the other way round", Text, "{{date .NotAfter \"2006\"}}", "date wants a layout and a time"},
		{"join the other way round", Text, "{{join .Names \", \"}}", "a text is wanted here, not a list of names: are the values in the right order?"},
		{"one brace", Text, "Hi {{.Name} x", "line 1: one } where two close: want }}"},
		{"dash", Text, "{{.Labels.my-label}}", "want a name in quotes, such as {{index .Labels \"my-label\"}}"},
		{"typographic quotes", Text, "{{date “02.01.2006” .NotAfter}}", "line 1: “: want plain double quotes"},
		{"dollar", Text, "{{$Name}}", "a field has a dot before it, not a dollar sign"},
		{"parentheses", Text, "{{join(\", \", .Names)}}", "want the values behind the function, with blanks"},
		{"nothing", Text, "a{{}}", "there is nothing between the braces"},
		{"two lines", Subject, "{{.Name}}\n{{.Product}}", "makes a subject of more than one line"},
		{"two lines for some", Subject, "{{.Name}}{{if .Expired}}\nexpired{{end}}", "more than one line (with an expired certificate"},
		{"no HTML", HTML, "Hello {{.Name}}", "without any HTML element"},
		{"HTML that cannot be escaped", HTML, "<p {{if .Expired}}title=\"{{end}}>", "line 1: "},
		{"HTML in an ambiguous place", HTML, "<script>var x = `${ {{.Name}} }`</script><a href={{.Name}}", "ends in a non-text context"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			made, problems := Parse(c.kind, "mail.txt", c.source)
			if made != nil || len(problems) == 0 {
				t.Fatal("it is accepted")
			}
			if got := problems[0].Error(); !strings.Contains(got, c.want) || len(got) > 2*maxErrorLen {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// doubling is a template whose definitions each call the next one twice.
func doubling(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{{define \"t%d\"}}{{template \"t%d\" .}}{{template \"t%d\" .}}{{end}}", i, i+1, i+1)
	}
	fmt.Fprintf(&b, "{{define \"t%d\"}}x{{end}}{{template \"t0\" .}}", n)
	return b.String()
}

func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	_, problems := Parse(Text, "mail.txt", "{{.Nmae}}\n{{toupper .Serail}}\n")
	if len(problems) != 3 || problems[0].Line != 1 || problems[1].Line != 2 || problems[0].Column != 3 {
		t.Errorf("got %v", problems)
	}
}

// hostile values, as a certificate or an event can have them after cleaning, and some that
// cleaning would have changed.
var hostile = []string{
	"x\r\nBcc: victim@evil.example\r\n\r\nbody", "=?utf-8?q?=0D=0ABcc:_x?=", "{{.Serial}}", "<script>alert(1)</script>", `" onmouseover="alert(1)`,
	"javascript:alert(1)", "a\u202eb\u2028c\x00d\x1b", strings.Repeat("x", 5000), strings.Repeat("日本", 2000), "\xff\xfe", "%s%d%!", "",
}

func hostileModel(text string) *Model {
	m := Sample()
	v := reflect.ValueOf(m).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.String {
			f.SetString(text)
		}
	}
	m.Name, m.Names, m.Chain = Name{text, text}, []Name{{text, text}}, []string{text}
	m.Files, m.Labels, m.Warnings = []File{{text, text, text}}, map[string]string{"owner": text}, []string{text}
	return m
}

// Fault: text in the fields of a template that looks like a header, markup, another template.
// Result: cleaned or escaped; one line in the subject.
func TestHostileFields(t *testing.T) {
	t.Parallel()
	subject := parsed(t, Subject, "{{.Name}} {{.Labels.owner}} {{.Issuer}}")
	page := parsed(t, HTML, `<p title="{{.Issuer}}" style="color:{{.Serial}}"><a href="{{.Source}}">{{.Name}}</a><b title={{.Key}}>{{.Labels.owner}}</b>`)
	for _, text := range hostile {
		s, err := subject.Execute(hostileModel(text))
		if err != nil || strings.ContainsAny(s, "\r\n\x00\x1b\u202e\u2028") || strings.Contains(s, "=?") || utf8.RuneCountInString(s) > maxSubject || !utf8.ValidString(s) {
			t.Errorf("%.40q makes the subject %.200q: %v", text, s, err)
		}
		h, err := page.Execute(hostileModel(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"<script", `" onmouse`, `href="javascript:`} {
			if strings.Contains(h, bad) {
				t.Errorf("%.40q makes %s", text, h)
			}
		}
	}
}

// A model has texts, numbers and lists of them: nothing that leads to a secret, and no
// method besides String.
func TestModelHasOnlyText(t *testing.T) {
	t.Parallel()
	var walk func(path string, of reflect.Type)
	walk = func(path string, of reflect.Type) {
		for i := range of.NumMethod() {
			if name := of.Method(i).Name; name != "String" {
				t.Errorf("%s has the method %s", path, name)
			}
		}
		switch of.Kind() {
		case reflect.String, reflect.Int, reflect.Bool:
		case reflect.Slice, reflect.Map:
			walk(path+"[]", of.Elem())
		case reflect.Struct:
			for i := range of.NumField() {
				if f := of.Field(i); f.IsExported() {
					walk(path+"."+f.Name, f.Type)
				} else if of != reflect.TypeFor[Moment]() {
					t.Errorf("%s.%s is hidden", path, f.Name)
				}
			}
		default:
			t.Errorf("%s is a %s", path, of)
		}
	}
	walk("", reflect.TypeFor[Model]())
}

func TestExecuteAtOnce(t *testing.T) {
	t.Parallel()
	made := parsed(t, Text, "Names\n{{range .Names}}{{.}}\n{{end}}")
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if got, err := made.Execute(Sample()); err != nil || got != "Names\nwww.example.com\nexample.com\n" {
				t.Errorf("got %q: %v", got, err)
			}
		})
	}
	group.Wait()
}

func TestShows(t *testing.T) {
	t.Parallel()
	made := parsed(t, Text, "{{.Name}}{{if .Expired}} expired{{end}}")
	if !made.Shows(func(m *Model) { m.Name.ASCII = "other" }) || !made.Shows(func(m *Model) { m.Expired = true }) || made.Shows(func(m *Model) { m.Serial = "00" }) {
		t.Error("it shows the name and whether it has expired, and nothing else")
	}
}

// Whatever a file contains, Parse returns, and what it accepts works within the limits.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"{{.Name}}", "{{range .Names}}{{.}}{{else}}none{{end}}", "{{define \"a\"}}{{.}}{{end}}{{template \"a\" .Chain}}", "{{with $x := .Labels}}{{$x.a}}{{end}}",
		"{{range $k, $v := .Labels}}{{$k}}={{$v}}{{break}}{{end}}", "<p title={{.Name}}>{{join `,` .Files}}", "{{printf `%[2]*[1]d` 3 4}}", "{{range 9999999999}}{{range 99}}{{end}}{{end}}",
		"{{block `b` .}}{{.Name}}{{end}}", "{{$x := 1}}{{range .Names}}{{$x = .}}{{end}}{{$x}}", "{{and .Name .Serial | len | printf `%d`}}", "{{- /* comment */ -}} x", "{{slice .Serial 1 2}}{{index .Names 1 2 3}}",
		doubling(5), "{{range $i, $c := .Chain}}{{if $i}}{{continue}}{{end}}{{end}}x", "{{range .Chain}}{{.X.Y.Z}}{{end}}", "{{((((.Name))))}}", "{{(index .Files 0).Name}}", "<script>{{.Names}}</script>",
	} {
		f.Add(s, "web1.example.com")
	}
	f.Add("{{.Name}}", hostile[0])
	f.Fuzz(func(t *testing.T, source, text string) {
		for _, kind := range []Kind{Subject, Text, HTML} {
			made, problems := Parse(kind, "f", source)
			if (made == nil) == (len(problems) == 0) {
				t.Fatalf("a template %v and problems %v", made != nil, problems)
			}
			for _, p := range problems {
				if strings.ContainsAny(p.Message, "\r\n") || len(p.Message) > 4*maxErrorLen {
					t.Fatalf("the problem is %q", p.Message)
				}
			}
			if made == nil {
				continue
			}
			got, err := made.Execute(hostileModel(text))
			if err == nil && (len(got) > 2*maxOutput[kind] || !utf8.ValidString(got) || strings.Contains(got, "\r") || kind == Subject && strings.ContainsAny(got, "\n\t")) {
				t.Fatalf("%q makes %.300q", source, got)
			}
		}
	})
}

func BenchmarkExecute(b *testing.B) {
	made := parsed(b, HTML, `<p>{{.Name}}</p>{{range .Names}}<li>{{.}}</li>{{end}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := made.Execute(Sample()); err != nil {
			b.Fatal(err)
		}
	}
}
