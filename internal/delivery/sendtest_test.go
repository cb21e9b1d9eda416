package delivery

import (
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/verdict"
)

// A test mail is one try: nothing is retried, paused or replayed, and the reason does not
// say so.
func TestSendTestSaysWhatToDoAboutOneTry(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]string{
		dailyLimit:                  "this is a limit of the relay itself: test again when it is over",
		"451 4.3.0 busy":            "answered 451 4.3.0 to MAIL FROM; test again later",
		"550 5.7.1 not your domain": "remove the cause, then test again",
		"501 5.1.7 bad sender":      "check from_address and the recipients, then test again",
	} {
		t.Run(reply[:9], func(t *testing.T) {
			t.Parallel()
			server := lab.StartRelay(t, lab.RelayScript{})
			o := newFixture(t, server.Address(), RelayLimits{}, nil)
			refuse(server, reply)
			ev := &events.Event{ID: "test", Source: "certpost://send-test", Certificate: events.Certificate{PEM: lab.SelfSigned("www.example.com")}}
			receipt, f := o.SendTest(lab.Patient(t), ev, o.target.ID, nil)
			if receipt != nil || f == nil || !strings.Contains(f.Reason, want) {
				t.Fatalf("%+v, %+v; want %q", receipt, f, want)
			}
			for _, untrue := range []string{"retries", "replay", "pauses", "attempt"} {
				if strings.Contains(f.Reason, untrue) {
					t.Errorf("%q: %s", untrue, f.Reason)
				}
			}
			if f.Code == "" || f.Phase != verdict.PhaseMail {
				t.Errorf("got %+v", f)
			}
		})
	}
}
