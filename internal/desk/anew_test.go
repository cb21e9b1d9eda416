package desk

import (
	"fmt"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/verdict"
)

// A run is about the letters that were shown. Letters of a recreated stream have the same
// numbers, and are not touched.
//
// Fault: the stream of letters is created again. Result: not part of earlier runs.
func TestRunLeavesLettersOfANewStreamAlone(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(nil)
	ctx := t.Context()
	x.letters(d, "ops", 0, 10)
	x.courier.succeed("ops")
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Rate: verdict.Rate{Count: 4, Per: time.Second}})
	if err := d.PauseRun(ctx, me, r.ID, "lunch"); err != nil {
		t.Fatal(err)
	}
	if err := x.b.EnsureTopology(ctx); err != nil { // sees that the stream is there
		t.Fatal(err)
	}
	if err := x.js.DeleteStream(ctx, broker.DeadLettersStream); err != nil {
		t.Fatal(err)
	}
	if err := x.b.EnsureTopology(ctx); err != nil { // waits until the server has deleted the files
		t.Fatal(err)
	}
	x.until("no letter is open", func() bool { return d.Balance().Open == 0 })
	if info, err := x.js.Stream(ctx, broker.DeadLettersStream); err != nil || info.CachedInfo().Config.FirstSeq <= 10 {
		t.Errorf("the new stream begins at %d, %v: want numbers that no letter had", info.CachedInfo().Config.FirstSeq, err)
	}
	x.courier.fail("ops", refusal())
	for i := range 10 {
		x.publish(event(fmt.Sprintf("n%d", i), "ops"))
	}
	x.until("the new letters", func() bool { return d.Balance().Open == 10 })
	x.courier.succeed("ops")
	if err := d.ResumeRun(ctx, me, r.ID, ""); err != nil {
		t.Fatal(err)
	}
	if r = x.reaches(d, r.ID, RunDone); r.Published+r.Gone != 10 || r.Gone < 5 {
		t.Errorf("%+v", r)
	}
	for i := range 10 {
		if n := x.courier.mails("ops", fmt.Sprintf("n%d", i)); n != 0 {
			t.Errorf("%d mails of n%d, which no operator chose", n, i)
		}
	}
	if b := d.Balance(); b.Open != 10 || b.Unexplained != 0 {
		t.Errorf("%+v", b)
	}
	for number := uint64(1); number <= 10; number++ {
		if detail, err := d.Letter(ctx, number); err == nil && detail.Status == Open {
			t.Errorf("letter %d is open again", number)
		}
	}
	if h, _ := d.History(HistoryQuery{Action: broker.ActionRemoved}, 0, 1); len(h) != 0 {
		t.Errorf("letters lost with their stream are recorded as removed by somebody: %+v", h[0])
	}
}
