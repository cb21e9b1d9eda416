package events

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const docs = "../../docs/schemas"

// compile makes a validator of the schema, or of a part of it.
func compile(t *testing.T, part string) *jsonschema.Schema {
	t.Helper()
	doc := must(jsonschema.UnmarshalJSON(bytes.NewReader(Schema())))
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	const at = "mem:///event.schema.json"
	if err := c.AddResource(at, doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile(at + part)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestSchemaAgreesWithDecode validates the tables with the schema as well: the schema
// accepts what Decode accepts and refuses what Decode refuses, except for what a schema
// cannot express.
func TestSchemaAgreesWithDecode(t *testing.T) {
	t.Parallel()
	message, data := compile(t, ""), compile(t, "#/$defs/data")
	isBinary := func(h header) bool {
		attributes, _ := attributesOf(h)
		return len(attributes) > 0
	}
	for _, tt := range goodEvents {
		schema := message
		if isBinary(tt.header) {
			schema = data
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body(tt.body)))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: the schema refuses a good event: %v", tt.name, err)
		}
	}
	refused := 0
	for _, tt := range badEvents {
		if tt.beyondSchema || tt.header != nil {
			continue
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body(tt.body)))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if message.Validate(v) == nil {
			t.Errorf("%s: the schema accepts a bad event", tt.name)
		}
		refused++
	}
	if refused < 60 {
		t.Errorf("only %d bad events were shown to the schema", refused)
	}
}

func TestPublishedSchemaIsTheEmbeddedOne(t *testing.T) {
	t.Parallel()
	published := must(os.ReadFile(filepath.Join(docs, "event.schema.json")))
	if !bytes.Equal(published, Schema()) {
		t.Error("docs/schemas/event.schema.json differs from internal/events/event.schema.json: copy the latter")
	}
	clear(Schema())
	if !bytes.Equal(published, Schema()) {
		t.Error("writing to the result of Schema changes the schema")
	}
}

// TestExamples reads every example with Decode and with the schema.
func TestExamples(t *testing.T) {
	t.Parallel()
	message, data := compile(t, ""), compile(t, "#/$defs/data")
	files := must(filepath.Glob("../../examples/events/*"))
	read := 0
	for _, file := range files {
		if filepath.Ext(file) == ".md" {
			continue
		}
		text := string(must(os.ReadFile(file)))
		schema, header := message, header{}
		if filepath.Ext(file) == ".txt" { // headers, an empty line, the body
			head, rest, _ := strings.Cut(text, "\n\n")
			for line := range strings.Lines(head) {
				name, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
				header[name] = []string{v}
			}
			schema, text = data, rest
		}
		e, err := Decode(header, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if e.Certificate.PEM != "" && e.Certificate.PEM != chainPEM {
			t.Errorf("%s has another certificate than testdata/chain.pem", file)
		}
		if err := schema.Validate(must(jsonschema.UnmarshalJSON(strings.NewReader(text)))); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		read++
	}
	if read < 7 {
		t.Errorf("only %d examples in %v", read, files)
	}
}

// TestAsyncAPI checks what is possible without AsyncAPI's own tools: the references,
// the parameters of channels, and the examples.
func TestAsyncAPI(t *testing.T) {
	t.Parallel()
	var doc map[string]any
	if err := yaml.Unmarshal(must(os.ReadFile(filepath.Join(docs, "asyncapi.yaml"))), &doc); err != nil {
		t.Fatal(err)
	}
	if doc["asyncapi"] != "3.0.0" {
		t.Errorf("asyncapi is %v", doc["asyncapi"])
	}
	var files = map[string]any{"": doc}
	for _, name := range []string{"event.schema.json", "outcome.schema.json"} {
		var schema map[string]any
		if err := json.Unmarshal(must(os.ReadFile(filepath.Join(docs, name))), &schema); err != nil {
			t.Fatal(err)
		}
		files["./"+name] = schema
	}

	references := 0
	var walk func(where string, v any)
	walk = func(where string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				references++
				file, pointer, _ := strings.Cut(ref, "#")
				if _, known := files[file]; !known || resolve(files[file], pointer) == nil {
					t.Errorf("%s: %s does not exist", where, ref)
				}
			}
			for name, member := range v {
				walk(where+"/"+name, member)
			}
		case []any:
			for _, item := range v {
				walk(where, item)
			}
		}
	}
	walk("#", doc)
	if references < 10 {
		t.Errorf("only %d references found", references)
	}

	addresses := map[string]bool{}
	for name, channel := range doc["channels"].(map[string]any) {
		address := channel.(map[string]any)["address"].(string)
		addresses[address] = true
		parameters, _ := channel.(map[string]any)["parameters"].(map[string]any)
		for token := range strings.SplitSeq(address, ".") {
			if parameter, ok := strings.CutPrefix(token, "{"); ok {
				if _, ok := parameters[strings.TrimSuffix(parameter, "}")]; !ok {
					t.Errorf("channel %s does not describe %s", name, token)
				}
			}
		}
		if got := strings.Count(address, "{"); got != len(parameters) {
			t.Errorf("channel %s describes %d parameters, its address has %d", name, len(parameters), got)
		}
	}
	for _, want := range []string{"certificate.issued", "certificate.issued.{source}", "certpost.delivery.{lane}.{target}", "certpost.dead.{code}.{lane}.{target}.{event}",
		"certpost.outcome.{target}", "certpost.outcomes.position"} {
		if !addresses[want] {
			t.Errorf("no channel for %s", want)
		}
	}
}

// resolve follows a JSON pointer; nil if nothing is there.
func resolve(doc any, pointer string) any {
	if pointer == "" {
		return doc
	}
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		object, ok := doc.(map[string]any)
		if !ok {
			return nil
		}
		doc = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]
	}
	return doc
}
