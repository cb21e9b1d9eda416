package broker

import "testing"

// A letter that another program put into the stream must not make an operator publish
// something unseen, such as a JetStream request.
func TestLettersGoWhereEventsGo(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]bool{
		"certificate.issued": true, "certificate.issued.ca1": true, "certpost.delivery.lane.ops": true,
		"": false, "$JS.API.STREAM.DELETE.CERTPOST_AUDIT": false, "$KV.CERTPOST_LEDGER.ops.e1": false, "certpost.audit.x": false,
		"certpost.dead.discard": false, "certificate.issuedx": false, "elsewhere": false,
	} {
		d := DeadLetter{ReplaySubject: subject, Body: []byte(`{"id": "e1"}`)}
		if why := d.Unreplayable(); (why == "") != want {
			t.Errorf("to %q: %q", subject, why)
		}
	}
}
