package service

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/desk"
)

// Requests are read with the keys as documented, each once, and nothing after them.
//
// Fault: a request or a form with a key that is mistyped, in another case or given twice. Result: refused with the nearest known key.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	const cannot = "the request cannot be read: "
	list, resend, show := func() any { return &ListRequest{} }, func() any { return &ResendOrder{} }, func() any { return &DeliveryRequest{} }
	for _, test := range []struct {
		into       func() any
		text, want string
	}{
		{show, `{"traget": "ops", "event": "e"}`, cannot + `unknown key "traget": did you mean target?`},
		{show, `{"nonsense": "ops"}`, cannot + `unknown key "nonsense": want one of target, event`},
		{show, `{"Target": "ops", "event": "e"}`, cannot + `unknown key "Target": did you mean target?`},
		{show, `{"target": "ops", "target": "audit", "event": "e"}`, cannot + `target: is given twice`},
		{show, `{"target": "ops", "\u0074arget": "audit"}`, cannot + `target: is given twice`},
		{show, `{"target": "ops"} {}`, `the request has more than one JSON value, or text after it`},
		{show, `{"target": "ops"} trailing`, `the request has more than one JSON value, or text after it`},
		{show, `{"target": "ops"`, cannot},
		{show, `{"target": 5}`, cannot + `target: want a string, not number`},
		{show, `["target"]`, cannot + `the whole: want an object, not array`},
		{resend, `{"reson": "x"}`, cannot + `unknown key "reson": did you mean reason?`},
		{resend, `{"dryrun": true, "all": true}`, cannot + `unknown key "dryrun": did you mean dry_run?`},
		{resend, `{"BY": "anna"}`, cannot + `unknown key "BY": did you mean by?`},
		{resend, `{"filter": {"target": "a", "target": "b"}}`, cannot + `filter.target: is given twice`},
		{resend, `{"deliveries": [{"target": "a", "event": "e"}, {"target": "a", "evnt": "e"}]}`, cannot + `unknown key "deliveries[1].evnt": did you mean event?`},
		{list, `{"Size": 3}`, cannot + `unknown key "Size": did you mean size?`},
		{list, `{"code": "A", "code": "B"}`, cannot + `code: is given twice`},
		{list, `{"filter": {"code": "A", "code": "B"}}`, cannot + `filter.code: is given twice`},
		{list, `{"filter": {"code": "A"}, "code": "B"}`, cannot + `code: is given twice`},
	} {
		if err := decode([]byte(test.text), test.into()); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", test.text, err, test.want)
		}
	}
	for text, want := range map[string]ListRequest{
		"":                            {},
		" \n":                         {},
		`{"size": 3, "code": "A"} `:   {Size: 3, Filtered: Filtered{map[string]string{"code": "A"}}},
		`{"filter": {"from": "now"}}`: {Filtered: Filtered{map[string]string{"from": "now"}}},
	} {
		var got ListRequest
		if err := decode([]byte(text), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// Every endpoint refuses a key that it does not know, in any case, before it does anything: here it
// has nothing to do it with.
//
// Fault: a request or a form with a key that is mistyped, in another case or given twice. Result: refused with the nearest known key.
func TestEveryRequestIsStrict(t *testing.T) {
	t.Parallel()
	api := New(nil)
	for _, e := range endpoints {
		for text, want := range map[string]string{
			`{"nonsense": 1}`:        `unknown key "nonsense"`,
			`{"By": "x", "By": "y"}`: ``,
			`{} {}`:                  `more than one JSON value`,
		} {
			_, err := api.Answer(t.Context(), e.name, "", []byte(text))
			r, refused := err.(*Refusal)
			if !refused || !r.WrongValue() || !strings.Contains(r.Text, want) {
				t.Errorf("%s %s: %v, want a refusal with %q", e.name, text, err, want)
			}
		}
	}
}

// What the program's own commands send is read.
func TestDecodeReadsItsOwnRequests(t *testing.T) {
	t.Parallel()
	for _, request := range []any{
		&ReplayOrder{Selection: Selection{Caller: Caller{By: "anna"}, Filtered: Filtered{map[string]string{"code": "SMTP_AUTH"}}, Numbers: []uint64{1}, DryRun: true}, Canary: true},
		&ResendOrder{Deliveries: []desk.DeliveryName{{Target: "ops", Event: "e"}}, Reason: "x"},
		&ListRequest{Filtered: Filtered{map[string]string{"name": "a.example"}}, After: 3, Size: 4},
	} {
		text, err := json.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(request).Elem()).Interface()
		if err := decode(text, got); err != nil || !reflect.DeepEqual(got, request) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}
