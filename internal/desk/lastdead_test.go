package desk

import "testing"

// After a restart a target's last dead letter is known although no letter is open.
func TestLastDeadLetterAfterARestart(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, stop := x.desk(nil)
	x.letters(d, "ops", 1, 1)
	if err := d.ActOn(t.Context(), me, 1, ForDiscard, "not needed"); err != nil {
		t.Fatal(err)
	}
	before := d.Targets()[0].LastDead
	stop()
	again, _ := x.desk(nil)
	x.until("the ledger is read", func() bool { return !again.Targets()[0].LastDead.IsZero() })
	if after := again.Targets()[0].LastDead; before.IsZero() || after.Sub(before).Abs().Minutes() > 1 {
		t.Errorf("the last dead letter was at %s, and after the restart at %s", before, after)
	}
}
