// Package webhook posts messages to receivers of others: signed as Standard Webhooks describe it, or in
// the form that Slack, Microsoft Teams and PagerDuty take, whose addresses or keys are the secret. It also has the rules
// for the keys of signed webhooks, those that are received among them.
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// Format is the form of a body.
type Format string

// The formats.
const (
	Certpost  Format = "certpost"  // our own, signed as Standard Webhooks
	Slack     Format = "slack"     // incoming webhooks: text, and blocks of header and section
	Teams     Format = "teams"     // Workflows: a message with an Adaptive Card
	PagerDuty Format = "pagerduty" // Events API v2
)

// NeedsSecret reports whether bodies of the format are signed, or have a key in them. With the others the
// address is the secret.
func (f Format) NeedsSecret() bool { return f == Certpost || f == PagerDuty }

// Receiver is where messages go, with POST.
type Receiver struct {
	// Setting is where it stands in the configuration, such as alerts.webhook. Errors begin with it.
	Setting string
	// URL and Secret read the address and the key. Both are secrets: with services such as Slack the address is all that
	// it takes to post.
	URL, Secret func(ctx context.Context) (string, error)
	Format      Format           // signs the bodies of Certpost
	ContentType string           // "": application/json
	Client      *http.Client     // nil: NewClient
	Now         func() time.Time // nil: time.Now
}

const (
	// patience bounds one request.
	patience = 20 * time.Second
	// answerRead is how much of an answer is read, in bytes, so that the connection can be used again.
	answerRead = 64 << 10
	// maxBody is the size of the largest body, in bytes: PagerDuty takes no more.
	maxBody = 512 << 10
)

// NewClient returns a client that follows no redirects: a request is signed for one receiver.
func NewClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = answerRead
	return &http.Client{Transport: transport, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// CheckURL returns what is wrong with the address of a webhook. It does not quote it.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("is not an address such as https://hooks.example.com/certpost")
	}
	if u.User != nil {
		return errors.New("has a user name or a password: use secret, or a path that is hard to guess")
	}
	if problem := legible.WrongPort(u); problem != "" {
		return errors.New(problem)
	}
	if host := u.Hostname(); u.Scheme == "http" && host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return errors.New("begins with http://: other machines are reached only by https")
	}
	return nil
}

// CheckSecret returns what is wrong with the secret for a format.
func CheckSecret(f Format, secret string) error {
	switch {
	case f == Certpost:
		_, err := StandardKey(secret)
		return err
	case f == PagerDuty && len(secret) != 32:
		return fmt.Errorf("is not an integration key of PagerDuty: has %d characters, want 32 (Integrations of the service, Events API v2)", len(secret))
	}
	return nil
}

// Post posts a message. id tells messages apart, and is the same for each try, so that a receiver
// notices one that it has already. body makes the body; it gets the secret, because that of PagerDuty is part of
// it. The error is a *Failure, and has neither the address nor what the receiver answered.
func (w Receiver) Post(ctx context.Context, id string, body func(secret string) ([]byte, error)) error {
	address, secret, err := w.secrets(ctx)
	if err != nil {
		return &Failure{Err: err, Away: true}
	}
	content, err := body(secret)
	if err != nil {
		return &Failure{Err: fmt.Errorf("%s: make the body: %w", w.Setting, err), Refused: true}
	}
	if len(content) > maxBody {
		return &Failure{Err: fmt.Errorf("%s: the body has %d bytes, and at most %d can be sent", w.Setting, len(content), maxBody), Refused: true}
	}
	var seen atomic.Bool // the receiver got something of the message
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { seen.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(content))
	if err != nil {
		return &Failure{Err: errors.New(w.Setting + ".url cannot be used"), Away: true}
	}
	req.Header.Set("Content-Type", cmp.Or(w.ContentType, "application/json"))
	req.Header.Set("User-Agent", "certpost")
	if w.Format == Certpost {
		key, err := StandardKey(secret)
		if err != nil {
			return &Failure{Err: fmt.Errorf("%s.secret: the secret %w", w.Setting, err), Away: true}
		}
		w.sign(req.Header, id, key, content)
	}
	client := w.Client
	if client == nil {
		client = defaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return &Failure{Err: fmt.Errorf("%s: no answer: %w", w.Setting, withoutAddress(err)), Away: !seen.Load()}
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, answerRead)) // only to use the connection again
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	return w.refused(resp)
}

var defaultClient = NewClient()

// secrets reads the address and the secret.
func (w Receiver) secrets(ctx context.Context) (address, secret string, err error) {
	if address, err = w.URL(ctx); err != nil {
		return "", "", fmt.Errorf("%s.url: %w", w.Setting, err)
	}
	address = strings.TrimSpace(address)
	if err := CheckURL(address); err != nil {
		return "", "", fmt.Errorf("%s.url %w", w.Setting, err)
	}
	if w.Secret == nil {
		return address, "", nil
	}
	if secret, err = w.Secret(ctx); err != nil {
		return "", "", fmt.Errorf("%s.secret: %w", w.Setting, err)
	}
	secret = strings.TrimSpace(secret)
	if err := CheckSecret(w.Format, secret); err != nil {
		return "", "", fmt.Errorf("%s.secret %w", w.Setting, err)
	}
	return address, secret, nil
}

// Check reads the address and the secret, and connects to the receiver; it sends no request.
func (w Receiver) Check(ctx context.Context) error {
	address, _, err := w.secrets(ctx)
	if err != nil {
		return err
	}
	client := w.Client
	if client == nil {
		client = defaultClient
	}
	// OPTIONS posts nothing, and whatever is answered says that there is a receiver.
	req, err := http.NewRequestWithContext(ctx, http.MethodOptions, address, nil)
	if err != nil {
		return errors.New(w.Setting + ".url cannot be used")
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: no answer: %w", w.Setting, withoutAddress(err))
	}
	return resp.Body.Close()
}

// withoutAddress returns the reason of an error of net/http, which begins with the address.
func withoutAddress(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// sign sets the headers of Standard Webhooks.
func (w Receiver) sign(h http.Header, id string, key, body []byte) {
	at := strconv.FormatInt(w.now().Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}
