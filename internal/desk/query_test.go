package desk

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

func TestQueriesAreAddresses(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	full := Query{
		Fingerprint: "0123456789ab", Code: verdict.SMTPAuth, Class: verdict.Auth, Phase: verdict.PhaseAuth, Lane: "relay", Target: "ops", Event: "e&1=?",
		Certainty: verdict.MaybeSent, Name: "*.example.com", Text: "no such <user>", Held: &yes, Superseded: &no,
		From: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), To: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), Above: 7, AsOf: 77, Order: Expiry,
		Since: 36 * time.Hour, ExpiresBefore: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), State: Discarded, Act: "a1",
	}
	set := reflect.ValueOf(full)
	for i := range set.NumField() {
		if set.Field(i).IsZero() {
			t.Errorf("the test forgets %s", set.Type().Field(i).Name)
		}
	}
	for _, q := range []Query{full, {}, {Text: "x"}, {Held: &no}} {
		v, err := url.ParseQuery(q.Values().Encode())
		if err != nil {
			t.Fatal(err)
		}
		v.Set("view", "list") // the page's own
		if got, err := LetterConditions.Parse(v, "view"); err != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("%+v, %v; want %+v", got, err, q)
		}
	}
	chips := full.Chips()
	if len(chips) != 20 {
		t.Errorf("%d chips: %+v", len(chips), chips)
	}
	for _, c := range chips {
		v, err := url.ParseQuery(c.Without)
		if err != nil {
			t.Fatal(err)
		}
		if rest, err := LetterConditions.Parse(v); err != nil || len(rest.Chips()) != 19 || rest.Order != Expiry {
			t.Errorf("without %q: %+v, %v", c.Label, rest, err)
		}
	}
	labels := ""
	for _, c := range chips {
		labels += c.Label + "; "
	}
	for _, want := range []string{"code SMTP_AUTH", "held;", "not superseded;", "may-have-been-sent", "from 2026-01-02T03:04:05Z"} {
		if !strings.Contains(labels, want) {
			t.Errorf("%q is missing in %s", want, labels)
		}
	}
}

func TestQueriesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	v := url.Values{"held": {"perhaps"}, "from": {"yesterday"}, "as_of": {"-1"}, "order": {"random"}, "certainty": {"sure"}, "q": {strings.Repeat("x", 401)}, "code": {"SMTP_AUTH"}}
	q, err := LetterConditions.Parse(v)
	if err == nil || q.Code != verdict.SMTPAuth || !reflect.DeepEqual(q, Query{Code: verdict.SMTPAuth, AsOf: 0}) {
		t.Fatalf("%+v, %v", q, err)
	}
	for _, key := range []string{"held", "from", "as_of", "order", "certainty", "q"} {
		if !strings.Contains(err.Error(), key+": ") {
			t.Errorf("nothing about %s in %v", key, err)
		}
	}
	for text, want := range map[string]time.Time{"2026-01-31": time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), "2026-01-31T15:04": time.Date(2026, 1, 31, 15, 4, 0, 0, time.UTC),
		"2026-01-31T15:04:05+01:00": time.Date(2026, 1, 31, 14, 4, 5, 0, time.UTC)} {
		if q, err := LetterConditions.Parse(url.Values{"to": {text}}); err != nil || !q.To.Equal(want) {
			t.Errorf("%s: %v, %v", text, q.To, err)
		}
	}
}

// Since takes a time as well as a duration, in every list that has a first time.
func TestSinceATime(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 1, 31, 15, 4, 5, 0, time.UTC)
	now := want
	letters, err := LetterConditions.ParseFilter(map[string]string{"since": "2026-01-31T15:04:05Z"})
	if err != nil || !letters.From.Equal(want) || letters.Since != 0 {
		t.Errorf("%+v, %v", letters, err)
	}
	if records, err := HistoryConditions.ParseFilter(map[string]string{"since": "2026-01-31"}); err != nil || !records.From.Equal(want.Truncate(24*time.Hour)) {
		t.Errorf("%+v, %v", records, err)
	}
	if runs, err := RunConditions.ParseFilter(map[string]string{"since": "7d"}); err != nil || runs.Since != 7*24*time.Hour {
		t.Errorf("%+v, %v", runs, err)
	}
	if _, err := DeliveryConditions.ParseFilter(map[string]string{"since": "2026-01-31", "from": "2026-01-30"}); err == nil || !strings.Contains(err.Error(), "from: is given twice") {
		t.Errorf("%v", err)
	}
	for text, want := range map[string]time.Time{"2026-01-31T15:04:05Z": want, "1h30m": want.Add(-90 * time.Minute), "2d": want.AddDate(0, 0, -2)} {
		if got, err := ParseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "3", "-1h", "0s", "today"} {
		if got, err := ParseSince(text, want); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
