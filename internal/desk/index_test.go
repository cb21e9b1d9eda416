package desk

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unique"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/verdict"
)

// dry returns a desk without streams.
func dry() *Desk { return New(nil, nil, zerolog.Nop()) }

// someLetter returns a typical letter: one of a few causes and of some hundred targets.
func someLetter(n uint64, r *rand.Rand) broker.DeadLetter {
	code := []verdict.Code{verdict.SMTPAuth, verdict.SMTPPermanent, verdict.SMTPTLS, verdict.DeliveryUncertain}[r.IntN(4)]
	certainty := verdict.NotSent
	if code == verdict.DeliveryUncertain {
		certainty = verdict.MaybeSent
	}
	target, lane := fmt.Sprintf("target-%d", r.IntN(300)), fmt.Sprintf("relay-%d", r.IntN(5))
	event := fmt.Sprintf("01JD%022d", n)
	d := broker.DeadLetter{
		Outcome: verdict.Outcome{
			Code:         code,
			Phase:        verdict.PhaseRcpt,
			Reason:       "the relay refused the recipient",
			ReplyCode:    550,
			EnhancedCode: "5.1.1",
			Reply:        "no such user",
			Certainty:    certainty,
		},
		Sequence: n, Time: time.Unix(1_700_000_000, 0).Add(time.Duration(n) * time.Second), Event: event, Token: events.Token(event), Target: target, Lane: lane, Generation: 1, Class: code.Class(), Attempts: 1, First: time.Unix(1_700_000_000, 0), Last: time.Unix(1_700_000_100, 0), Recipients: []string{"ops@" + target + ".example.com"}, Secrets: "vault:secret/smtp#password=3", ReplaySubject: "certpost.delivery." + lane + "." + target,
	}
	d.Subject = "certpost.dead." + string(code) + "." + lane + "." + target + "." + d.Token
	return d
}

// add puts a letter into the index as if it had been read from the stream, with a
// certificate parsed before.
func (d *Desk) add(letter broker.DeadLetter, c *leaf) {
	l := newLetter(&letter)
	if c != nil {
		l.leaf, l.hasLeaf, l.notAfter = intern(*c), true, c.notAfter
	}
	f := newFollower(d)
	d.mu.Lock()
	defer d.mu.Unlock()
	f.put(&letter, l)
}

