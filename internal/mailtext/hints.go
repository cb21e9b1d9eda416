package mailtext

import (
	"regexp"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/legible"
)

// otherWords are words of other template languages, with what to write here.
var otherWords = map[string]string{
	"for": "range, such as {{range .Names}}{{.}}{{end}}", "foreach": "range, such as {{range .Names}}{{.}}{{end}}", "each": "range, such as {{range .Names}}{{.}}{{end}}",
	"elif": "else if", "elsif": "else if", "elseif": "else if",
	"endif": "end", "endfor": "end", "endrange": "end", "endwith": "end", "endblock": "end", "fi": "end",
	"unless":  "if not, such as {{if not .Expired}}",
	"include": "the text itself: each file stands alone", "import": "the text itself: each file stands alone", "extends": "the text itself: each file stands alone",
	"set": "a variable, such as {{$n := len .Names}}", "let": "a variable, such as {{$n := len .Names}}",
}

// firstWord is the first word of an action.
var firstWord = regexp.MustCompile(`\{\{-?\s*([A-Za-z]+)\b`)

// foreign finds words of other template languages in a file that cannot be parsed, or would be
// taken as text.
func foreign(source string, parsed bool) *Problem {
	at := func(i int, message string) *Problem {
		before := source[:i]
		return &Problem{Line: 1 + strings.Count(before, "\n"), Column: i - strings.LastIndexByte(before, '\n'), Message: message}
	}
	if i := strings.Index(source, "{%"); i >= 0 {
		return at(i, "{% would be sent as it is: want {{ and }}, such as {{if .Expired}}")
	}
	if parsed {
		return nil // check finds the others, as functions
	}
	for _, m := range firstWord.FindAllStringSubmatchIndex(source, -1) {
		if instead, ok := otherWords[source[m[2]:m[3]]]; ok {
			return at(m[2], "there is no "+source[m[2]:m[3]]+": want "+instead)
		}
	}
	return nil
}

// unknownFunction says what to write instead of a function that does not exist.
func unknownFunction(name string) string {
	shown := legible.Clean(name, 60)
	if instead, ok := otherWords[name]; ok {
		return "there is no " + shown + ": want " + instead
	}
	if i := slices.IndexFunc(modelFields, func(f string) bool { return strings.EqualFold(f, name) }); i >= 0 {
		return "there is no function " + shown + ": a field has a dot before it, ." + modelFields[i]
	}
	return "there is no function " + shown + perhaps("", name, functionNames)
}

// plainWords are words of the template packages, with ours.
var plainWords = []struct {
	theirs *regexp.Regexp
	ours   string
}{
	{regexp.MustCompile(`^unexpected EOF$`), "ends too early: an {{if}}, {{range}}, {{with}} or {{define}} has no {{end}}"},
	{regexp.MustCompile(`^unexpected \{\{(end|else)\}\}$`), "unexpected {{$1}}: no {{if}}, {{range}} or {{with}} is open here"},
	{regexp.MustCompile(`^unexpected "=" in operand$`), `unexpected "=": want eq before both values, such as {{if eq .DaysLeft 1}}`},
	{regexp.MustCompile(`^unrecognized character in action: U\+(?:201[89A-F]|00[AB]B) '(.)'$`), `$1: want plain double quotes, "`},
	{regexp.MustCompile(`^undefined variable ("\$.*")$`), "undefined variable $1: a field has a dot before it, not a dollar sign"},
	{regexp.MustCompile(`^unexpected "\(" in operand$`), `unexpected "(": want the values behind the function, with blanks, such as {{join ", " .Names}}`},
	{regexp.MustCompile(`^missing value for (.*)$`), "missing value for $1: there is nothing between the braces"},
	{regexp.MustCompile(`^(unexpected "[<>!&|]+".*|unrecognized character.*|bad number syntax: "[+*/-].*|illegal number syntax: "[+*/-].*)$`), "$1: there are no such signs: want eq, ne, lt, le, gt, ge, and, or, not; there is no arithmetic"},
	{regexp.MustCompile(`^malformed character constant: (.*)$`), "$1: want text in double quotes"},
	{regexp.MustCompile(`^unterminated character constant$`), "unterminated quotes: want text in double quotes"},
	{regexp.MustCompile(`^bad character U\+007D '\}'$`), "one } where two close: want }}"},
	{regexp.MustCompile(`^bad character U\+002D '-'$`), `a - in a name: want a name in quotes, such as {{index .Labels "my-label"}}`},
	{regexp.MustCompile(`error calling index: (reflect: slice index out of range|.*index out of range.*)`), "there is no such entry: ask with if or with before"},
	{regexp.MustCompile(`wrong type for value; expected string; got (\S+)`), "a text is wanted here, not $1: are the values in the right order?"},
	{regexp.MustCompile(`wrong type for value; expected (\S+); got (\S+)`), "$1 is wanted here, not $2"},
	{regexp.MustCompile(`not string\b`), "not a text"},
	{regexp.MustCompile(`not int\b`), "not a number"},
	{regexp.MustCompile(`error calling `), ""},
}

// plainly puts the words of the template packages into those of docs/templates.md.
func plainly(message string) string {
	for _, w := range plainWords {
		message = w.theirs.ReplaceAllString(message, w.ours)
	}
	return goType.ReplaceAllStringFunc(message, func(of string) string {
		name := strings.ToLower(of[strings.LastIndexByte(of, '.')+1:])
		if strings.HasPrefix(of, "[]") {
			return "a list of " + name + "s"
		}
		return "a " + name
	})
}

// goType is a type of this package.
var goType = regexp.MustCompile(`(\[\]|\*)?mailtext\.\w+`)
