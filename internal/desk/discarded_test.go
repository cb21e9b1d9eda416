package desk

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
)

// Many letters are discarded, listed, and put back: by filter, and as the undo of one act. The
// audit shows each act as one line, and what happened to each letter besides.
//
// Fault: many letters are discarded by mistake. Result: they have a list; and are restored by filter or as the undo of that act; each with its history.
func TestDiscardedLettersHaveAList(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, stop := x.desk(nil)
	other, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 25)
	f := d.FreezeFor(ForDiscard, Query{Target: "ops"}, nil, true)
	f.Act = NewAct()
	if n, err := d.Discard(ctx, me, f, "test run"); n != 25 || err != nil {
		t.Fatalf("discard: %d, %v", n, err)
	}
	gone := Query{State: Discarded}
	for _, desk := range []*Desk{d, other} {
		x.until("all are in the list", func() bool { return desk.Letters(gone, Page{}).Total == 25 })
	}
	list := d.Letters(Query{State: Discarded, Target: "ops", Order: Oldest}, Page{Size: 10})
	if list.Total != 25 || len(list.Letters) != 10 || list.Next != 10 || list.Letters[0].Sequence != 1 || list.Letters[0].Certificate == nil {
		t.Errorf("%+v", list)
	}
	if by := list.Letters[0].Discard; by == nil || by.By != "anna" || by.Reason != "test run" || by.Act != f.Act || by.At.IsZero() {
		t.Errorf("discarded by %+v", by)
	}
	if g := d.Groups(gone); len(g) != 1 || g[0].Count != 25 || len(d.Groups(Query{})) != 0 {
		t.Errorf("groups %+v", g)
	}
	if n := d.Letters(Query{State: Discarded, Target: "java"}, Page{}).Total; n != 0 {
		t.Errorf("%d of another target", n)
	}
	for _, purpose := range []Purpose{ForReplay, ForDiscard, ForHold, ForRelease} {
		if frozen := d.FreezeFor(purpose, gone, nil, true); frozen.Count != 0 {
			t.Errorf("%s selects %d discarded letters", purpose, frozen.Count)
		}
	}

	// One line for the act, and a record of each letter besides.
	fold := false
	page, _ := d.History(HistoryQuery{Each: &fold, Action: broker.ActionDiscarded}, 0, 50)
	if len(page) != 1 || page[0].Many == nil || page[0].Many.Letters != 25 || len(page[0].Many.Numbers) != broker.MaxMany || page[0].Many.Filter["target"] != "ops" || page[0].Act != f.Act || page[0].Reason != "test run" {
		t.Fatalf("the act is shown as %d lines: %+v", len(page), page)
	}
	if each, _ := d.History(HistoryQuery{Action: broker.ActionDiscarded}, 0, 500); len(each) != 51 { // intents, outcomes, and the whole
		t.Errorf("%d records in all", len(each))
	}
	if each, _ := d.History(HistoryQuery{Act: f.Act, Ended: Discarded, Each: &fold}, 0, 500); len(each) != 25 {
		t.Errorf("%d letters of the act", len(each))
	}
	one, err := d.Letter(ctx, 7)
	if err != nil || one.Status != Discarded || !slices.ContainsFunc(one.History, func(r Record) bool {
		return r.Action == broker.ActionDiscarded && r.LetterNumber == 7 && r.Name == "anna" && r.Act == f.Act
	}) {
		t.Errorf("letter 7: %v, %+v", err, one.History)
	}
	if only, _ := d.History(HistoryQuery{Each: &fold, Letter: 7}, 0, 50); len(only) != 2 {
		t.Errorf("%d records about letter 7", len(only))
	}

	// By filter: as shown, and those restored since are skipped.
	few := d.FreezeFor(ForRestore, Query{Above: 20}, nil, false)
	if few.Count != 5 || few.Query.State != Discarded {
		t.Fatalf("%+v", few)
	}
	if _, err := other.Restore(ctx, me, 21, ""); err != nil {
		t.Fatal(err)
	}
	x.until("it has left the list", func() bool { return d.Letters(gone, Page{}).Total == 24 })
	if n, err := d.RestoreAll(ctx, me, few, "needed"); n != 4 || err != nil {
		t.Fatalf("restored %d, %v", n, err)
	}
	open := d.Letters(Query{}, Page{})
	if open.Total != 5 || open.Letters[0].RestoredFrom == 0 {
		t.Fatalf("%+v", open)
	}
	back, err := d.Letter(ctx, open.Letters[0].Sequence)
	if err != nil || back.Status != Open || !slices.ContainsFunc(back.History, func(r Record) bool { return r.Action == broker.ActionDiscarded && r.Reason == "test run" }) {
		t.Errorf("the restored letter has lost its history: %v, %+v", err, back.History)
	}

	// Undo, at another process that has read the audit anew.
	stop()
	third, _ := x.desk(nil)
	x.until("the list is read again", func() bool { return third.Letters(gone, Page{}).Total == 20 })
	if n, err := third.UndoDiscard(ctx, me, f.Act); n != 20 || err != nil {
		t.Fatalf("undo: %d, %v", n, err)
	}
	if _, err := third.UndoDiscard(ctx, me, f.Act); !errors.Is(err, ErrNotFound) {
		t.Errorf("undone twice: %v", err)
	}
	x.until("the account holds", func() bool {
		b := other.Balance()
		return b.Open == 25 && b.Ended[Discarded] == 25 && b.Restored == 25 && b.Total == 50 && other.Letters(gone, Page{}).Total == 0
	})
	if v, err := x.b.VerifyAudit(ctx); err != nil || v.Break != nil {
		t.Errorf("audit verify: %+v, %v", v, err)
	}
}

