package config

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzParse: for any bytes there is no panic, reading twice gives the same result, and
// every place is inside the document.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "---\n", "name: x\nport: 587\n", "items:\n  - id: a\n    to: [a, b]\n  - {<<: *x, id: b}\n",
		"x-a: &a {port: 1}\nitems: [*a, {<<: [*a, *a]}]\n", "nested:\n\tca_file: x\n", "name: |\n  a\n b\n", "? [a]\n: b\n",
		"name: \"\\q\"\n", "a: {b: [c, {d: ${E}}]}\n", "name: !!str 5\n", "name: a\n---\nname: b\n", "%YAML 1.2\n---\nname: a\n", "- - - a\n", "name: 'it''s'\n", "<<: *a\n", "&a *a : b\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var into, again shape
		options := []Option{Variables([]string{"E=e"}), Overrides("APP_", []string{"APP_PORT=5"})}
		_, problems := Parse("c.yaml", data, &into, options...)
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 2
		for _, p := range problems {
			if p.Message == "" || p.Line < 0 || p.Line > lines || p.Column < 0 || (p.Line == 0) != (p.Column == 0) {
				t.Errorf("invalid problem %+v", p)
			}
		}
		_, problemsAgain := Parse("c.yaml", data, &again, options...)
		if strings.Join(texts(problems), "\n") != strings.Join(texts(problemsAgain), "\n") || into.Name != again.Name {
			t.Error("reading twice differs")
		}
	})
}

// TestTextIsKept: text such as a password is read unchanged, in every form in which YAML
// can write it.
func TestTextIsKept(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 3_000 {
		text := randomText(random)
		double, err := json.Marshal(text) // a JSON string is a YAML string
		if err != nil {
			t.Fatal(err)
		}
		written := []string{
			"name: " + string(double) + "\n",
			"name: '" + strings.ReplaceAll(text, "'", "''") + "'\n",
			"labels: {a: '" + strings.ReplaceAll(text, "'", "''") + "', b: c}\n",
			"name: |-\n  " + text + "\n",
			"hosts:\n  - " + string(double) + "\n",
		}
		if plain := "a" + strings.TrimRight(text, " :"); !strings.Contains(plain, ": ") && !strings.Contains(plain, " #") {
			var into shape
			if _, problems := Parse("c.yaml", []byte("name: "+plain+"\n"), &into); len(problems) > 0 || into.Name != plain {
				t.Fatalf("%q is read as %q, %v", plain, into.Name, problems)
			}
		}
		for _, document := range written {
			if strings.HasPrefix(document, "name: |") && strings.TrimSpace(text) != text {
				continue // indentation and trailing spaces have a meaning in block text
			}
			var into shape
			if _, problems := Parse("c.yaml", []byte(document), &into); len(problems) > 0 {
				t.Fatalf("%q: %v", document, problems)
			}
			if got := into.Name + into.Labels["a"] + strings.Join(into.Hosts, ""); got != text {
				t.Fatalf("%q is read as %q", document, got)
			}
		}
	}
}

func randomText(random *rand.Rand) string {
	const alphabet = "ab1 :#{}[],&*!|>'\"%@`-?\\$=~/<.;()^+_äß漢😀"
	n := 1 + random.IntN(12)
	var b strings.Builder
	for range n {
		at := random.IntN(len(alphabet))
		for !utf8.RuneStart(alphabet[at]) {
			at--
		}
		r, _ := utf8.DecodeRuneInString(alphabet[at:])
		b.WriteRune(r)
	}
	return b.String()
}
