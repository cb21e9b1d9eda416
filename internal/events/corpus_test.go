package events

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

//go:embed testdata/chain.pem
var chainPEM string

// body replaces what would make the tables unreadable: $PEM by the chain as a JSON
// string, $REF by a valid reference.
func body(s string) []byte {
	pem, _ := json.Marshal(chainPEM)
	s = strings.ReplaceAll(s, "$PEM", string(pem))
	s = strings.ReplaceAll(s, "$REF", `{"vault":{"mount":"secret","path":"certs/x","key":"k"}}`)
	return []byte(s)
}

func base64Of(s string) string { return base64.StdEncoding.EncodeToString(body(s)) }

func list(n int, item func(int) string) string {
	items := make([]string, n)
	for i := range items {
		items[i] = item(i)
	}
	return strings.Join(items, ",")
}

// structured is an envelope around data, with more attributes before it.
func structured(more, data string) string {
	return `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1",` + more + `"data":` + data + `}`
}

type header = map[string][]string

func binaryHeader(changes ...string) header {
	h := header{"ce-specversion": {"1.0"}, "ce-type": {"certificate.issued"}, "ce-source": {"/ca"}, "ce-id": {"e1"}}
	for i := 0; i < len(changes); i += 2 {
		delete(h, changes[i])
		if changes[i+1] != "" {
			h[changes[i]] = []string{changes[i+1]}
		}
	}
	return h
}

