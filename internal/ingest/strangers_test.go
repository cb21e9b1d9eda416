package ingest

import (
	"strings"
	"testing"
)

// TestStrangersDoNotBlock: bodies whose signature is not checked yet have few places of their own, so
// that no client without a secret can keep those waiting that have one; one address gets a quarter of them.
//
// Fault: POST /v1/events with forged signatures, by many clients that send slowly. Result: 503 for other signed requests at once; one address alone takes a quarter of the places; senders with a token or a certificate are not kept waiting.
func TestStrangersDoNotBlock(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	body, forged := bare("y", ops), "X-Hub-Signature-256: sha256=00"
	var leave func() // gives back one of the places, each of a request whose body does not come
	enter := func(address string, places int) {
		t.Helper()
		for range places {
			if leave = h.handler.strangers.enter(address); leave == nil {
				t.Fatalf("no place for %s", address)
			}
		}
		if h.handler.strangers.enter(address) != nil {
			t.Errorf("%s got more than %d places", address, places)
		}
	}
	enter("192.0.2.1", strangersEach)
	if status, text := h.post("/v1/events", body, forged); status != 401 {
		t.Errorf("a signed request beside those of another address: %d %s", status, text)
	}
	enter("2001:db8::1", strangersEach)
	enter("2001:db8::ffff:1", 0) // the same network
	enter("192.0.2.2", strangersEach)
	enter("192.0.2.3", strangersEach)
	if status, text := h.post("/v1/events", body, forged); status != 503 || !strings.Contains(text, "too many requests") {
		t.Errorf("a signed request beside them: %d %s", status, text)
	}
	if status, text := h.post("/v1/events", bare("x", ops), bearer(ciToken)); status != 202 {
		t.Errorf("a request with a token beside them: %d %s", status, text)
	}
	h.got("certificate.issued.ci x")
	leave()
	if status, text := h.post("/v1/events", body, forged); status != 401 {
		t.Errorf("a forged signature: %d %s", status, text)
	}
	if n := h.handler.strangers.all; n != strangers-1 {
		t.Errorf("%d places are taken after it, want %d", n, strangers-1)
	}
	// Without senders that sign, no body is read for a signature.
	h.handler.cfg.Senders = h.handler.cfg.Senders[:1]
	if status, _ := h.post("/v1/events", body, forged); status != 401 || h.handler.cfg.Senders[0].Scheme != Token {
		t.Errorf("a signature that no sender uses: %d", status)
	}
}
