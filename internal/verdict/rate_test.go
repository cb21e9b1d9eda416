package verdict

import (
	"encoding/json"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	t.Parallel()
	read := func(text string) (r Rate, err error) {
		err = r.UnmarshalYAML(func(into any) error { *into.(*string) = text; return nil })
		return r, err
	}
	for text, want := range map[string]Rate{
		"14/s": {14, time.Second}, "100/min": {100, time.Minute}, "1000/h": {1000, time.Hour}, "500/day": {500, 24 * time.Hour}, "500 / day": {500, 24 * time.Hour},
	} {
		r, err := read(text)
		if err != nil || r != want {
			t.Errorf("%q: %v, %v", text, r, err)
		}
		if again, err := read(r.String()); again != r || err != nil {
			t.Errorf("%q is formatted as %q, which is parsed as %v, %v", text, r.String(), again, err)
		}
	}
	for _, text := range []string{"", "14", "/s", "0/s", "-1/s", "1.5/s", "14/sec", "14/week", "14/s/s", "1000001/day", "s/14"} {
		if r, err := read(text); err == nil || !r.IsZero() {
			t.Errorf("%q is parsed as %v, want an error and no limit", text, r)
		}
	}
	for _, r := range []Rate{{}, {14, time.Second}} {
		text, err := json.Marshal(struct{ Rate Rate }{r})
		back := struct{ Rate Rate }{Rate{1, time.Hour}}
		if err != nil || json.Unmarshal(text, &back) != nil || back.Rate != r {
			t.Errorf("%s is parsed as %v", text, back.Rate)
		}
	}
	if (Rate{}).String() != "" || (Rate{5, 90 * time.Second}).String() != "5/1m30s" {
		t.Error("String is wrong for no limit, or for a period without a unit of its own")
	}
}
