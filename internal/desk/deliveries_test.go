package desk

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unique"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// someEntry returns the n-th delivery. Each certificate is renewed ten times, for the
// same target.
func someEntry(n uint64, state broker.State) broker.LedgerChange {
	name := fmt.Sprintf("host-%d.dept-%d.example.com", n/10, n/10%50)
	target, event := fmt.Sprintf("target-%d", n/10%300), fmt.Sprintf("01JD%022d", n)
	at := time.Unix(1_700_000_000, 0).Add(time.Duration(n) * time.Second)
	return broker.LedgerChange{Key: target + "." + events.Token(event), Revision: n, Entry: broker.Entry{
		Event: event, Target: target, State: state, Last: at,
		Certificate: &verdict.Certificate{CommonName: name, DNSNames: []string{name, "www." + name}, Serial: fmt.Sprintf("03%034x", n),
			Fingerprint: fmt.Sprintf("%064x", n), NotBefore: at, NotAfter: at.Add(90 * 24 * time.Hour)},
	}}
}

// The index finds what a scan of all entries would find, whatever was rewritten, removed
// or compacted before.
func TestSearchAgreesWithLookingAtAll(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	x := newDeliveries(newHasher(), 1<<20)
	states := []broker.State{broker.StateWaiting, broker.StateSending, broker.StateSent, broker.StateDead, broker.StateDiscarded, broker.StateSkipped}
	plain := map[string]broker.LedgerChange{}
	for revision := uint64(1); revision < 20_000; revision++ {
		c := someEntry(r.Uint64N(3000), states[r.IntN(len(states))])
		c.Revision = revision
		if c.Deleted = r.IntN(20) == 0; c.Deleted {
			delete(plain, c.Key)
		} else {
			plain[c.Key] = c
		}
		x.put(&c)
	}
	if len(x.slots) > 2*x.live+4097 {
		t.Errorf("%d slots for %d entries", len(x.slots), x.live)
	}
	one := plain[slices.Sorted(mapsKeys(plain))[100]].Entry
	for _, q := range []DeliveryQuery{
		{}, {State: broker.StateSent}, {Target: "target-7"}, {Target: "target-7", State: broker.StateDead}, {Event: one.Event},
		{Name: strings.ToUpper(one.Certificate.DNSNames[1])}, {Name: "*.dept-3.example.com"}, {Name: "*.example.com", State: broker.StateSent},
		{Name: "dept-3.example.com"}, {Name: "*.nowhere.org"}, {Serial: strings.ToUpper(one.Certificate.Serial[:2] + ":" + one.Certificate.Serial[2:])},
		{Fingerprint: one.Certificate.Fingerprint}, {From: one.Last.Add(-time.Minute), To: one.Last.Add(time.Minute)},
	} {
		var found []broker.LedgerChange
		for _, c := range plain {
			if plainlyDelivered(q, c.Entry) {
				found = append(found, c)
			}
		}
		slices.SortFunc(found, func(a, b broker.LedgerChange) int {
			return cmp.Or(b.Entry.Last.Compare(a.Entry.Last), cmp.Compare(b.Revision, a.Revision))
		})
		var want []uint64
		for _, c := range found {
			want = append(want, c.Revision)
		}
		var got []uint64
		for after := uint64(0); ; {
			page, total, next := x.search(q, byLast, after, 37)
			got = append(got, page...)
			if total != len(want) {
				t.Errorf("%+v: total %d, want %d", q, total, len(want))
			}
			if after = next; after == 0 {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %d found, want %d", q, len(got), len(want))
		}
	}
}

func mapsKeys(m map[string]broker.LedgerChange) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func plainlyDelivered(q DeliveryQuery, e broker.Entry) bool {
	c := e.Certificate
	name := strings.ToLower(q.Name)
	named := q.Name == "" || slices.Contains(c.DNSNames, name)
	if suffix, ok := strings.CutPrefix(name, "*"); ok {
		named = slices.ContainsFunc(c.DNSNames, func(n string) bool { return strings.HasSuffix(n, suffix) })
	}
	return named && (q.State == "" || q.State == e.State) && (q.Target == "" || q.Target == e.Target) && (q.Event == "" || q.Event == e.Event) &&
		(q.Serial == "" || hexDigits(q.Serial) == c.Serial) && (q.Fingerprint == "" || q.Fingerprint == c.Fingerprint) &&
		(q.From.IsZero() || !e.Last.Before(q.From)) && (q.To.IsZero() || e.Last.Before(q.To))
}

// What was discarded long after its attempt, and what was cancelled without one, stand where their
// last attempt, or their cancellation, belongs; also if the first rows are of another block of slots.
func TestDeliveriesAreOrderedByTheirLastAct(t *testing.T) {
	t.Parallel()
	at := func(n int) time.Time { return time.Unix(1_800_000_000+int64(n), 0) }
	x := newDeliveries(newHasher(), 1<<20)
	add := func(id string, e broker.Entry) {
		e.Target = "ops"
		x.put(&broker.LedgerChange{Key: "ops." + id, Revision: x.next, Entry: e})
	}
	for n := range 3 * peakBlock {
		add(fmt.Sprint("s", n), broker.Entry{State: broker.StateSent, Last: at(n)})
	}
	newest := 3*peakBlock - 1
	add("cancelled", broker.Entry{State: broker.StateDead, Cancel: &broker.Cancel{At: at(newest - 1)}})
	for n := range 100 {
		add(fmt.Sprint("s", n), broker.Entry{State: broker.StateDiscarded, Last: at(n)})
	}
	var got []uint32
	for after := uint64(0); len(got) < 9; {
		page, total, next := x.search(DeliveryQuery{}, byLast, after, 3)
		for _, revision := range page {
			i, _ := x.find(revision)
			got = append(got, x.slots[i].last)
		}
		if after = next; total != 3*peakBlock+1 || next == 0 {
			t.Fatalf("%d in all, next %d", total, next)
		}
	}
	for i, back := range []int{0, 1, 1, 2, 3, 4, 5, 6, 7} {
		if want := uint32(at(newest - back).Unix()); got[i] != want {
			t.Errorf("row %d is of %d, want %d", i, got[i], want)
		}
	}
}

// Beyond its limit the index keeps the newest entries, and counts those that it dropped.
func TestDeliveriesAreBounded(t *testing.T) {
	t.Parallel()
	x := newDeliveries(newHasher(), 1000)
	for n := uint64(1); n <= 5000; n++ {
		c := someEntry(n, broker.StateSent)
		x.put(&c)
	}
	page, total, _ := x.search(DeliveryQuery{}, byLast, 0, 10)
	if total > 1000 || total < 900 || x.dropped+total != 5000 || page[0] != 5000 || len(x.places) != total || len(x.slots) > 3*total+4097 {
		t.Errorf("%d entries, %d dropped, %d slots, %d places", total, x.dropped, len(x.slots), len(x.places))
	}
}

func filledDeliveries(n uint64) *deliveries {
	x := newDeliveries(newHasher(), keptDeliveries)
	x.slots = make([]slot, 0, n+n/16) // as when a ledger is read
	for i := uint64(1); i <= n; i++ {
		c := someEntry(i, broker.StateSent)
		x.put(&c)
	}
	return x
}

func BenchmarkSearchDeliveries(b *testing.B) {
	const n = 1_000_000
	x := filledDeliveries(n)
	for name, q := range map[string]DeliveryQuery{
		"all": {}, "name": {Name: "www.host-777.dept-27.example.com"}, "suffix": {Name: "*.dept-7.example.com"}, "serial": {Serial: fmt.Sprintf("03%034x", 77777)},
		"target": {Target: "target-7"}, "time": {From: time.Unix(1_700_500_000, 0)},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				x.search(q, byLast, 0, 50)
			}
		})
	}
}

