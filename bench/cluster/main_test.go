//go:build unix

package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/certpost/certpost/bench/harness"
	"github.com/certpost/certpost/internal/lab"
)

func TestMain(m *testing.M) {
	if harness.ServeNATS() {
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Two Certposts and three NATS servers, all of them processes: the server that leads the
// ledger is killed, one and two are stopped, and the Certposts are restarted. Nothing is
// lost and no mail is sent twice. For real results, run the program for longer.
//
// Fault: servers killed or stopped, servers and Certposts restarted one after another, all
// as processes. Result: nothing lost, no second mail; mails go again within about two
// seconds of the next leader.
func TestProcessesOfAClusterTakenAway(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	var out strings.Builder
	o := options{dir: t.TempDir(), program: lab.Build(t), concurrency: 64, fault: "leader,stop,stop2,roll-certpost", certposts: 2, rounds: 1, lasts: 2 * time.Second, pause: 2 * time.Second, rate: 20}
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

// Only a killed Certpost excuses a mail that is sent twice.
func TestWithoutKill(t *testing.T) {
	t.Parallel()
	twice := harness.Tally{Duplicates: 1}
	if withoutKill(twice, false) == nil || withoutKill(twice, true) != nil || withoutKill(harness.Tally{}, false) != nil {
		t.Error("the verdict is another one")
	}
}
