package main

import (
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/devrelay"
)

// A replay by number with --wait ends with the outcome of the delivery.
func TestReplayWaits(t *testing.T) {
	t.Parallel()
	o := newFixture(t, "", refuseNobody,
		devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "prod@*", Code: 550, Enhanced: "5.1.1", Text: "not yet", Times: 1},
		devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "ops@*", Code: 550, Enhanced: "5.1.1", Text: "not yet", Times: 1},
		devrelay.Rule{Stage: devrelay.StageRcpt, Recipient: "ops@*", Code: 451, Enhanced: "4.3.0", Text: "later"})
	for _, target := range []string{"prod", "nobody", "ops"} {
		o.publish("to-"+target, target)
		o.settled()
	}
	numbers := map[string]string{}
	for _, target := range []string{"prod", "nobody", "ops"} {
		numbers[target] = strings.Fields(strings.Split(o.certpost("dead-letters", "list", "--target", target).done(t), "\n")[1])[0]
	}

	said := o.certpost("dead-letters", "replay", numbers["prod"], "--wait", "--timeout", "1m")
	if got := said.done(t); got != "[1/1] to-prod prod: delivered\n" {
		t.Errorf("%q", got)
	}
	if said.where != "certpost: acting on "+o.service.broker.URL()+"\n" {
		t.Errorf("it says it acts on %q", said.where)
	}
	said = o.certpost("dead-letters", "replay", numbers["nobody"], "--wait", "--timeout", "1m")
	said.failed(t, exitFailed, "certpost: 1 of 1 failed\n")
	if !strings.HasPrefix(said.stdout, "[1/1] to-nobody nobody: dead again: SMTP_PERMANENT: localhost:") {
		t.Errorf("%q", said.stdout)
	}
	// A delivery that is retried has no outcome yet.
	said = o.certpost("dead-letters", "replay", numbers["ops"], "--wait", "--timeout", "700ms")
	said.failed(t, exitFailed, "certpost: 1 of 1 failed\n")
	if !strings.HasPrefix(said.stdout, "[1/1] to-ops ops: not settled within the time limit") || !strings.HasSuffix(said.stdout, "; it goes on: certpost deliveries show to-ops ops\n") {
		t.Errorf("%q", said.stdout)
	}
	// What was done before is not said when nothing is to be said.
	again := strings.Fields(strings.Split(o.certpost("dead-letters", "list", "--target", "nobody").done(t), "\n")[1])[0]
	if quiet := o.certpost("-q", "dead-letters", "replay", again, "--wait"); quiet.code != exitFailed || quiet.stdout+quiet.where != "" ||
		!strings.HasPrefix(quiet.stderr, "[1/1] to-nobody nobody: dead again: SMTP_PERMANENT: ") || !strings.HasSuffix(quiet.stderr, "\ncertpost: 1 of 1 failed\n") {
		t.Errorf("%+v", quiet)
	}
	again = strings.Fields(strings.Split(o.certpost("dead-letters", "list", "--target", "nobody").done(t), "\n")[1])[0]
	if quiet := o.certpost("-q", "dead-letters", "hold", again, "--reason", "x"); quiet.code != exitDone || quiet.stdout+quiet.stderr+quiet.where != "" {
		t.Errorf("%+v", quiet)
	}
}
