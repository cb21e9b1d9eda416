package outcome

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

func page(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(lab.Root(), "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var compiled = sync.OnceValues(func() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("mem:///outcome.schema.json", doc); err != nil {
		return nil, err
	}
	return c.Compile("mem:///outcome.schema.json")
})

// validate validates one event against the schema.
func validate(t *testing.T, text []byte) error {
	t.Helper()
	s, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return s.Validate(v)
}

// The schema accepts what is on the page, and what PagerDuty gets as custom_details is the data of an event.
func TestManualAgainstSchema(t *testing.T) {
	t.Parallel()
	if !bytes.Equal(page(t, "schemas/outcome.schema.json"), Schema()) {
		t.Error("docs/schemas/outcome.schema.json differs from internal/outcome/outcome.schema.json: copy the latter")
	}
	blocks := regexp.MustCompile("(?s)<!-- begin: (\\w+) -->\n```json\n(.*?)```").FindAllSubmatch(page(t, "outcomes.md"), -1)
	seen := 0
	for _, b := range blocks {
		switch string(b[1]) {
		case "certpost":
			if err := validate(t, b[2]); err != nil {
				t.Error(err)
			}
			seen++
		case "pagerduty":
			var body struct {
				Payload struct {
					Details json.RawMessage `json:"custom_details"`
				}
			}
			if err := json.Unmarshal(b[2], &body); err != nil {
				t.Fatal(err)
			}
			whole := bytes.Replace(encoded(t, example()), encoded(t, example().Data), body.Payload.Details, 1)
			if err := validate(t, whole); err != nil {
				t.Error(err)
			}
			seen++
		}
	}
	if seen != 2 {
		t.Errorf("%d examples on the page were validated", seen)
	}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The schema has exactly the members and the values that the program has.
func TestSchemaIsComplete(t *testing.T) {
	t.Parallel()
	type object struct {
		Properties map[string]struct{ Enum []string }
	}
	var doc struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		of  any
		has object
	}{{Event{}, doc.object}, {Data{}, doc.Defs["data"]}, {Certificate{}, doc.Defs["certificate"]}} {
		kind := reflect.TypeOf(c.of)
		if kind.NumField() != len(c.has.Properties) {
			t.Errorf("%s has %d members, the schema %d", kind, kind.NumField(), len(c.has.Properties))
		}
		for i := range kind.NumField() {
			name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
			if _, ok := c.has.Properties[name]; !ok {
				t.Errorf("the schema lacks %s of %s", name, kind)
			}
		}
	}
	data := doc.Defs["data"].Properties
	for name, want := range map[string][]string{"outcome": texts(Types()), "class": texts(verdict.Classes()), "certainty": texts(verdict.Certainties())} {
		if got := data[name].Enum; !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
			t.Errorf("%s: the schema has %q, want %q", name, got, want)
		}
	}
	for _, kind := range Types() {
		for _, code := range verdict.Codes() {
			for _, phase := range verdict.Phases() {
				e := event(time.Now(), "id", "1.7", Data{Event: "id", Target: "ops", Outcome: kind, Code: code, Class: code.Class(), Phase: phase})
				if err := validate(t, encoded(t, e)); err != nil {
					t.Fatalf("%s, %s, %s: %v", kind, code, phase, err)
				}
			}
		}
	}
}

func texts[S ~string](all []S) (out []string) {
	for _, s := range all {
		out = append(out, string(s))
	}
	return out
}

