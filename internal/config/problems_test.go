package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseProblems(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       []string
	}{
		// Keys.
		{"unknown key, near", "nmae: x\n", []string{`c.yaml:1:1: unknown key "nmae": did you mean name?`}},
		{"unknown key, nested and inlined", "nested:\n  give_up_aftr: 1h\n  cafile: x\n", []string{
			`c.yaml:2:3: nested: unknown key "give_up_aftr": did you mean give_up_after?`,
			`c.yaml:3:3: nested: unknown key "cafile": did you mean ca_file?`}},
		{"unknown key, far", "tls: {zzz: 1}\n", []string{`c.yaml:1:7: tls: unknown key "zzz": want ca_file or key_file`}},
		{"unknown key of many", "zzzzzz: 1\n", []string{`c.yaml:1:1: unknown key "zzzzzz": want one of the keys in docs/configuration.md`}},
		{"unknown key without a value is not shown", "either: {hunter2}\n", []string{`c.yaml:1:10: either: unknown key without a value: want env or value`}},
		{"a hidden or ignored field is no key", "hidden: x\nignored: y\n", []string{
			`c.yaml:1:1: unknown key "hidden": want one of the keys in docs/configuration.md`,
			`c.yaml:2:1: unknown key "ignored": want one of the keys in docs/configuration.md`}},
		{"x- only at the top", "nested:\n  x-a: 1\n", []string{`c.yaml:2:3: nested: unknown key "x-a": want give_up_after, ca_file, key_file or deeper`}},
		{"duplicate key", "port: 1\nname: x\nport: 2\n", []string{`c.yaml:3:1: port: is set twice: first in line 1`}},
		{"duplicate key in a flow mapping", "labels: {a: b, a: c}\n", []string{`c.yaml:1:16: labels.a: is set twice: first in line 1`}},
		{"a list as a key", "? [a]\n: b\n", []string{`c.yaml:2:1: want a plain word as the key`}},

		// Types.
		{"duration without a unit", "timeout: 30\n", []string{`c.yaml:1:10: timeout: want a duration such as 30s, 5m, 72h or 3d, got 30`}},
		{"duration in weeks", "timeout: 3w\n", []string{`c.yaml:1:10: timeout: want a duration such as 30s, 5m, 72h or 3d, got 3w`}},
		{"number in quotes", "port: \"587\"\n", []string{`c.yaml:1:7: port: want a whole number, got the text "587": remove the quotes`}},
		{"word for a number", "port: smtp\n", []string{`c.yaml:1:7: port: want a whole number, got smtp`}},
		{"fraction for a number", "port: 2.5\n", []string{`c.yaml:1:7: port: want a whole number, got 2.5`}},
		{"leading zero", "port: 0587\n", []string{`c.yaml:1:7: port: want a whole number, got 0587`}},
		{"hexadecimal", "port: 0x1F\n", []string{`c.yaml:1:7: port: want a whole number, got 0x1F`}},
		{"too large", "port: 99999999999999999999\n", []string{`c.yaml:1:7: port: want a whole number, got 99999999999999999999`}},
		{"not a number", "ratio: .nan\n", []string{`c.yaml:1:8: ratio: want a number, got .nan`}},
		{"yes for a boolean", "on: yes\n", []string{`c.yaml:1:5: on: want true or false, got yes`}},
		{"number for text", "name: 5\n", []string{`c.yaml:1:7: name: want text, got a number: put it in quotes`}},
		{"boolean for text", "labels: {a: true}\n", []string{`c.yaml:1:13: labels.a: want text, got true or false: put it in quotes`}},
		{"number for a secret is not shown", "secret: 123456\n", []string{`c.yaml:1:9: secret: want text, got a number: put it in quotes`}},
		{"list for text", "name: [a]\n", []string{`c.yaml:1:7: name: want text, got a list`}},
		{"mapping for a secret", "secret: {a: b}\n", []string{`c.yaml:1:9: secret: want text, got a mapping`}},
		{"text for a list", "hosts: a\n", []string{`c.yaml:1:8: hosts: want a list such as [text], got text`}},
		{"text for a mapping is not shown", "tls: hunter2\n", []string{`c.yaml:1:6: tls: want a mapping with ca_file or key_file, got text`}},
		{"list for a scalar or mapping", "either: [a]\n", []string{`c.yaml:1:9: either: want text, or a mapping with env or value, got a list`}},
		{"text for labels", "labels: a\n", []string{`c.yaml:1:9: labels: want a mapping such as {name: text}, got text`}},
		{"mapping for a list of mappings", "items:\n  id: a\n", []string{`c.yaml:2:3: items: want a list of mappings, each with a dash before it, got a mapping`}},
		{"nothing in a list", "hosts: [a, ]\nitems:\n  -\n  - id: a\n", []string{`c.yaml:3:4: items[0]: want a mapping with id, port or to, got nothing`}},
		{"nothing in a mapping", "labels:\n  a:\n", []string{`c.yaml:2:6: labels.a: want text, got nothing`}},
		{"text as a document", "hello\n", []string{`c.yaml:1:1: want a mapping with one of the keys in docs/configuration.md, got text`}},
		{"list as a document", "- a\n", []string{`c.yaml:1:1: want a mapping with one of the keys in docs/configuration.md, got a list`}},

		// Check, with places.
		{"bounds", "port: 0\ntimeout: 11m\nratio: 0.5\n", []string{
			`c.yaml:1:7: port: want 1 to 65535, got 0`,
			`c.yaml:2:10: timeout: want 1s to 600s, got 11m0s`,
			`c.yaml:3:8: ratio: want at least 1, got 0.5`}},
		{"words", "mode: fsat\n", []string{`c.yaml:1:7: mode: want fast or slow, got fsat`}},
		{"words to come", "mode: warp\n", []string{`c.yaml:1:7: mode: warp is not available in this version: want fast or slow`}},
		{"missing: at the mapping that misses it", "items:\n  - port: 25\n    to: []\n", []string{`c.yaml:2:5: items[0].id: is required`}},

		// Anchors.
		{"unknown anchor is not shown", "name: *hunter2\n", []string{`c.yaml:1:7: name: no anchor of that name before this alias; put text that begins with * in quotes`}},
		{"alias inside its anchor", "hosts: &a [*a]\n", []string{`c.yaml:1:12: hosts[0]: no anchor of that name before this alias; put text that begins with * in quotes`}},
		{"a problem inside an anchor is reported where it is used, at the place where it is written", "x-b: &b {prot: 1}\nitems:\n  - <<: *b\n    id: a\n", []string{
			`c.yaml:1:10: items[0]: unknown key "prot": did you mean port?`}},
		{"merge of text", "items:\n  - <<: x\n    id: a\n", []string{`c.yaml:2:9: items[0]: want a mapping or a list of mappings after <<, got text`}},
		{"tags", "name: !!str 5\n", []string{`c.yaml:1:7: name: tags (!name) are not supported: remove it`}},

		// Documents.
		{"two documents", "name: a\n---\nname: b\n", []string{`c.yaml:3:1: a second document begins here: want one document per file`}},
		{"control character", "name: a\nmode: \"\x00\"\n", []string{`c.yaml:2:8: has the control character U+0000`}},
		{"not UTF-8", "name: ä\nmode: \xff\n", []string{`c.yaml:2:7: is not UTF-8`}},
		{"UTF-16", "\xff\xfen\x00", []string{`c.yaml:1:1: is not UTF-8`}},
		{"too large a file", strings.Repeat("#", 1<<20+1), []string{`c.yaml: is larger than 1048576 bytes`}},

		// Syntax: Certpost's messages, which never quote the document.
		{"tab indentation", "nested:\n\tca_file: x\n", []string{`c.yaml:2:1: a tab in the indentation: YAML wants spaces`}},
		{"tab in text", "name: hunter\t2\n", []string{`c.yaml:1:7: name: a tab in text without quotes: put it in quotes`}},
		{"open brace", "tls: {ca_file: x\n", []string{`c.yaml:1:6: a { is not closed by }`}},
		{"open bracket", "hosts: [a\n", []string{`c.yaml:1:8: a [ is not closed by ]`}},
		{"open quote", "name: \"hunter2\nport: 1\n", []string{`c.yaml:1:7: a quote is not closed`}},
		{"two colons", "name: hunter2: x\n", []string{`c.yaml:1:7: a second ": " on one line, or a line that is indented too deep: put a value with ": " in quotes`}},
		{"too deep a line", "name: x\n  port: 1\n", []string{`c.yaml:1:7: a second ": " on one line, or a line that is indented too deep: put a value with ": " in quotes`}},
		{"too shallow a line", "  name: x\nport: 1\n", []string{`c.yaml:2:1: the indentation does not match the lines above`}},
		{"escape", `name: "\q"`, []string{`c.yaml:1:9: an unknown escape in double quotes: use single quotes, or \\ for a backslash`}},
		{"reserved", "name: @x\n", []string{`c.yaml:1:7: begins with a character that YAML reserves: put the value in quotes`}},
		{"list on the key's line", "hosts: - a\n", []string{`c.yaml:1:8: a list entry must begin on a new line`}},
		{"a variable in a flow mapping", "tls: {ca_file: ${X}}\n", []string{`c.yaml:1:17: want a comma or } here; put ${...} in quotes inside { } and [ ]`}},
		{"brackets without end", strings.Repeat("[", 500_000), []string{`c.yaml:1:65: is nested deeper than 64 levels`}},
		{"dashes without end", strings.Repeat("- ", 250_000), []string{`c.yaml:1:129: is nested deeper than 64 levels`}},

		// All at once, in order.
		{"many", "prot: 1\ntimeout: 5\nitems:\n  - id: a\n    port: x\n  - to: b\n", []string{
			`c.yaml:1:1: unknown key "prot": did you mean port?`,
			`c.yaml:2:10: timeout: want a duration such as 30s, 5m, 72h or 3d, got 5`,
			`c.yaml:5:11: items[0].port: want a whole number, got x`,
			`c.yaml:6:5: items[1].id: is required`,
			`c.yaml:6:9: items[1].to: want a list such as [text], got text`}},
		{"columns count characters, not bytes", "labels: {ä: ö, ü: 5}\n", []string{`c.yaml:1:19: labels.ü: want text, got a number: put it in quotes`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, got := parse(t, test.text)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			for _, p := range got {
				if strings.Contains(p, "hunter") {
					t.Errorf("shows what may be a secret: %s", p)
				}
			}
		})
	}
}

func TestAliasesOfAliasesAreBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("x-0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 10; i++ {
		name, before := string(rune('0'+i)), string(rune('0'+i-1))
		b.WriteString("x-" + name + ": &a" + name + " [" + strings.Repeat("*a"+before+",", 10) + "]\n")
	}
	b.WriteString("items: *a9\n")
	_, got := parse(t, b.String())
	// There are lists in place of mappings, so each is refused at once.
	if len(got) != 10 {
		t.Errorf("%d problems: %q", len(got), got)
	}

	b.Reset()
	b.WriteString("x-0: &a0 {port: 1}\n")
	for i := 1; i < 30; i++ {
		b.WriteString("x-" + strings.Repeat("i", i) + ": &a" + strings.Repeat("i", i) + " {<<: [*a" + before(i) + ", *a" + before(i) + "]}\n")
	}
	b.WriteString("items: [*a" + strings.Repeat("i", 29) + "]\n")
	_, got = parse(t, b.String())
	if len(got) == 0 || !strings.Contains(got[0], "more than 200000 values") {
		t.Errorf("problems: %q", got)
	}
}

func before(i int) string {
	if i == 1 {
		return "0"
	}
	return strings.Repeat("i", i-1)
}
