package desk

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// storedSpecs are the specs of replay runs as earlier versions stored them in the bucket,
// and what they mean.
var storedSpecs = map[string]struct {
	text string
	want RunSpec
}{
	"all fields by their names in Go": {
		`{"Frozen": {"query": {"Fingerprint": "0123456789ab", "Code": "SMTP_AUTH", "Class": "auth", "Phase": "auth", "Lane": "relay", "Target": "ops", "Event": "e1", "Certainty": "may-have-been-sent",
			"Name": "www.example.com", "Text": "user", "Held": true, "Superseded": false, "From": "2026-01-02T03:04:05.678Z", "To": "2026-02-01T00:00:00Z", "Above": 7, "AsOf": 77, "Order": "expiry"},
			"as_of": 77, "count": 2, "hash": "00ff", "held": 1, "superseded": 2, "withheld": 3, "in_runs": 4, "may_have_been_sent": 1, "numbers": [8, 9], "purpose": "replay", "named": true, "with_superseded": true},
			"Rate": "10/s", "Canary": true, "Uncertain": true, "Force": true, "Reason": "mended"}`,
		RunSpec{
			Frozen: Frozen{Query: Query{Fingerprint: "0123456789ab", Code: verdict.SMTPAuth, Class: verdict.Auth, Phase: verdict.PhaseAuth, Lane: "relay", Target: "ops", Event: "e1", Certainty: verdict.MaybeSent,
				Name: "www.example.com", Text: "user", Held: new(true), Superseded: new(false), From: time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC), To: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), Above: 7, AsOf: 77, Order: Expiry},
				AsOf: 77, Count: 2, Hash: "00ff", Held: 1, Superseded: 2, Withheld: 3, InRuns: 4, Uncertain: 1, Numbers: []uint64{8, 9}, Purpose: ForReplay, Named: true, WithSuperseded: true},
			Rate: verdict.Rate{Count: 10, Per: time.Second}, Canary: true, Uncertain: true, Force: true, Reason: "mended",
		},
	},
	"a run of all letters": {
		`{"Frozen": {"query": {"Fingerprint": "", "Code": "", "Class": "", "Phase": "", "Lane": "", "Target": "", "Event": "", "Certainty": "", "Name": "", "Text": "", "Held": null, "Superseded": null,
			"From": "0001-01-01T00:00:00Z", "To": "0001-01-01T00:00:00Z", "Above": 0, "AsOf": 5, "Order": ""}, "as_of": 5, "count": 5, "hash": "ff", "numbers": [1]}, "Rate": "", "Canary": false, "Uncertain": false, "Force": false, "Reason": "x"}`,
		RunSpec{Frozen: Frozen{Query: Query{AsOf: 5}, AsOf: 5, Count: 5, Hash: "ff", Numbers: []uint64{1}}, Reason: "x"},
	},
	"a code that no version knows any more": {
		`{"Frozen": {"query": {"Code": "SMTP_GONE", "AsOf": 5}, "as_of": 5, "count": 0, "hash": "ff", "numbers": []}, "Reason": "x"}`,
		RunSpec{Frozen: Frozen{Query: Query{Code: "SMTP_GONE", AsOf: 5}, AsOf: 5, Hash: "ff", Numbers: []uint64{}}, Reason: "x"},
	},
}

// A run that an earlier version has stored chooses the same letters, also after this
// version has written it: the worker of a run does so every second.
func TestStoredRuns(t *testing.T) {
	t.Parallel()
	for name, stored := range storedSpecs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := []byte(stored.text)
			for _, version := range []string{"an earlier version", "this version"} {
				var got RunSpec
				if err := json.Unmarshal(text, &got); err != nil {
					t.Fatalf("%s: %v\n%s", version, err, text)
				}
				if !reflect.DeepEqual(got, stored.want) {
					t.Errorf("of %s\n%s\nis read\n%+v\nwant\n%+v", version, text, got, stored.want)
				}
				var err error
				if text, err = json.Marshal(got); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