// The schema refuses what Certpost does not publish.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	good := string(encoded(t, example()))
	for _, c := range []struct{ from, to string }{
		{`"specversion":"1.0"`, `"specversion":"0.3"`},
		{`"source":"certpost"`, `"source":"other"`},
		{`"type":"certpost.outcome.dead"`, `"type":"certificate.issued"`},
		{`"subject":"ops-archive",`, ``},
		{`"subject":"ops-archive"`, `"subject":"ops archive"`},
		{`"time":"2026-03-01T12:00:00Z"`, `"time":"yesterday"`},
		{`"outcome":"dead"`, `"outcome":"lost"`},
		{`"code":"SMTP_PERMANENT",`, ``},
		{`"phase":"rcpt",`, ``},
		{`"class":"io_permanent"`, `"class":"bad"`},
		{`"attempts":1`, `"attempts":0`},
		{`"reply_code":550`, `"reply_code":5500`},
		{`"enhanced_code":"5.1.1"`, `"enhanced_code":"5.1"`},
		{`"certainty":"not-sent"`, `"certainty":"perhaps"`},
		{`"serial":"4f2a"`, `"serial":"4F:2A"`},
		{`"fingerprint":"5a`, `"fingerprint":"5`},
		{`"not_before":"2026-03-01T11:00:00Z",`, ``},
	} {
		bad := strings.Replace(good, c.from, c.to, 1)
		if bad == good {
			t.Errorf("the example lacks %s", c.from)
		} else if validate(t, []byte(bad)) == nil {
			t.Errorf("the schema accepts %s", c.to)
		}
	}
	if err := validate(t, []byte(good)); err != nil {
		t.Error(err)
	}
}

// Messages in the stream have the headers and the body that asyncapi.yaml and the schema describe, and no others.
func TestStreamAgainstAsyncAPI(t *testing.T) {
	t.Parallel()
	var doc struct {
		Channels   map[string]struct{ Address string }
		Components struct {
			Messages map[string]struct {
				ContentType string `yaml:"contentType"`
				Headers     struct {
					Required   []string
					Properties map[string]any
				}
			}
		}
	}
	if err := yaml.Unmarshal(page(t, "schemas/asyncapi.yaml"), &doc); err != nil {
		t.Fatal(err)
	}
	described := map[string]string{} // message by subject
	for _, name := range []string{"outcome", "outcomePosition"} {
		subject := strings.Replace(doc.Channels[name].Address, "{target}", "ops", 1)
		described[subject] = strings.Replace(name, "outcomePosition", "position", 1)
	}
	if described[broker.OutcomeSubject("ops")] != "outcome" {
		t.Fatalf("%v lacks %s", described, broker.OutcomeSubject("ops"))
	}
	x := open(t)
	x.sent("mail", "ops")
	x.letter("bad", "ops")
	x.all(x.publisher("one", x.b))
	stream, err := x.b.JetStream().Stream(t.Context(), broker.OutcomesStream)
	x.must(err)
	seen := map[string]int{}
	optional := 0
	for n := range stream.CachedInfo().State.LastSeq {
		m, err := stream.GetMsg(t.Context(), n+1)
		x.must(err)
		name := described[m.Subject]
		about, ok := doc.Components.Messages[name]
		if !ok {
			t.Fatalf("%s is not described", m.Subject)
		}
		seen[name]++
		for _, h := range about.Headers.Required {
			if m.Header.Get(h) == "" {
				t.Errorf("%s lacks the header %s", m.Subject, h)
			}
		}
		for h := range m.Header {
			if _, known := about.Headers.Properties[h]; !known && !fromServer(h) {
				t.Errorf("%s has the header %s, which is not described", m.Subject, h)
			}
		}
		if m.Header.Get("traceparent") != "" {
			optional++
		}
		if name == "position" {
			if len(m.Data) > 0 {
				t.Errorf("%s has a body: %s", m.Subject, m.Data)
			}
			continue
		}
		if err := validate(t, m.Data); err != nil {
			t.Error(err)
		}
		if e, err := Read(m.Data); err != nil || e.ID != m.Header.Get(jetstream.MsgIDHeader) || about.ContentType != m.Header.Get("content-type") {
			t.Errorf("%v: %v", err, m.Header)
		}
	}
	if seen["outcome"] != 2 || seen["position"] == 0 || optional != 1 {
		t.Errorf("%v messages, %d with traceparent", seen, optional)
	}
}

// fromServer reports whether a header belongs to NATS itself.
func fromServer(name string) bool {
	return strings.HasPrefix(name, "Nats-")
}
