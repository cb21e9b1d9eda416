package ingest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/webhook"
)

// tolerance is how far the time of a signature may be away (Standard Webhooks).
const tolerance = 5 * time.Minute

func unknown(reason string) *refused { return refuse(http.StatusUnauthorized, "%s", reason) }

// byHeaders returns the sender of a request with a token or a client certificate; nil if it is
// signed, which needs the body.
func (h *Handler) byHeaders(r *http.Request) (*Sender, *refused) {
	if kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); kind != "" {
		if !strings.EqualFold(kind, "Bearer") {
			return nil, unknown("the Authorization is not a Bearer token")
		}
		return h.byToken(r.Context(), strings.TrimSpace(token))
	}
	signed := slices.ContainsFunc([]string{standardSignature, gitHubSignature, stepSignature}, func(header string) bool { return r.Header.Get(header) != "" })
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && h.cfg.Verify != nil {
		// step-ca signs every request, also with an empty secret.
		if sender, refusal := h.byCertificate(r.TLS.PeerCertificates); refusal == nil || !signed {
			return sender, refusal
		}
	}
	if signed && slices.ContainsFunc(h.cfg.Senders, func(s Sender) bool { return s.Scheme != Token && s.Scheme != Certificate }) {
		return nil, nil
	}
	return nil, unknown("no token, signature or client certificate")
}

// byToken compares with the tokens of all senders, so that the time says nothing.
func (h *Handler) byToken(ctx context.Context, token string) (found *Sender, err *refused) {
	got := sha256.Sum256([]byte(token))
	unreadable := false
	for i, s := range h.cfg.Senders {
		if s.Scheme != Token {
			continue
		}
		key, ok := h.key(ctx, &s)
		unreadable = unreadable || !ok
		if key == nil {
			continue
		}
		want := sha256.Sum256(key)
		if subtle.ConstantTimeCompare(want[:], got[:]) == 1 {
			found = &h.cfg.Senders[i]
		}
	}
	return h.known(found, unreadable, "the token is not known")
}

// known returns the sender. While a secret cannot be read, nobody knows whose the request is.
func (h *Handler) known(found *Sender, unreadable bool, reason string) (*Sender, *refused) {
	switch {
	case found != nil:
		return found, nil
	case unreadable:
		return nil, &refused{http.StatusServiceUnavailable, "a secret of http.ingest cannot be read at the moment; try again later", 5 * time.Second}
	}
	return nil, unknown(reason)
}

// Key returns what a secret of the scheme proves a sender with. The error says why the secret proves
// nothing, and quotes nothing of it: `certpost check --live` shows it, and a request logs it.
func (s Scheme) Key(secret string) ([]byte, error) {
	switch s {
	case Standard:
		return webhook.StandardKey(secret)
	case Step:
		return webhook.Base64Key(secret)
	default:
		return webhook.TextKey(secret)
	}
}

// key reads the secret of a sender. It is nil if it proves nothing; ok says that it could be read.
func (h *Handler) key(ctx context.Context, s *Sender) (key []byte, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	secret, err := s.Secret(ctx)
	if err != nil {
		h.warn("the secret of a sender cannot be read", s.Name, err)
		return nil, false
	}
	if key, err = s.Scheme.Key(secret); err != nil {
		h.warn("the secret of a sender "+err.Error(), s.Name, nil)
		return nil, true
	}
	return key, true
}

func (h *Handler) warn(what, sender string, err error) {
	if h.failed.Allow() {
		h.cfg.Log.Error().Err(err).Str("sender", sender).Msg("http.ingest: " + what)
	}
}

// byCertificate verifies a client's certificate, and finds whose it is.
func (h *Handler) byCertificate(chain []*x509.Certificate) (*Sender, *refused) {
	if err := h.cfg.Verify(chain); err != nil {
		return nil, unknown("the client certificate is not valid")
	}
	leaf := chain[0]
	names := slices.Concat(leaf.DNSNames, leaf.EmailAddresses, []string{leaf.Subject.CommonName})
	for _, u := range leaf.URIs {
		names = append(names, u.String())
	}
	for i, s := range h.cfg.Senders {
		if s.Scheme == Certificate && slices.Contains(names, s.SAN) {
			return &h.cfg.Senders[i], nil
		}
	}
	return nil, unknown("no sender has the name of the client certificate")
}

// The headers of signatures.
const (
	standardSignature = "Webhook-Signature"
	gitHubSignature   = "X-Hub-Signature-256"
	stepSignature     = "X-Smallstep-Signature"
)

// bySignature finds the sender who has signed the body.
func (h *Handler) bySignature(r *http.Request, body []byte) (found *Sender, refusal *refused) {
	unreadable := false
	for i, s := range h.cfg.Senders {
		header := map[Scheme]string{Standard: standardSignature, GitHub: gitHubSignature, Step: stepSignature}[s.Scheme]
		if header == "" || r.Header.Get(header) == "" {
			continue
		}
		key, ok := h.key(r.Context(), &s)
		unreadable = unreadable || !ok
		if key != nil && signed(s.Scheme, key, r.Header, body) {
			found = &h.cfg.Senders[i]
		}
	}
	if found != nil && found.Scheme == Standard && !h.timely(r.Header.Get("Webhook-Timestamp")) {
		return nil, unknown("webhook-timestamp is more than five minutes away from this machine's time")
	}
	return h.known(found, unreadable, "the signature fits no sender")
}

// timely reports whether a time in seconds is near.
func (h *Handler) timely(seconds string) bool {
	n, err := strconv.ParseInt(seconds, 10, 64)
	away := h.now().Sub(time.Unix(n, 0))
	return err == nil && away.Abs() <= tolerance
}

// signed verifies a signature.
func signed(scheme Scheme, key []byte, header http.Header, body []byte) bool {
	switch scheme {
	case Standard:
		id, at := header.Get("Webhook-Id"), header.Get("Webhook-Timestamp")
		want := mac(key, []byte(id+"."+at+"."), body)
		fits := false
		for _, signature := range strings.Fields(header.Get(standardSignature)) {
			version, text, _ := strings.Cut(signature, ",")
			got, err := base64.StdEncoding.DecodeString(text)
			fits = fits || version == "v1" && err == nil && hmac.Equal(got, want)
		}
		return fits && id != ""
	case GitHub:
		text, ok := strings.CutPrefix(header.Get(gitHubSignature), "sha256=")
		got, err := hex.DecodeString(text)
		return ok && err == nil && hmac.Equal(got, mac(key, body))
	case Step:
		got, err := hex.DecodeString(header.Get(stepSignature))
		return err == nil && hmac.Equal(got, mac(key, body))
	}
	return false
}

func mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, part := range parts {
		m.Write(part)
	}
	return m.Sum(nil)
}
