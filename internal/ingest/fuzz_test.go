package ingest

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/certpost/certpost/internal/events"
)

// Whatever the body is, the answer is described, quotes no key, and 202 only if all is stored.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{bare("x", ops), structured("x"), "[" + structured("x") + "]", `{"status":"Active","pem":"x"}`, `{"x509Certificate":{"raw":"MA=="}}`, "[[", "null", `[null]`, `{"id":1e999}`} {
		for kind := range byte(5) {
			f.Add(kind, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		h := newHouse(t)
		header := []string{bearer(ciToken)}
		switch kind % 5 {
		case 1:
			header = append(header, "Content-Type: application/cloudevents-batch+json")
		case 2:
			header = []string{"X-Hub-Signature-256: sha256=" + hex.EncodeToString(mac([]byte(hubSecret), body))}
		case 3:
			header = []string{"X-Smallstep-Signature: " + hex.EncodeToString(mac([]byte("canary-secret-of-step"), body))}
		}
		if kind%5 == 4 { // binary mode: the body is the data
			header = append(header, "ce-specversion: 1.0", "ce-type: certificate.issued", "ce-source: test://ca", "ce-id: binary")
		}
		status, text := h.post("/v1/events", string(body), header...)
		if status != http.StatusAccepted {
			if len(h.stream) > 0 {
				t.Errorf("%d %s, and %d events are stored", status, text, len(h.stream))
			}
			return
		}
		var one accepted
		var all []accepted
		if json.Unmarshal([]byte(text), &all) != nil {
			if err := json.Unmarshal([]byte(text), &one); err != nil {
				t.Fatal(err)
			}
			all = []accepted{one}
		}
		stored := map[string]bool{}
		for _, ev := range h.stream {
			stored[ev.ID] = true
			if events.HoldsPrivateKey(ev.Encode()) {
				t.Error("a private key is stored")
			}
		}
		for _, a := range all {
			if !stored[a.ID] {
				t.Errorf("%s was accepted, and is not stored", a.ID)
			}
		}
	})
}
