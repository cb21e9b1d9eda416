package desk

import (
	"slices"
	"testing"
	"time"
	"unique"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// definitions is a Deliverer whose targets have recipients and Message-IDs.
type definitions struct{ fakeDeliverer }

func (definitions) Recipients(target string) []string     { return []string{"all@" + target + ".example"} }
func (definitions) MessageID(target, event string) string { return "<" + event + "." + target + ">" }

// Lists and the contents of a selection have the recipients, and the Message-IDs of mails that may
// have been sent, also where the letter does not say them.
func TestContentsOfASelection(t *testing.T) {
	t.Parallel()
	d, now := New(nil, definitions{}, zerolog.Nop()), time.Now()
	for i, l := range []broker.DeadLetter{
		{Outcome: verdict.Outcome{Code: verdict.DeliveryUncertain, Phase: verdict.PhaseContent, Certainty: verdict.MaybeSent}, Target: "a", Recipients: []string{"x@a.example"}, MessageID: "<stored>"},
		{Outcome: verdict.Outcome{Code: verdict.DeliveryUncertain, Phase: verdict.PhaseContent, Certainty: verdict.MaybeSent}, Target: "a"},
		{Outcome: verdict.Outcome{Code: verdict.TargetUnknown, Phase: verdict.PhaseResolve}, Target: "typo", Recipients: []string{"x@a.example"}},
	} {
		l.Sequence, l.Event, l.ReplaySubject, l.Time = uint64(i+1), "e"+string(rune('1'+i)), "certpost.delivery.r."+l.Target, now
		d.add(l, &leaf{cn: "host" + string(rune('1'+i)) + ".example", issuer: unique.Make("CN=CA"), notAfter: now.Add(time.Duration(9-i) * time.Hour).Unix()})
	}
	list := d.Letters(Query{Order: Oldest}, Page{}).Letters
	if list[0].MessageID != "<stored>" || list[1].MessageID != "<e2.a>" || list[2].MessageID != "" || !slices.Equal(list[1].Recipients, []string{"all@a.example"}) {
		t.Errorf("the list has %+v", list)
	}
	got := d.Contents(t.Context(), d.Freeze(Query{}, nil, false))
	if want := []Counted{{"a", 2}, {"typo", 1}}; !slices.Equal(got.Targets.First, want) || got.Targets.Values != 2 {
		t.Errorf("targets %+v, want %+v", got.Targets, want)
	}
	if want := []Counted{{"x@a.example", 2}, {"all@a.example", 1}}; !slices.Equal(got.Recipients.First, want) {
		t.Errorf("recipients %+v, want %+v", got.Recipients, want)
	}
	if len(got.Causes.First) != 2 || got.Causes.First[1].Value != "No target was found for the event: typo" || got.Names.Values != 3 || got.SoonestName != "host3.example" {
		t.Errorf("%+v", got)
	}
	if len(got.MaybeSent) != 2 || got.MaybeSent[0].MessageID != "<stored>" || got.MaybeSent[1].Recipients[0] != "all@a.example" {
		t.Errorf("to look for: %+v", got.MaybeSent)
	}
}

// The mails of a replay go to the recipients that the target has now: who confirms it after an address
// was corrected reads the new one, and who discards reads for whom the mail was.
func TestContentsAfterAnAddressWasCorrected(t *testing.T) {
	t.Parallel()
	d, now := New(nil, definitions{}, zerolog.Nop()), time.Now()
	for i, l := range []broker.DeadLetter{
		{Outcome: verdict.Outcome{Certainty: verdict.NotSent}, Recipients: []string{"wrong@a.example"}},
		{Outcome: verdict.Outcome{Certainty: verdict.NotSent}, Recipients: []string{"all@a.example"}},
		{Outcome: verdict.Outcome{Certainty: verdict.Accepted}, Recipients: []string{"all@a.example", "partly@a.example"}},
		{Outcome: verdict.Outcome{Certainty: verdict.MaybeSent}, Recipients: []string{"maybe@a.example"}},
	} {
		l.Code, l.Phase, l.Target = verdict.SMTPPermanent, verdict.PhaseRcpt, "a"
		l.Sequence, l.Event, l.ReplaySubject, l.Time = uint64(i+1), "e"+string(rune('1'+i)), "certpost.delivery.r.a", now
		d.add(l, nil)
	}
	for purpose, want := range map[Purpose][]Counted{
		ForReplay:  {{"all@a.example", 3}, {"maybe@a.example", 1}, {"partly@a.example", 1}},
		ForDiscard: {{"all@a.example", 2}, {"maybe@a.example", 1}, {"partly@a.example", 1}, {"wrong@a.example", 1}},
	} {
		if got := d.Contents(t.Context(), d.FreezeFor(purpose, Query{}, nil, false)).Recipients.First; !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", purpose, got, want)
		}
	}
}

// corrected is a Deliverer whose target has another recipient than when the mail was sent.
type corrected struct{ fakeDeliverer }

func (corrected) Recipients(string) []string {
	return []string{"has@example.com", "corrected@example.com"}
}

// Who has the mail already does not get it from a replay, and is not named.
func TestContentsAfterAnAddressOfSeveralWasCorrected(t *testing.T) {
	t.Parallel()
	x := start(t)
	ledger, err := x.b.OpenLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Put(t.Context(), broker.LedgerKey("ops", "e1"), broker.Entry{Event: "e1", Target: "ops", State: broker.StateDead, Accepted: []string{"has@example.com"}, Owed: []string{"wrong@example.com"}}, 0); err != nil {
		t.Fatal(err)
	}
	d := New(x.b, corrected{}, zerolog.Nop())
	d.add(broker.DeadLetter{Outcome: verdict.Outcome{Code: verdict.SMTPPermanent, Phase: verdict.PhaseRcpt, Certainty: verdict.Accepted}, Target: "ops", Sequence: 1, Event: "e1",
		Recipients: []string{"wrong@example.com"}, ReplaySubject: "certpost.delivery.r.ops", Time: time.Now()}, nil)
	if got := d.Contents(t.Context(), d.FreezeFor(ForReplay, Query{}, nil, false)).Recipients.First; !slices.Equal(got, []Counted{{"corrected@example.com", 1}}) {
		t.Errorf("%+v", got)
	}
}