// A letter whose delivery has a newer one on the list stays discarded, and the others are restored.
func TestRestoreByFilterSkipsReplacedLetters(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 3)
	if n, err := d.Discard(ctx, me, d.FreezeFor(ForDiscard, Query{}, nil, true), "test"); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := d.Restore(ctx, me, 1, ""); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Discard(ctx, me, d.FreezeFor(ForDiscard, Query{}, []uint64{4}, true), "again"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := d.Restore(ctx, me, 4, ""); err != nil { // number 5 is on the list now
		t.Fatal(err)
	}
	f := d.FreezeFor(ForRestore, Query{}, nil, false)
	if n, err := d.RestoreAll(ctx, me, f, ""); n != 2 || err != nil {
		t.Errorf("restored %d, %v", n, err)
	}
	if n := d.Balance().Open; n != 3 {
		t.Errorf("%d open", n)
	}
}

// An act that is done in parts is one line with the sum; another actor cannot join it, and an act
// without the record of the whole is shown letter by letter.
func TestActsFoldByActorAndAction(t *testing.T) {
	t.Parallel()
	h := newHistory(100)
	noon := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	put := func(r broker.AuditRecord) {
		r.Sequence, r.Time = h.next, noon
		h.put(&r)
	}
	act := func(by, act string, action broker.Action, letters ...uint64) {
		for _, n := range letters {
			put(broker.AuditRecord{Action: action, Stage: broker.StageOutcome, Actor: broker.Actor{Name: by, Act: act}, LetterNumber: n})
		}
	}
	whole := func(by, act string, action broker.Action, letters int) {
		put(broker.AuditRecord{Action: action, Stage: broker.StageOutcome, Actor: broker.Actor{Name: by, Act: act}, Many: &broker.Many{Letters: letters}})
	}
	act("ann", "a", broker.ActionDiscarded, 1, 2)
	whole("ann", "a", broker.ActionDiscarded, 2)
	act("ann", "a", broker.ActionDiscarded, 3)
	whole("ann", "a", broker.ActionDiscarded, 1)
	act("eve", "a", broker.ActionDiscarded, 4) // with the id of ann's act
	act("bob", "b", broker.ActionHeld, 5, 6)   // killed before the whole was recorded
	fold := false
	var lines []string
	page, _ := h.list(HistoryQuery{Each: &fold}, 0, 50)
	for _, r := range page {
		n := -int(r.LetterNumber)
		if r.Many != nil {
			n = r.Many.Letters
		}
		lines = append(lines, r.Name+string(rune('0'+max(n, -n))))
	}
	if !slices.Equal(lines, []string{"bob6", "bob5", "eve4", "ann3"}) {
		t.Errorf("%v", lines)
	}
	if all, _ := h.list(HistoryQuery{}, 0, 50); len(all) != 8 {
		t.Errorf("%d records without folding", len(all))
	}
	h.forget(len(h.records))
	if len(h.acts) != 0 {
		t.Errorf("acts are kept after their records: %v", h.acts)
	}
}