// goodEvents are valid events with their canonical form.
var goodEvents = []struct {
	name   string
	header header
	body   string
	want   string
}{
	{
		name: "smallest",
		body: `{"id":"e1","certificate":$PEM}`,
		want: `{"id":"e1","certificate":$PEM}`,
	},
	{
		name: "everything",
		body: `{"labels":{"b":"2","a":"1","empty":""},"targets":["t2","t1"],"private_key":$REF,"certificate":$PEM,"time":"2026-01-31T13:00:00.5+01:00","source":"certbot://web1/x","id":"e1"}`,
		want: `{"id":"e1","source":"certbot://web1/x","time":"2026-01-31T12:00:00.5Z","certificate":$PEM,"private_key":$REF,"targets":["t2","t1"],"labels":{"a":"1","b":"2","empty":""}}`,
	},
	{
		name: "a time in lower case",
		body: `{"id":"e1","certificate":$PEM,"time":"2026-01-31t13:00:00.5z"}`,
		want: `{"id":"e1","time":"2026-01-31T13:00:00.5Z","certificate":$PEM}`,
	},
	{
		name: "references of every kind",
		body: `{"id":"e1","certificate":{"vault":{"mount":"secret","path":"certs/x","key":"chain","version":7}},"private_key":{"transit":{"mount":"transit","key":"certs","ciphertext":"vault:v1:AAAA"}}}`,
		want: `{"id":"e1","certificate":{"vault":{"mount":"secret","path":"certs/x","key":"chain","version":7}},"private_key":{"transit":{"mount":"transit","key":"certs","ciphertext":"vault:v1:AAAA"}}}`,
	},
	{
		name: "key in a file",
		body: `{"id":"e1","certificate":{"file":"/etc/letsencrypt/live/x/fullchain.pem"},"private_key":{"file":"/etc/letsencrypt/live/x/privkey.pem"}}`,
		want: `{"id":"e1","certificate":{"file":"/etc/letsencrypt/live/x/fullchain.pem"},"private_key":{"file":"/etc/letsencrypt/live/x/privkey.pem"}}`,
	},
	{
		name: "empty labels are none",
		body: `{"id":"e1","certificate":$PEM,"labels":{}}`,
		want: `{"id":"e1","certificate":$PEM}`,
	},
	{
		name: "text beyond ASCII, escaped or not",
		body: `{"id":"é\ud83d\ude00","certificate":$PEM,"targets":["Zürich <b>"],"labels":{"größe":"\u00fc"}}`,
		want: `{"id":"é😀","certificate":$PEM,"targets":["Zürich <b>"],"labels":{"größe":"ü"}}`,
	},
	{
		name: "a target that is no token is kept for its dead letter",
		body: `{"id":"e1","certificate":$PEM,"targets":["no such target!"]}`,
		want: `{"id":"e1","certificate":$PEM,"targets":["no such target!"]}`,
	},
	{
		name: "a word about keys is no key",
		body: `{"id":"e1","certificate":$PEM,"labels":{"note":"the PRIVATE KEY is in Vault","key":"none"}}`,
		want: `{"id":"e1","certificate":$PEM,"labels":{"key":"none","note":"the PRIVATE KEY is in Vault"}}`,
	},
	{
		name: "blanks around it",
		body: " \r\n\t{ \"id\" : \"e1\" , \"certificate\" : $PEM } \n",
		want: `{"id":"e1","certificate":$PEM}`,
	},
	{
		name: "as many labels and targets as may be",
		body: `{"id":"e1","certificate":$PEM,"targets":[` + list(1000, func(i int) string { return fmt.Sprintf(`"t%03d"`, i) }) + `],"labels":{` + list(64, func(i int) string { return fmt.Sprintf(`"l%02d":"v"`, i) }) + `}}`,
		want: `{"id":"e1","certificate":$PEM,"targets":[` + list(1000, func(i int) string { return fmt.Sprintf(`"t%03d"`, i) }) + `],"labels":{` + list(64, func(i int) string { return fmt.Sprintf(`"l%02d":"v"`, i) }) + `}}`,
	},
	{
		name: "longest id",
		body: `{"id":"` + strings.Repeat("ö", 256) + `","certificate":$PEM}`,
		want: `{"id":"` + strings.Repeat("ö", 256) + `","certificate":$PEM}`,
	},
	{
		name: "structured by its specversion",
		body: structured(`"time":"2026-01-31T12:00:00Z","subject":"www.example.com","datacontenttype":"application/json; charset=utf-8","dataschema":"https://example.com/s","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","sequence":3,"sampled":true,"unset":null,`, `{"certificate":$PEM,"targets":["t1"]}`),
		want: `{"id":"e1","source":"/ca","time":"2026-01-31T12:00:00Z","certificate":$PEM,"targets":["t1"]}`,
	},
	{
		name:   "structured by its content type",
		header: header{"content-type": {"Application/CloudEvents+JSON; charset=UTF-8"}},
		body:   structured("", `{"certificate":$PEM}`),
		want:   `{"id":"e1","source":"/ca","certificate":$PEM}`,
	},
	{
		name:   "structured by a content type with a broken parameter",
		header: header{"Content-Type": {"application/cloudevents+json; charset=\"utf-8"}},
		body:   structured("", `{"certificate":$PEM}`),
		want:   `{"id":"e1","source":"/ca","certificate":$PEM}`,
	},
	{
		name: "structured, unset time",
		body: structured(`"time":null,`, `{"certificate":$PEM,"time":"2026-01-31T12:00:00Z"}`),
		want: `{"id":"e1","source":"/ca","time":"2026-01-31T12:00:00Z","certificate":$PEM}`,
	},
	{
		name: "structured, the same id and source in the data",
		body: structured(`"time":"2026-01-31T12:00:00Z",`, `{"id":"e1","source":"/ca","time":"2026-01-31T13:00:00+01:00","certificate":$PEM}`),
		want: `{"id":"e1","source":"/ca","time":"2026-01-31T12:00:00Z","certificate":$PEM}`,
	},
	{
		name: "structured, data_base64",
		body: `{"specversion":"1.0","type":"com.example.certificate.issued.v1","source":"/ca","id":"e1","data_base64":"` + base64Of(`{"certificate":$PEM}`) + `"}`,
		want: `{"id":"e1","source":"/ca","certificate":$PEM}`,
	},
	{
		name:   "binary",
		header: binaryHeader("ce-time", "2026-01-31T12:00:00Z", "ce-datacontenttype", "application/json", "ce-partitionkey", "x", "Content-Type", "application/json", "Nats-Msg-Id", "e1", "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
		body:   `{"certificate":$PEM,"labels":{"env":"prod"}}`,
		want:   `{"id":"e1","source":"/ca","time":"2026-01-31T12:00:00Z","certificate":$PEM,"labels":{"env":"prod"}}`,
	},
	{
		name:   "binary, names in any case",
		header: header{"CE-SpecVersion": {"1.0"}, "Ce-Type": {"x.certificate.issued"}, "CE-SOURCE": {"/ca"}, "ce-Id": {" e1 "}},
		body:   `{"certificate":$PEM}`,
		want:   `{"id":"e1","source":"/ca","certificate":$PEM}`,
	},
	{
		name:   "binary, values as they are",
		header: binaryHeader("ce-source", "/ca/my%20ca", "ce-id", "%41 \"€😀\" 50%", "ce-subject", "100% renewed"),
		body:   `{"certificate":$PEM}`,
		want:   `{"id":"%41 \"€😀\" 50%","source":"/ca/my%20ca","certificate":$PEM}`,
	},
	{
		name: "null for what is left out",
		body: `{"id":"e1","source":null,"time":null,"certificate":$PEM,"private_key":null,"targets":null,"labels":null}`,
		want: `{"id":"e1","certificate":$PEM}`,
	},
	{
		name: "null in a reference",
		body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"mount":"secret","path":"certs/x","key":"k","version":null},"transit":null,"file":null}}`,
		want: `{"id":"e1","certificate":$PEM,"private_key":$REF}`,
	},
	{
		name: "null as data beside data_base64",
		body: `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1","data":null,"data_base64":"` + base64Of(`{"certificate":$PEM}`) + `"}`,
		want: `{"id":"e1","source":"/ca","certificate":$PEM}`,
	},
	{
		name: "null as data_base64",
		body: structured(`"data_base64":null,`, `{"certificate":$PEM}`),
		want: `{"id":"e1","source":"/ca","certificate":$PEM}`,
	},
}

