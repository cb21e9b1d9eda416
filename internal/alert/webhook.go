package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/webhook"
)

// Webhook sends messages with POST.
type Webhook struct {
	// URL and Secret read the address and the key. Both are secrets: with services such as Slack the address is all that
	// it takes to post.
	URL, Secret func(ctx context.Context) (string, error)
	Format      Format
	Client      *http.Client     // nil: NewClient
	Now         func() time.Time // nil: time.Now
}

const (
	// webhookPatience bounds one request.
	webhookPatience = 20 * time.Second
	// webhookAnswer is how much of an answer is read, in bytes, so that the connection can be used again.
	webhookAnswer = 64 << 10
	// maxWebhookBody is the size of the largest body, in bytes: PagerDuty takes no more.
	maxWebhookBody = 512 << 10
)

// NewClient returns a client that follows no redirects: a request is signed for one receiver.
func NewClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = webhookAnswer
	return &http.Client{Transport: transport, Timeout: webhookPatience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// CheckURL returns what is wrong with the address of a webhook. It does not quote it.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("is not an address such as https://hooks.example.com/certpost")
	}
	if u.User != nil {
		return errors.New("has a user name or a password: use secret, or a path that is hard to guess")
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
		_, err := webhook.StandardKey(secret)
		return err
	case f == PagerDuty && len(secret) != 32:
		return errors.New("is not an integration key of PagerDuty: want 32 characters")
	}
	return nil
}

// Send sends a message. The error has neither the address nor what the receiver answered.
func (w Webhook) Send(ctx context.Context, m Message) error {
	address, secret, err := w.secrets(ctx)
	if err != nil {
		return err
	}
	body, err := m.body(w.Format, secret)
	if err != nil {
		return fmt.Errorf("alerts.webhook: make the body: %w", err)
	}
	if len(body) > maxWebhookBody {
		return fmt.Errorf("alerts.webhook: the body has %d bytes, and at most %d can be sent", len(body), maxWebhookBody)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return errors.New("alerts.webhook.url cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "certpost")
	if w.Format == Certpost {
		key, err := webhook.StandardKey(secret)
		if err != nil {
			return fmt.Errorf("alerts.webhook.secret: the secret %w", err)
		}
		w.sign(req.Header, m.ID, key, body)
	}
	client := w.Client
	if client == nil {
		client = defaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("alerts.webhook: no answer: %w", withoutAddress(err))
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, webhookAnswer)) // only to use the connection again
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code >= 300 && code < 400:
		return fmt.Errorf("alerts.webhook: the receiver redirects (%d), and redirects are not followed: set alerts.webhook.url to the new address", code)
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusNotFound, code == http.StatusGone:
		return fmt.Errorf("alerts.webhook: the receiver refused the message (%d): check alerts.webhook.url and secret", code)
	default:
		return fmt.Errorf("alerts.webhook: the receiver did not take the message (%d %s)", code, http.StatusText(code))
	}
}

var defaultClient = NewClient()

// secrets reads the address and the secret.
func (w Webhook) secrets(ctx context.Context) (address, secret string, err error) {
	if address, err = w.URL(ctx); err != nil {
		return "", "", fmt.Errorf("alerts.webhook.url: %w", err)
	}
	address = strings.TrimSpace(address)
	if err := CheckURL(address); err != nil {
		return "", "", fmt.Errorf("alerts.webhook.url %w", err)
	}
	if w.Secret == nil {
		return address, "", nil
	}
	if secret, err = w.Secret(ctx); err != nil {
		return "", "", fmt.Errorf("alerts.webhook.secret: %w", err)
	}
	secret = strings.TrimSpace(secret)
	if err := CheckSecret(w.Format, secret); err != nil {
		return "", "", fmt.Errorf("alerts.webhook.secret %w", err)
	}
	return address, secret, nil
}

// Check reads the address and the secret, and connects to the receiver; it sends no request.
func (w Webhook) Check(ctx context.Context) error {
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
		return errors.New("alerts.webhook.url cannot be used")
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("alerts.webhook: no answer: %w", withoutAddress(err))
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

// sign sets the headers of Standard Webhooks. The id is the same for each try, so that a receiver
// notices one that it has already.
func (w Webhook) sign(h http.Header, id string, key, body []byte) {
	now := time.Now
	if w.Now != nil {
		now = w.Now
	}
	at := strconv.FormatInt(now().Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}