func BenchmarkMemoryOfDeliveries(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		before := heap()
		x := filledDeliveries(n)
		b.ReportMetric(float64(heap()-before)/n, "B/entry")
		runtime.KeepAlive(x)
	}
}

// A newer certificate supersedes a letter only if it covers all its names, so that
// leaving the letter out of a replay leaves no name behind. The order of letter and
// delivery does not matter.
//
// Fault: meanwhile a newer certificate for the same name. Result: if the newer one covers
// all of its names.
func TestSupersededByACertificateForAllNames(t *testing.T) {
	t.Parallel()
	rsa := leaf{cn: "mail.example.com", keyType: "rsa", issuer: unique.Make("CN=R11"), notBefore: 1000, notAfter: 9000}
	old := leaf{cn: "Mail.example.com", names: "mail.example.com IMAP.example.com *.mail.example.com", issuer: unique.Make("CN=R11"), notBefore: 1000, notAfter: 9000}
	alone := leaf{cn: "mail.example.com", issuer: unique.Make("CN=R11"), notBefore: 1000, notAfter: 9000}
	for _, c := range []struct {
		names      []string
		notBefore  int64
		old, alone bool
	}{
		{[]string{"mail.example.com"}, 2000, false, true},
		{[]string{"mail.example.com", "imap.example.com", "*.mail.example.com"}, 2000, true, true},
		{[]string{"pop.example.com", "*.Mail.example.com", "IMAP.example.com", "MAIL.example.com"}, 2000, true, true},
		{[]string{"mail.example.com", "imap.example.com", "a.mail.example.com"}, 2000, false, true},
		{[]string{"mail.example.com", "imap.example.com", "*.mail.example.com"}, 1000, false, false}, // renewed at the same moment: the same one
		{[]string{"imap.example.com", "*.mail.example.com"}, 2000, false, false},
	} {
		entry := broker.LedgerChange{Key: "ops.newer", Revision: 1, Entry: broker.Entry{Event: "newer", Target: "ops", State: broker.StateSent, Last: time.Unix(2100, 0),
			Certificate: &verdict.Certificate{CommonName: c.names[0], DNSNames: c.names, Serial: "03", NotBefore: time.Unix(c.notBefore, 0), NotAfter: time.Unix(9900, 0)}}}
		for _, first := range []string{"letters", "delivery"} {
			d := dry()
			letters := func() {
				for n, l := range map[uint64]*leaf{1: &old, 2: &alone, 3: &rsa} {
					letter := someLetter(n, rand.New(rand.NewPCG(1, 2)))
					letter.Target = "ops"
					d.add(letter, l)
				}
			}
			if first == "letters" {
				letters()
			}
			d.applyEntry(&entry)
			if first == "delivery" {
				letters()
			}
			if got := d.letters.find(1).superseded != nil; got != c.old {
				t.Errorf("%v, %s first: superseded %v", c.names, first, got)
			}
			if got := d.letters.find(2).superseded != nil; got != c.alone {
				t.Errorf("%v, %s first: the one for one name superseded %v", c.names, first, got)
			}
			if d.letters.find(3).superseded != nil {
				t.Errorf("%v, %s first: one for another kind of key is superseded", c.names, first)
			}
		}
	}
}
