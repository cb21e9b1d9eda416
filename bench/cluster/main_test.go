//go:build unix

package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/devrelay"
	"github.com/certpost/certpost/internal/lab"
)

func TestMain(m *testing.M) {
	if serveNATS() {
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Two Certposts and three NATS servers, all of them processes: the server that leads the
// ledger is killed, one and two are stopped, and the Certposts are restarted. Nothing is
// lost and no mail is sent twice. For real results, run the program for longer.
func TestProcessesOfAClusterTakenAway(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	var out strings.Builder
	o := options{dir: t.TempDir(), program: lab.Build(t), fault: "leader,stop,stop2,roll-certpost", certposts: 2, rounds: 1, lasts: 2 * time.Second, pause: 2 * time.Second, rate: 20}
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	t.Log(&out)
	for _, want := range []string{"leader ", "stop ", "stop2 ", "roll-certpost ", "lost 0, not settled 0, dead letters 0", "duplicates 0 (not marked 0)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, &out)
		}
	}
}

// The verdict finds each of the faults that it is to find.
func TestVerdict(t *testing.T) {
	ok := tally{events: 1, mails: 2}
	for name, c := range map[string]struct {
		change func(*tally)
		wrong  bool
	}{
		"all is well":                             {func(*tally) {}, false},
		"lost":                                    {func(t *tally) { t.lost = 1 }, true},
		"not settled":                             {func(t *tally) { t.unsettled = 1 }, true},
		"dead":                                    {func(t *tally) { t.dead = 1 }, true},
		"twice without a kill":                    {func(t *tally) { t.duplicates, t.unknown = 1, 1 }, true},
		"twice after a kill":                      {func(t *tally) { t.duplicates, t.unknown, t.killed = 1, 1, true }, false},
		"twice after a kill, not marked":          {func(t *tally) { t.duplicates, t.unknown, t.unmarked, t.killed = 1, 1, 1, true }, true},
		"more often than the ledger has outcomes": {func(t *tally) { t.duplicates, t.unknown, t.killed = 2, 1, true }, true},
	} {
		got := ok
		c.change(&got)
		if err := got.verdict(); (err != nil) != c.wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, list := range map[string][]string{"one event": {"e1"}, "two events": {"e1", "e2"}} {
		if got := count(list, []devrelay.Mail{}, outcome{}); got.lost != 2*len(list) || got.unsettled != 2*len(list) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
