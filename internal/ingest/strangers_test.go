package ingest

import (
	"strings"
	"testing"
)

// TestStrangersDoNotBlock: bodies whose signature is not checked yet have few places of their own, so
// that nobody without a secret can keep those waiting who have one.
//
// Fault: POST /v1/events with forged signatures, by many clients that send slowly. Result: 503 for other signed requests at once; senders with a token or a certificate are not kept waiting.
func TestStrangersDoNotBlock(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for range strangers {
		h.handler.strangers <- struct{}{} // each as a request whose body does not come
	}
	body, forged := bare("y", ops), "X-Hub-Signature-256: sha256=00"
	if status, text := h.post("/v1/events", body, forged); status != 503 || !strings.Contains(text, "too many requests") {
		t.Errorf("a signed request beside them: %d %s", status, text)
	}
	if status, text := h.post("/v1/events", bare("x", ops), bearer(ciToken)); status != 202 {
		t.Errorf("a request with a token beside them: %d %s", status, text)
	}
	h.got("certificate.issued.ci x")
	<-h.handler.strangers
	if status, text := h.post("/v1/events", body, forged); status != 401 {
		t.Errorf("a forged signature: %d %s", status, text)
	}
	if len(h.handler.strangers) != strangers-1 {
		t.Errorf("%d places are taken after it, want %d", len(h.handler.strangers), strangers-1)
	}
	// Without senders that sign, no body is read for a signature.
	h.handler.cfg.Senders = h.handler.cfg.Senders[:1]
	if status, _ := h.post("/v1/events", body, forged); status != 401 || h.handler.cfg.Senders[0].Scheme != Token {
		t.Errorf("a signature that nobody uses: %d", status)
	}
}
