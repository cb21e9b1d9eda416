package alert

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/webhook"
)

// The manual has every kind, and a body of the form that is sent.
func TestManual(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range Kinds() {
		if !strings.Contains(string(page), "| `"+string(kind)+"` |") {
			t.Errorf("the manual lacks %s", kind)
		}
	}
	_, text, _ := strings.Cut(string(page), "```json\n")
	text, _, _ = strings.Cut(text, "```")
	var shown struct {
		Type, Status, Summary string
		Message
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&shown); err != nil {
		t.Fatalf("the body in the manual: %v", err)
	}
	sent, err := shown.body(webhook.Certpost, "")
	if err != nil {
		t.Fatal(err)
	}
	var got, want bytes.Buffer
	if json.Indent(&got, []byte(text), "", " ") != nil || json.Indent(&want, sent, "", " ") != nil {
		t.Fatal("not JSON")
	}
	if strings.TrimSpace(got.String()) != want.String() || !reflect.DeepEqual(shown.Message.Summary(), shown.Summary) {
		t.Errorf("the manual has\n%s\nwhat is sent is\n%s", got.String(), want.String())
	}
}
