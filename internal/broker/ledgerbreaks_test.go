package broker

import (
	"fmt"
	"testing"
)

// However many entries are broken, all are counted, the first are listed with their words,
// and the words of the others are not kept.
func TestLedgerBreaks(t *testing.T) {
	t.Parallel()
	const n = 100_000
	l := newLedgerBreaks()
	for i := range uint64(n) {
		l.add(i, fmt.Sprint("key", i), breakAt{i + 1, BreakForged}, func() string { return fmt.Sprint("what", i) })
	}
	l.add(n, "", breakAt{n + 1, BreakDeleted}, func() string { t.Error("these words are not kept"); return "" })
	l.remove(0)
	if accepted := l.accept([]AcceptedBreak{{Acceptance: Acceptance{Revision: 2, Kind: BreakForged}}, {Acceptance: Acceptance{Revision: 3, Kind: BreakDeleted}}}); accepted != 1 {
		t.Errorf("%d breaks were accepted, want only that of revision 2", accepted)
	}
	first := l.first()
	if len(l.all) != n-1 || len(l.words) != mostWords-2 || len(first) != mostBreaks || first[0] != (EntryBreak{"key2", 3, BreakForged, "what2"}) {
		t.Errorf("%d breaks, %d with words, listed are %d from %+v on", len(l.all), len(l.words), len(first), first[0])
	}
	for i := range uint64(n - 1) {
		l.remove(i)
	}
	first = l.first()
	if len(first) != 2 || first[0].Revision != n || first[0].What == "" || first[1].What != wordsOfDeleted {
		t.Errorf("listed are %+v", first)
	}
}
