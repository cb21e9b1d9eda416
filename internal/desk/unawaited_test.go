package desk

import (
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// A canary whose first letter waits for an unavailable relay does not hold up the letters
// for others, once an operator has resumed it.
func TestResumedCanaryGoesOnWithoutWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	x := start(t)
	d, _ := x.desk(func(d *Desk) { d.pace.patience = time.Second })
	x.letters(d, "away", 100, 1)
	x.letters(d, "ops", 0, 30)
	x.courier.fail("away", &verdict.Failure{Outcome: verdict.Outcome{Code: verdict.SMTPConnect, Phase: verdict.PhaseConnect, Reason: "away"}, Relay: true})
	x.courier.succeed("ops")
	r := x.run(d, RunSpec{Frozen: d.Freeze(Query{}, nil, false), Canary: true})
	if r = x.reaches(d, r.ID, RunPaused); r.Published != 1 || !strings.Contains(r.Why, "without them") {
		t.Errorf("%+v", r)
	}
	if err := d.ResumeRun(t.Context(), me, r.ID, "one relay is down for the day"); err != nil {
		t.Fatal(err)
	}
	if r = x.reaches(d, r.ID, RunDone); r.Published != 31 || r.Delivered != 30 || !strings.Contains(r.Why, "still under way") {
		t.Errorf("%+v", r)
	}
	x.onceEach("ops", 30)
}