func someLeaf(n uint64, r *rand.Rand) *leaf {
	name := fmt.Sprintf("host-%d.example.com", n)
	c := &leaf{cn: name, names: name + " www." + name, issuer: unique.Make("CN=R11,O=Let's Encrypt,C=US"), serial: fmt.Sprintf("03%034x", n),
		notBefore: 1_700_000_000 + r.Int64N(1000), notAfter: 1_707_776_000 + r.Int64N(10_000_000)}
	c.fingerprint[0], c.fingerprint[1], c.fingerprint[2], c.fingerprint[3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
	return c
}

func filled(n int) *Desk {
	d, r := dry(), rand.New(rand.NewPCG(1, 2))
	for i := 1; i <= n; i++ {
		d.add(someLetter(uint64(i), r), someLeaf(uint64(i), r))
	}
	return d
}

// After any sequence of additions, removals and changes, the lists are those that sorting
// and counting all letters would give.
func TestListsAgreeWithPlainCounting(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	d := dry()
	plain := map[uint64]bool{}
	last := uint64(0)
	for range 6000 {
		switch r.IntN(6) {
		case 0, 1, 2:
			last++
			c := someLeaf(last, r)
			if r.IntN(5) == 0 {
				c = nil
			}
			d.add(someLetter(last, r), c)
			plain[last] = true
		case 3, 4:
			if n := 1 + r.Uint64N(max(last, 1)); plain[n] {
				delete(plain, n)
				d.letters.gone(n)
				d.letters.outcomes.setOutcome(n, outcomeDiscarded)
			}
		case 5:
			if l := d.letters.find(1 + r.Uint64N(max(last, 1))); l != nil {
				d.letters.alter(l, func() {
					l.hold, l.superseded = nil, nil
					if r.IntN(2) == 0 {
						l.hold = &broker.Hold{}
					}
					if r.IntN(2) == 0 {
						l.superseded = &Superseded{}
					}
				})
			}
		}
	}
	var all []Letter
	for n := uint64(1); n <= last; n++ {
		if l := d.letters.find(n); (l != nil) != plain[n] {
			t.Fatalf("letter %d is in the index: %v", n, l != nil)
		} else if l != nil {
			all = append(all, l.letter())
		}
	}
	yes, no := true, false
	for _, q := range []Query{
		{}, {Order: Oldest}, {Order: Expiry}, {Code: verdict.SMTPAuth}, {Lane: "relay-2", Order: Expiry}, {Target: "target-7"},
		{Certainty: verdict.MaybeSent}, {Held: &yes}, {Held: &no, Superseded: &yes}, {AsOf: last / 2}, {Above: last / 3},
		{Above: last / 3, AsOf: last / 2, Order: Oldest}, {Above: last / 2, Lane: "relay-2", Order: Oldest}, {Above: last / 3, Order: Expiry}, {AsOf: last / 2, Class: verdict.Auth, Order: Oldest},
		{Name: "WWW.host-5.example.com"}, {Text: "Target-11"}, {Text: "no SUCH user"}, {From: all[50].Time, To: all[90].Time},
		{Fingerprint: all[10].Fingerprint}, {Fingerprint: all[10].Fingerprint, Order: Expiry}, {Fingerprint: "none"}, {Event: all[70].Event},
	} {
		want := slices.DeleteFunc(slices.Clone(all), func(l Letter) bool { return !plainlyFits(q, l) })
		slices.SortFunc(want, func(a, b Letter) int { return plainOrder(q.Order, a, b) })
		var got []uint64
		for p := (Page{Size: 37}); ; {
			list := d.Letters(q, p)
			if list.Total != len(want) {
				t.Errorf("%v: total %d, want %d", q.Values(), list.Total, len(want))
			}
			for _, l := range list.Letters {
				got = append(got, l.Sequence)
			}
			if p.After = list.Next; p.After == 0 {
				break
			}
		}
		var numbers []uint64
		for _, l := range want {
			numbers = append(numbers, l.Sequence)
		}
		if !slices.Equal(got, numbers) {
			t.Errorf("%v: %d letters, want %d: %.20v, want %.20v", q.Values(), len(got), len(numbers), got, numbers)
		}
		checkGroups(t, d, q, want)
	}
	if b := d.Balance(); b.Open != len(all) || b.Total != last || b.Ended[Discarded] != int(last)-len(all) {
		t.Errorf("balance %+v, want %d open of %d", b, len(all), last)
	}
}

func plainlyFits(q Query, l Letter) bool {
	text := strings.ToLower(fmt.Sprint(l.Event, " ", l.Target, " ", l.Code, " ", l.Lane, " ", l.Reason, " ", l.Reply, " ", l.Recipients, l.Certificate))
	named := false
	if l.Certificate != nil {
		named = slices.Contains(l.Certificate.DNSNames, strings.ToLower(q.Name))
	}
	return (q.Fingerprint == "" || q.Fingerprint == l.Fingerprint) && (q.Code == "" || q.Code == l.Code) && (q.Class == "" || q.Class == l.Class) &&
		(q.Lane == "" || q.Lane == l.Lane) && (q.Target == "" || q.Target == l.Target) && (q.Event == "" || q.Event == l.Event) &&
		(q.Certainty == "" || q.Certainty == l.Certainty) && (q.Name == "" || named) && strings.Contains(text, strings.ToLower(q.Text)) &&
		(q.Held == nil || *q.Held == (l.Hold != nil)) && (q.Superseded == nil || *q.Superseded == (l.Superseded != nil)) &&
		(q.AsOf == 0 || l.Sequence <= q.AsOf) && l.Sequence > q.Above && (q.From.IsZero() || !l.Time.Before(q.From)) && (q.To.IsZero() || l.Time.Before(q.To))
}

func plainOrder(o Order, a, b Letter) int {
	switch o {
	case Oldest:
		return int(a.Sequence) - int(b.Sequence)
	case Expiry:
		switch {
		case a.Certificate == nil && b.Certificate != nil:
			return 1
		case a.Certificate != nil && b.Certificate == nil:
			return -1
		case a.Certificate != nil:
			if c := a.Certificate.NotAfter.Compare(b.Certificate.NotAfter); c != 0 {
				return c
			}
		}
		return int(a.Sequence) - int(b.Sequence)
	}
	return int(b.Sequence) - int(a.Sequence)
}

func checkGroups(t *testing.T, d *Desk, q Query, want []Letter) {
	t.Helper()
	got := map[string]Group{}
	for _, g := range d.Groups(q) {
		got[g.Fingerprint] = g
	}
	sums := map[string]Group{}
	for _, l := range want {
		g := sums[l.Fingerprint]
		g.Count++
		if l.Hold != nil {
			g.Held++
		}
		if l.Superseded != nil {
			g.Superseded++
		} else if c := l.Certificate; c != nil && (g.SoonestExpiry.IsZero() || c.NotAfter.Before(g.SoonestExpiry)) {
			g.SoonestExpiry = c.NotAfter
		}
		if l.Certainty == verdict.MaybeSent {
			g.Uncertain++
		}
		if g.First.IsZero() || l.Time.Before(g.First) {
			g.First = l.Time
		}
		if l.Time.After(g.Last) {
			g.Last, g.Example = l.Time, l.Sequence
		}
		sums[l.Fingerprint] = g
	}
	if len(got) != len(sums) {
		t.Errorf("%v: %d groups, want %d", q.Values(), len(got), len(sums))
	}
	for f, want := range sums {
		g := got[f]
		if g.Count != want.Count || g.Held != want.Held || g.Superseded != want.Superseded || g.Uncertain != want.Uncertain ||
			!g.First.Equal(want.First) || !g.Last.Equal(want.Last) || g.Example != want.Example || !g.SoonestExpiry.Equal(want.SoonestExpiry) {
			t.Errorf("%v: group %+v, want %+v", q.Values(), g, want)
		}
	}
}

func BenchmarkFirstPage(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		d := filled(n)
		for name, q := range map[string]Query{"newest": {}, "expiry": {Order: Expiry}, "code": {Code: verdict.SMTPAuth}, "group": {Fingerprint: d.Groups(Query{})[0].Fingerprint}, "text": {Text: "nowhere to be found"}} {
			b.Run(fmt.Sprintf("%s/letters=%d", name, n), func(b *testing.B) {
				for b.Loop() {
					d.Letters(q, Page{})
				}
			})
		}
	}
}

func BenchmarkGroups(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		d := filled(n)
		b.Run(fmt.Sprintf("letters=%d", n), func(b *testing.B) {
			for b.Loop() {
				d.Groups(Query{})
			}
		})
	}
}

func BenchmarkMemoryOfLetters(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		before := heap()
		d := filled(n)
		b.ReportMetric(float64(heap()-before)/n, "B/letter")
		runtime.KeepAlive(d)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