// badEvents are refused with exactly these reasons. beyondSchema marks what a
// JSON Schema cannot express, or what is not JSON.
var badEvents = []struct {
	name         string
	header       header
	body         string
	reason       string
	id           string
	holdsKey     bool
	beyondSchema bool
}{
	// Not JSON.
	{name: "empty", body: ``, reason: `$: empty, expected a JSON object`, beyondSchema: true},
	{name: "blank", body: " \n", reason: `$: empty, expected a JSON object`, beyondSchema: true},
	{name: "byte order mark", body: "\ufeff{}", reason: `$: begins with a byte order mark; publish plain UTF-8`, beyondSchema: true},
	{name: "binary", body: "\x00\x01\x02", reason: `$: not UTF-8 text (it has NUL bytes); publish the event as JSON in UTF-8`, beyondSchema: true},
	{name: "latin-1", body: "{\n\"id\":\"M\xfcller\"}", reason: `$: not valid UTF-8 at line 2, column 8; publish the event as JSON in UTF-8`, beyondSchema: true},
	{name: "cut off", body: `{"id":"e1","certificate":"---`, reason: `$: not valid JSON: it ends at line 1, column 30 before the value is complete`, beyondSchema: true, id: "e1"},
	{name: "a comma too many", body: "{\"id\":\"e1\",\n \"targets\":[\"a\",]}", reason: `$: not valid JSON at line 2, column 17`, beyondSchema: true, id: "e1"},
	{name: "single quotes", body: `{'id':'e1'}`, reason: `$: not valid JSON at line 1, column 2`, beyondSchema: true},
	{name: "a comment", body: "// an event\n{}", reason: `$: not valid JSON at line 1, column 1`, beyondSchema: true},
	{name: "a number with a leading zero", body: `{"id":"e1","x":01}`, reason: `$: not valid JSON at line 1, column 17`, beyondSchema: true, id: "e1"},
	{name: "a line break in a string", body: "{\"id\":\"e1\",\"x\":\"a\nb\"}", reason: `$: not valid JSON at line 1, column 18`, beyondSchema: true, id: "e1"},
	{name: "two events", body: `{"id":"e1","certificate":$REF}` + "\n" + `{"id":"e2","certificate":$REF}`, reason: `$: more text after the JSON value at line 2, column 1; publish one event per message`, beyondSchema: true, id: "e1"},
	{name: "half a surrogate pair", body: `{"id":"e1","certificate":$PEM,"labels":{"a":"\udc00"}}`, reason: `$.labels.a: one half of a surrogate pair (\ud800 to \udfff) is not a character`, beyondSchema: true, id: "e1"},
	{name: "the other half", body: `{"id":"e1","certificate":$PEM,"labels":{"\uD83Dx":""}}`, reason: `$.labels: one half of a surrogate pair (\ud800 to \udfff) is not a character`, beyondSchema: true, id: "e1"},
	{name: "two first halves", body: `{"id":"\ud83d\ud83d\ude00"}`, reason: `$.id: one half of a surrogate pair (\ud800 to \udfff) is not a character`, beyondSchema: true},

	// Shape and size.
	{name: "a list", body: `[{"id":"e1","certificate":$PEM}]`, reason: `$: a list, expected an object; publish each event as its own message`},
	{name: "a string", body: `"e1"`, reason: `$: a string, expected an object`},
	{name: "null", body: `null`, reason: `$: null, expected an object`},
	{name: "empty object", body: `{}`, reason: `$.certificate: required; expected the PEM text (leaf, then chain) or a reference to it`},
	{name: "too deep", body: `{"id":"e1","x":` + strings.Repeat("[", 32) + strings.Repeat("]", 32) + `}`, reason: `$: nested deeper than 32 levels`, id: "e1"},
	{name: "far too deep", body: `{"id":"e1","x":` + strings.Repeat("[", 100_000), reason: `$: not valid JSON at line 1, column 10015`, beyondSchema: true, id: "e1"},
	{name: "too many values", body: `{"id":"e1","targets":[` + list(10_000, func(int) string { return "1" }) + `]}`, reason: `$: more than 10000 values; an event is one certificate for at most 1000 targets`, id: "e1"},
	{name: "too large", body: `{"id":"e1","certificate":"` + strings.Repeat("x", 1<<20) + `"}`, reason: `the body has 1048604 bytes, at most 1048576 are allowed; it was not searched for private keys and is not stored`, holdsKey: true},
	{name: "too large with headers", body: `{"id":"e1","certificate":$PEM,"targets":[` + list(1000, func(i int) string { return fmt.Sprintf(`"%03d%s"`, i, strings.Repeat("\U0001f600", 253)) }) + `],"labels":{` + list(14, func(i int) string {
		return fmt.Sprintf(`"%02d%s":"%s"`, i, strings.Repeat("\U0001f600", 126), strings.Repeat("\U0001f600", 256))
	}) + `}}`, reason: `$: 1040897 bytes as a delivery, at most 1032192 are allowed; use fewer targets or labels`, id: "e1", beyondSchema: true},

	// Fields.
	{name: "unknown field", body: `{"id":"e1","certificat":$PEM}`, reason: `$.certificat: unknown field; did you mean "certificate"?`, id: "e1"},
	{name: "unknown field in another spelling", body: `{"id":"e1","certificate":$PEM,"privateKey":{}}`, reason: `$.privateKey: unknown field; did you mean "private_key"?`, id: "e1"},
	{name: "unknown field like none", body: `{"id":"e1","certificate":$PEM,"expires":"soon"}`, reason: `$.expires: unknown field; expected one of id, source, time, certificate, private_key, targets, labels`, id: "e1"},
	{name: "unknown field with an odd name", body: `{"id":"e1","certificate":$PEM,"a\n\"<b>\u202e` + strings.Repeat("x", 50) + `":1}`, reason: `$["a??<b>?xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx..."]: unknown field; expected one of id, source, time, certificate, private_key, targets, labels`, id: "e1"},
	{name: "duplicate field", body: `{"id":"e1","certificate":$PEM,"certificate":$PEM}`, reason: `$.certificate: given twice; keep one of them`, id: "e1", beyondSchema: true},
	{name: "duplicate field in another spelling", body: `{"id":"e1","certificate":$PEM,"c\u0065rtificate":$PEM}`, reason: `$.certificate: given twice; keep one of them`, id: "e1", beyondSchema: true},
	{name: "duplicate label", body: `{"id":"e1","certificate":$PEM,"labels":{"a":"1","a":"1"}}`, reason: `$.labels.a: given twice; keep one of them`, id: "e1", beyondSchema: true},
	{name: "duplicate field far down", body: `{"id":"e1","x":[[{"a":[{"b":1,"b":2}]}]]}`, reason: `$.x[0][0].a[0].b: given twice; keep one of them`, id: "e1"},
	{name: "duplicate id", body: `{"id":"e1","certificate":$PEM,"id":"e2"}`, reason: `$.id: given twice; keep one of them`, beyondSchema: true},

	{name: "no id", body: `{"certificate":$PEM}`, reason: `$.id: required; give the event an id that no other certificate has`},
	{name: "empty id", body: `{"id":"","certificate":$PEM}`, reason: `$.id: empty`},
	{name: "number as id", body: `{"id":7,"certificate":$PEM}`, reason: `$.id: a number, expected a string`},
	{name: "null as id", body: `{"id":null,"certificate":$PEM}`, reason: `$.id: null, expected a string`},
	{name: "long id", body: `{"id":"` + strings.Repeat("ö", 257) + `","certificate":$PEM}`, reason: `$.id: 257 characters long, at most 256 are allowed`},
	{name: "control character in the id", body: `{"id":"e\u0085","certificate":$PEM}`, reason: `$.id: has a control character`},
	{name: "line break in the id", body: `{"id":"e\r\n1","certificate":$PEM}`, reason: `$.id: has a control character`},
	{name: "blank before the id", body: `{"id":" e1","certificate":$PEM}`, reason: `$.id: begins or ends with a space`},

	{name: "empty source", body: `{"id":"e1","source":"","certificate":$PEM}`, reason: `$.source: empty`, id: "e1"},
	{name: "source with a blank", body: `{"id":"e1","source":"web 1","certificate":$PEM}`, reason: `$.source: not a URI-reference (RFC 3986), such as certbot://web1/www.example.com; percent-encode the characters that a URI does not allow`, id: "e1"},
	{name: "source with bad percent-encoding", body: `{"id":"e1","source":"web%1","certificate":$PEM}`, reason: `$.source: not a URI-reference (RFC 3986), such as certbot://web1/www.example.com; percent-encode the characters that a URI does not allow`, id: "e1"},
	{name: "source with two fragments", body: `{"id":"e1","source":"a#b#c","certificate":$PEM}`, reason: `$.source: not a URI-reference (RFC 3986), such as certbot://web1/www.example.com; percent-encode the characters that a URI does not allow`, id: "e1"},
	{name: "source with a colon in its first segment", body: `{"id":"e1","source":"1a:b","certificate":$PEM}`, reason: `$.source: not a URI-reference (RFC 3986), such as certbot://web1/www.example.com; percent-encode the characters that a URI does not allow`, id: "e1"},

	{name: "time without a zone", body: `{"id":"e1","time":"2026-01-31T12:00:00","certificate":$PEM}`, reason: `$.time: not a time of RFC 3339, such as 2026-01-31T12:00:00Z`, id: "e1"},
	{name: "time as a number", body: `{"id":"e1","time":1769860800,"certificate":$PEM}`, reason: `$.time: a number, expected a string`, id: "e1"},
	{name: "time on no day", body: `{"id":"e1","time":"2026-02-30T12:00:00Z","certificate":$PEM}`, reason: `$.time: not a time of RFC 3339, such as 2026-01-31T12:00:00Z`, id: "e1"},
	{name: "leap second within a month", body: `{"id":"e1","time":"2026-06-15T23:59:60Z","certificate":$PEM}`, reason: `$.time: not a time of RFC 3339, such as 2026-01-31T12:00:00Z`, id: "e1", beyondSchema: true},
	{name: "leap second within a day", body: `{"id":"e1","time":"2026-06-30T22:59:60Z","certificate":$PEM}`, reason: `$.time: not a time of RFC 3339, such as 2026-01-31T12:00:00Z`, id: "e1"},
	{name: "time long ago", body: `{"id":"e1","time":"0001-01-01T00:00:00Z","certificate":$PEM}`, reason: `$.time: not between the years 1970 and 9999`, id: "e1"},
	{name: "time after the last year", body: `{"id":"e1","time":"9999-12-31T23:59:59-01:00","certificate":$PEM}`, reason: `$.time: not between the years 1970 and 9999`, id: "e1", beyondSchema: true},

	{name: "no certificate", body: `{"id":"e1"}`, reason: `$.certificate: required; expected the PEM text (leaf, then chain) or a reference to it`, id: "e1"},
	{name: "empty certificate", body: `{"id":"e1","certificate":" \n"}`, reason: `$.certificate: empty`, id: "e1"},
	{name: "list of certificates", body: `{"id":"e1","certificate":[$PEM]}`, reason: `$.certificate: a list, expected the PEM text (a string) or a reference to it (an object)`, id: "e1"},
	{name: "binary certificate", body: `{"id":"e1","certificate":"0\u0082\u0001"}`, reason: `$.certificate: has a control character other than tab and line break; expected PEM text`, id: "e1"},
	{name: "large certificate", body: `{"id":"e1","certificate":"` + strings.Repeat("x\\n", 132_000) + `"}`, reason: `$.certificate: 264000 bytes long, at most 262144 are allowed`, id: "e1"},
	{name: "empty reference to the certificate", body: `{"id":"e1","certificate":{}}`, reason: `$.certificate: 0 kinds of reference, expected exactly one of vault, transit and file`, id: "e1"},
	{name: "certificate by URL", body: `{"id":"e1","certificate":{"url":"https://ca.example/c"}}`, reason: `$.certificate.url: unknown field; expected one of vault, transit, file`, id: "e1"},

	{name: "two references", body: `{"id":"e1","certificate":$PEM,"private_key":{"file":"/k","vault":{"mount":"m","path":"p","key":"k"}}}`, reason: `$.private_key: 2 kinds of reference, expected exactly one of vault, transit and file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "reference to the environment", body: `{"id":"e1","certificate":$PEM,"private_key":{"env":"KEY"}}`, reason: `$.private_key.env: only the configuration may name secrets this way; expected exactly one of vault, transit and file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "misspelt reference", body: `{"id":"e1","certificate":$PEM,"private_key":{"valut":{"mount":"m"}}}`, reason: `$.private_key.valut: unknown field; did you mean "vault"?; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "vault without mount", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"path":"p","key":"k"}}}`, reason: `$.private_key.vault.mount: required; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "vault as text", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":"secret/certs/x#k"}}`, reason: `$.private_key.vault: a string, expected an object; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "vault with an unknown field", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"mount":"m","path":"p","field":"k"}}}`, reason: `$.private_key.vault.field: unknown field; expected one of mount, path, key, version; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "version 0", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"mount":"m","path":"p","key":"k","version":0}}}`, reason: `$.private_key.vault.version: expected a whole number from 1, as digits; leave it out for the newest version; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "version as text", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"mount":"m","path":"p","key":"k","version":"3"}}}`, reason: `$.private_key.vault.version: expected a whole number from 1, as digits; leave it out for the newest version; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "version beyond 32 bits", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"mount":"m","path":"p","key":"k","version":4294967297}}}`, reason: `$.private_key.vault.version: expected a whole number from 1, as digits; leave it out for the newest version; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "version and a half", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"mount":"m","path":"p","key":"k","version":1.5}}}`, reason: `$.private_key.vault.version: expected a whole number from 1, as digits; leave it out for the newest version; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "NUL in a path", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"mount":"m","path":"a\u0000b","key":"k"}}}`, reason: `$.private_key.vault.path: has a control character; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "ciphertext that is none", body: `{"id":"e1","certificate":$PEM,"private_key":{"transit":{"mount":"m","key":"k","ciphertext":"hello"}}}`, reason: `$.private_key.transit.ciphertext: not a ciphertext of Vault's transit engine, which begins with vault:v1:; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "relative file", body: `{"id":"e1","certificate":$PEM,"private_key":{"file":"privkey.pem"}}`, reason: `$.private_key.file: not an absolute path; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "null as private key's only reference", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":null}}`, reason: `$.private_key: 0 kinds of reference, expected exactly one of vault, transit and file`, id: "e1"},
	{name: "null as certificate", body: `{"id":"e1","certificate":null}`, reason: `$.certificate: null, expected the PEM text (a string) or a reference to it (an object)`, id: "e1"},
	{name: "null as an unknown field", body: `{"id":"e1","certificate":$PEM,"key":null}`, reason: `$.key: unknown field; expected one of id, source, time, certificate, private_key, targets, labels`, id: "e1"},

	{name: "targets as text", body: `{"id":"e1","certificate":$PEM,"targets":"t1"}`, reason: `$.targets: a string, expected a list of target ids`, id: "e1"},
	{name: "no targets", body: `{"id":"e1","certificate":$PEM,"targets":[]}`, reason: `$.targets: an empty list; leave it out to reach every target whose match applies`, id: "e1"},
	{name: "a number among targets", body: `{"id":"e1","certificate":$PEM,"targets":["t1",2]}`, reason: `$.targets[1]: a number, expected a string`, id: "e1"},
	{name: "one target twice", body: `{"id":"e1","certificate":$PEM,"targets":["t1","t2","t1"]}`, reason: `$.targets[2]: the same target as $.targets[0]`, id: "e1"},
	{name: "an empty target", body: `{"id":"e1","certificate":$PEM,"targets":[""]}`, reason: `$.targets[0]: empty`, id: "e1"},
	{name: "too many targets", body: `{"id":"e1","certificate":$PEM,"targets":[` + list(1001, func(i int) string { return fmt.Sprintf(`"t%d"`, i) }) + `]}`, reason: `$.targets: 1001 targets, at most 1000 are allowed`, id: "e1"},
	{name: "a long target", body: `{"id":"e1","certificate":$PEM,"targets":["` + strings.Repeat("t", 257) + `"]}`, reason: `$.targets[0]: 257 characters long, at most 256 are allowed`, id: "e1"},

	{name: "labels as a list", body: `{"id":"e1","certificate":$PEM,"labels":["prod"]}`, reason: `$.labels: a list, expected an object of strings`, id: "e1"},
	{name: "a number as label", body: `{"id":"e1","certificate":$PEM,"labels":{"tier":1}}`, reason: `$.labels.tier: a number, expected a string`, id: "e1"},
	{name: "an object as label", body: `{"id":"e1","certificate":$PEM,"labels":{"a b":{}}}`, reason: `$.labels["a b"]: an object, expected a string`, id: "e1"},
	{name: "a label without name", body: `{"id":"e1","certificate":$PEM,"labels":{"":"x"}}`, reason: `$.labels: a label's name: empty`, id: "e1"},
	{name: "a label with a long name", body: `{"id":"e1","certificate":$PEM,"labels":{"` + strings.Repeat("n", 129) + `":"x"}}`, reason: `$.labels: a label's name: 129 characters long, at most 128 are allowed`, id: "e1"},
	{name: "a long label", body: `{"id":"e1","certificate":$PEM,"labels":{"a":"` + strings.Repeat("v", 257) + `"}}`, reason: `$.labels.a: 257 characters long, at most 256 are allowed`, id: "e1"},
	{name: "a label with a line break", body: `{"id":"e1","certificate":$PEM,"labels":{"a":"1\n2"}}`, reason: `$.labels.a: has a control character`, id: "e1"},
	{name: "too many labels", body: `{"id":"e1","certificate":$PEM,"labels":{` + list(65, func(i int) string { return fmt.Sprintf(`"l%d":""`, i) }) + `}}`, reason: `$.labels: 65 labels, at most 64 are allowed`, id: "e1"},

	// Envelopes.
	{name: "an envelope without specversion", body: `{"id":"e1","type":"certificate.issued","source":"/ca","data":{"certificate":$PEM}}`, reason: `$.specversion: required; a CloudEvents envelope around data needs "specversion": "1.0"`, id: "e1"},
	{name: "another specversion", body: `{"specversion":"0.3","type":"certificate.issued","source":"/ca","id":"e1","data":{"certificate":$PEM}}`, reason: `$.specversion: expected "1.0"`, id: "e1"},
	{name: "specversion as a number", body: `{"specversion":1.0,"type":"certificate.issued","source":"/ca","id":"e1","data":{"certificate":$PEM}}`, reason: `$.specversion: expected "1.0"`, id: "e1"},
	{name: "another type", body: `{"specversion":"1.0","type":"certificate.revoked","source":"/ca","id":"e1","data":{"certificate":$PEM}}`, reason: `$.type: expected certificate.issued, or a name that ends in .certificate.issued or .certificate.issued.v1`, id: "e1"},
	{name: "a type of another version", body: `{"specversion":"1.0","type":"certificate.issued.v2","source":"/ca","id":"e1","data":{"certificate":$PEM}}`, reason: `$.type: expected certificate.issued, or a name that ends in .certificate.issued or .certificate.issued.v1`, id: "e1"},
	{name: "a type that ends like it", body: `{"specversion":"1.0","type":"nocertificate.issued","source":"/ca","id":"e1","data":{"certificate":$PEM}}`, reason: `$.type: expected certificate.issued, or a name that ends in .certificate.issued or .certificate.issued.v1`, id: "e1"},
	{name: "no type", body: `{"specversion":"1.0","source":"/ca","id":"e1","data":{"certificate":$PEM}}`, reason: `$.type: required by CloudEvents 1.0`, id: "e1"},
	{name: "a misspelt source", body: `{"specversion":"1.0","type":"certificate.issued","sorce":"/ca","id":"e1","data":{"certificate":$PEM}}`, reason: `$.source: required; is "sorce" misspelt?`, id: "e1"},
	{name: "an unset id", body: `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":null,"data":{"certificate":$PEM}}`, reason: `$.id: required by CloudEvents 1.0`},
	{name: "an attribute in capitals", body: structured(`"Subject":"x",`, `{"certificate":$PEM}`), reason: `$.Subject: unknown attribute; did you mean "subject"?`, id: "e1"},
	{name: "a field of the event in the envelope", body: structured(`"private_key":$REF,`, `{"certificate":$PEM}`), reason: `$.private_key: unknown attribute; extensions are named with a-z and 0-9, and the event's own fields belong in data`, id: "e1"},
	{name: "an object as extension", body: structured(`"targets":["t1"],`, `{"certificate":$PEM}`), reason: `$.targets: a list, expected a string, a number, true or false; the event's own fields belong in data`, id: "e1"},
	{name: "a control character in an extension", body: structured(`"traceparent":"a\u0007",`, `{"certificate":$PEM}`), reason: `$.traceparent: has a control character`, id: "e1"},
	{name: "data in XML", body: structured(`"datacontenttype":"application/xml",`, `"<x/>"`), reason: `$.datacontenttype: expected application/json`, id: "e1"},
	{name: "data as text", body: structured("", `"{}"`), reason: `$.data: a string, expected an object`, id: "e1"},
	{name: "no data", body: `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1","certificate":$PEM}`, reason: `$.certificate: has a control character`, id: "e1"},
	{name: "no data at all", body: `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1"}`, reason: `$.data: required; it holds certificate, private_key, targets and labels`, id: "e1"},
	{name: "null as data", body: structured("", `null`), reason: `$.data: null, expected an object`, id: "e1"},
	{name: "data twice", body: structured(`"data_base64":"e30=",`, `{"certificate":$PEM}`), reason: `$.data: given together with data_base64; keep one of them`, id: "e1"},
	{name: "data_base64 without padding", body: `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1","data_base64":"e30"}`, reason: `$.data_base64: expected a JSON object as base64 (RFC 4648 section 4, with padding)`, id: "e1"},
	{name: "data_base64 as object", body: `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1","data_base64":{}}`, reason: `$.data_base64: expected a JSON object as base64 (RFC 4648 section 4, with padding)`, id: "e1"},
	{name: "data_base64 of something else", body: `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1","data_base64":"` + base64Of(`hello`) + `"}`, reason: `$.data_base64: not valid JSON at line 1, column 1`, id: "e1"},
	{name: "data_base64 with an unknown field", body: `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1","data_base64":"` + base64Of(`{"cert":$PEM}`) + `"}`, reason: `$.data_base64.cert: unknown field; expected one of id, source, time, certificate, private_key, targets, labels`, id: "e1"},
	{name: "another id in the data", body: structured("", `{"id":"e2","certificate":$PEM}`), reason: `$.data.id: differs from the envelope's; remove it from the data, or make both the same`, id: "e1", beyondSchema: true},
	{name: "another source in the data", body: structured("", `{"source":"/other","certificate":$PEM}`), reason: `$.data.source: differs from the envelope's; remove it from the data, or make both the same`, id: "e1", beyondSchema: true},
	{name: "another time in the data", body: structured(`"time":"2026-01-31T12:00:00Z",`, `{"time":"2026-01-31T12:00:01Z","certificate":$PEM}`), reason: `$.data.time: differs from the envelope's; remove it from the data, or make both the same`, id: "e1", beyondSchema: true},

	// Headers.
	{name: "structured in name only", header: header{"Content-Type": {"application/cloudevents+json"}}, body: `{"id":"e1","certificate":"x"}`, reason: `$.specversion: required by CloudEvents 1.0`, id: "e1"},
	{name: "structured list", header: header{"Content-Type": {"application/cloudevents+json"}}, body: `[]`, reason: `$: a list, expected a CloudEvent (an object)`},
	{name: "batch", header: header{"Content-Type": {"application/cloudevents-batch+json"}}, body: `[]`, reason: `header Content-Type: a batch of CloudEvents; publish each event as its own message`},
	{name: "another format", header: header{"Content-Type": {"application/cloudevents+protobuf"}}, body: `{"id":"e1"}`, reason: `header Content-Type: unsupported CloudEvents format; expected application/cloudevents+json`, id: "e1"},
	{name: "binary without id", header: binaryHeader("ce-id", ""), body: `{"certificate":$PEM}`, reason: `header ce-id: required by CloudEvents 1.0`},
	{name: "binary, misspelt type", header: binaryHeader("ce-type", "", "ce-typ", "certificate.issued"), body: `{"certificate":$PEM}`, reason: `header ce-type: required; is "typ" misspelt?`, id: "e1"},
	{name: "binary, only an extension", header: header{"ce-foo": {"x"}}, body: `{"id":"e1","certificate":$PEM}`, reason: `header ce-specversion: required by CloudEvents 1.0`, id: "e1"},
	{name: "binary, id given twice", header: header{"ce-specversion": {"1.0"}, "ce-type": {"certificate.issued"}, "ce-source": {"/ca"}, "ce-id": {"e1", "e2"}}, body: `{"certificate":$PEM}`, reason: `header ce-id: given twice; keep one of them`},
	{name: "binary, id in two cases", header: binaryHeader("Ce-Id", "e1"), body: `{"certificate":$PEM}`, reason: `header ce-id: given twice; keep one of them`, id: "e1"},
	{name: "binary, not UTF-8", header: binaryHeader("ce-id", "a\xc0\xa0"), body: `{"certificate":$PEM}`, reason: `header ce-id: not UTF-8`},
	{name: "binary, control character", header: binaryHeader("ce-id", "a\x01b"), body: `{"certificate":$PEM}`, reason: `header ce-id: has a control character`},
	{name: "ce- headers with the structured content type", header: binaryHeader("Content-Type", "application/cloudevents+json; charset=utf-8"), body: `{"certificate":$PEM}`, reason: `header Content-Type: application/cloudevents+json means structured mode, where the body is the whole CloudEvent, but the attributes are in ce- headers; send the data with Content-Type: application/json, or the CloudEvent without ce- headers`, id: "e1"},
	{name: "binary, another id in the data", header: binaryHeader(), body: `{"id":"e2","certificate":$PEM}`, reason: `$.id: differs from the envelope's; remove it from the data, or make both the same`},
	{name: "binary with an envelope", header: binaryHeader(), body: structured("", `{"certificate":$PEM}`), reason: `$.specversion: the ce- headers mean binary mode, where the body is only the data; remove the headers or the envelope`, id: "e1"},
	{name: "binary data in Avro", header: binaryHeader("ce-datacontenttype", "application/avro"), body: `{"certificate":$PEM}`, reason: `header ce-datacontenttype: expected application/json`, id: "e1"},
	{name: "binary, unknown field", header: binaryHeader(), body: `{"certificate":$PEM,"target":["t1"]}`, reason: `$.target: unknown field; did you mean "targets"?`, id: "e1"},

	// What may be a key, although it does not look like one.
	{name: "text as private key", body: `{"id":"e1","certificate":$PEM,"private_key":"vault:secret/certs/x#k"}`, reason: `the event carries a private key, or what looks like one, at $.private_key: ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "a blank as private key", body: `{"id":"e1","certificate":$PEM,"private_key":" "}`, reason: `$.private_key: a string, expected a reference: an object with exactly one of vault, transit and file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "an unknown kind without text", body: `{"id":"e1","certificate":$PEM,"private_key":{"hsm":{"slot":[3]}}}`, reason: `$.private_key.hsm: unknown field; expected one of vault, transit, file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "numbers as private key", body: `{"id":"e1","certificate":$PEM,"private_key":[1,2,3]}`, reason: `$.private_key: a list, expected a reference: an object with exactly one of vault, transit and file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "a number as private key", body: `{"id":"e1","certificate":$PEM,"private_key":1234567890}`, reason: `$.private_key: a number, expected a reference: an object with exactly one of vault, transit and file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "a Buffer as private key", body: `{"id":"e1","certificate":$PEM,"private_key":{"type":"Buffer","data":[9,8,7]}}`, reason: `$.private_key.type: unknown field; expected one of vault, transit, file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "a key behind another mistake", body: `{"id":"e1","certificate":$PEM,"bogus":1,"private_key":{"raw":[7]}}`, reason: `$.private_key.raw: unknown field; expected one of vault, transit, file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "a key before JSON ends", body: `{"id":"e1","certificate":$PEM,"private_key":[7`, reason: `$: not valid JSON: it ends at line 1, column 1387 before the value is complete; what private_key has before that is no reference; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true, beyondSchema: true},
	{name: "numbers under another name", body: `{"id":"e1","certificate":$PEM,"labels":{"Private-Key":[7]}}`, reason: `the event carries a private key, or what looks like one, at $.labels.Private-Key: ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "an empty private key", body: `{"id":"e1","certificate":$PEM,"private_key":""}`, reason: `$.private_key: a string, expected a reference: an object with exactly one of vault, transit and file`, id: "e1"},
	{name: "no kind of private key", body: `{"id":"e1","certificate":$PEM,"private_key":{}}`, reason: `$.private_key: 0 kinds of reference, expected exactly one of vault, transit and file`, id: "e1"},
	{name: "a key as an attribute", header: binaryHeader("ce-privatekey", "hush"), body: `{"certificate":$PEM}`, reason: `the event carries a private key, or what looks like one, in the headers: ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "a private key in data_base64", body: `{"specversion":"1.0","type":"certificate.issued","source":"/ca","id":"e1","data_base64":"` + base64Of(`{"certificate":$PEM,"bogus":1,"private_key":{"raw":[7]}}`) + `"}`, reason: `the event carries a private key, or what looks like one, at $.data_base64: ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "value as private key", body: `{"id":"e1","certificate":$PEM,"private_key":{"value":"hush"}}`, reason: `$.private_key.value: only the configuration may name secrets this way; expected exactly one of vault, transit and file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "pem as private key", body: `{"id":"e1","certificate":$PEM,"private_key":{"pem":["hush"]}}`, reason: `$.private_key.pem: unknown field; expected one of vault, transit, file; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "other names for vault as private key", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault_mount":"secret","vault_path":"x","key_data":"y"}}`,
		reason: `$.private_key.vault_mount: unknown field; want mount of {"vault": {"mount": "secret", "path": "certs/web1", "key": "private_key"}}; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
	{name: "other names for the fields of vault", body: `{"id":"e1","certificate":$PEM,"private_key":{"vault":{"mount":"secret","vault_path":"x","key":"y"}}}`,
		reason: `$.private_key.vault.vault_path: unknown field; want path of {"vault": {"mount": "secret", "path": "certs/web1", "key": "private_key"}}; if it holds the key itself, ` + keyAdvice, id: "e1", holdsKey: true},
}

// compact removes white space from a table's JSON, so that tables may be spaced.
func compact(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	var v json.RawMessage = body(s)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}
