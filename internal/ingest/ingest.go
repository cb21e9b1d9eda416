// Package ingest takes events over HTTP: POST /v1/events.
//
// It is for publishers that have no NATS client: CAs, webhooks, scripts with curl. A request
// proves who sends it with a token, a signature of the body, or a client certificate; each sender
// has a name, sources that it may publish as, and limits. The answer is 202 only after the stream has stored every
// event of the request. openapi.yaml describes all of it.
package ingest

import (
	"context"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/certpost/certpost/internal/apiproblem"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/legible"
)

// OpenAPI describes the handler.
//
//go:embed openapi.yaml
var OpenAPI []byte

// Limits of every request.
const (
	MaxBody  = 4 << 20 // bytes
	MaxBatch = 100     // events
	// bodies is how many bodies are in memory at a time.
	bodies = 64
	// strangersTime is how long a body may take whose signature has not been checked yet.
	strangersTime = 5 * time.Second
)

// Scheme is how a sender proves who it is.
type Scheme string

// The schemes.
const (
	Token       Scheme = "token"    // Authorization: Bearer
	Standard    Scheme = "standard" // Standard Webhooks: webhook-id, webhook-timestamp, webhook-signature
	GitHub      Scheme = "github"   // X-Hub-Signature-256
	Step        Scheme = "step"     // X-Smallstep-Signature
	Certificate Scheme = "certificate"
)

// Format is what a sender's requests contain.
type Format string

// The formats.
const (
	Events Format = "events" // the forms of docs/events.md, and batches
	EJBCA  Format = "ejbca"  // of its Cert Safe publisher
	StepCA Format = "step-ca"
)

// Sender is somebody who may publish.
type Sender struct {
	Name   string
	Scheme Scheme
	// Secret returns the token, or the secret of signatures; nil for certificates.
	Secret func(context.Context) (string, error)
	// SAN is the name in a client certificate: DNS name, URI, e-mail address or CN.
	SAN    string
	Format Format
	// Sources may be published as: the first one without a wildcard, unless the request names
	// another. MaySource says whether it may.
	Sources   []string
	MaySource func(source string) bool
	// MayTarget says whether an event may go to a target; nil: to all.
	MayTarget func(id string) bool
	Rate      *rate.Limiter // nil: no limit
	MaxBytes  int64         // of a body; at most MaxBody
}

// Config is what a Handler needs.
type Config struct {
	Senders []Sender
	// Verify checks a client's certificate and its chain; nil: there are none.
	Verify func(chain []*x509.Certificate) error
	// Publish returns once the stream has stored the event. TooLarge says that it never will.
	Publish func(context.Context, *events.Event) (duplicate bool, err error)
	// TooLarge reports whether an error of Publish is about the event's size.
	TooLarge func(error) bool
	// Refusals returns why an event may not name what it names, by its source.
	Refusals func(*events.Event) []string
	// Address is the client's address, for the log and for limits.
	Address func(*http.Request) string
	Log     zerolog.Logger
	Metrics *Metrics
}

// Handler handles POST /v1/events.
type Handler struct {
	cfg       Config
	bodies    chan struct{}
	strangers crowd
	failed    *rate.Limiter // of lines about requests without a valid proof
	now       func() time.Time
}

// New makes a Handler.
func New(cfg Config) *Handler {
	cfg.Metrics.start(cfg.Senders)
	return &Handler{cfg: cfg, bodies: make(chan struct{}, bodies), failed: rate.NewLimiter(1, 10), now: time.Now}
}

// publishTimeout is how long the stream may take for one event.
const publishTimeout = 10 * time.Second

// refused is why a request is answered with another status than 202.
type refused struct {
	status int
	reason string
	after  time.Duration // Retry-After; 0: none
}

func (r *refused) Error() string { return r.reason }

func refuse(status int, format string, args ...any) *refused {
	return &refused{status: status, reason: fmt.Sprintf(format, args...)}
}

// accepted is the answer for one event.
type accepted struct {
	ID        string `json:"id"`
	Duplicate bool   `json:"duplicate"`
	// Allow is what step-ca asks its webhooks.
	Allow bool `json:"allow,omitempty"`
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sender, answer, err := h.take(w, r)
	if err == nil {
		if len(answer) == 0 { // nothing in it is an issued certificate
			h.cfg.Metrics.answered(sender, http.StatusOK)
			write(w, http.StatusOK, map[string]any{"ignored": true, "allow": true})
			return
		}
		h.cfg.Metrics.answered(sender, http.StatusAccepted)
		if media, _ := mediaType(r); media == batchType {
			write(w, http.StatusAccepted, answer)
		} else {
			write(w, http.StatusAccepted, answer[0])
		}
		return
	}
	h.refuse(w, r, sender, err)
}

// Known answers GET /v1/events: who a token or client certificate belongs to. EJBCA tests its
// connections like this.
func (h *Handler) Known(w http.ResponseWriter, r *http.Request) {
	if fromPage(r) {
		h.refuse(w, r, nil, refuse(http.StatusForbidden, "pages in browsers cannot send events"))
		return
	}
	sender, err := h.byHeaders(r)
	if err == nil && sender == nil {
		err = unknown("a signature without a body")
	}
	if err != nil {
		h.refuse(w, r, nil, err)
		return
	}
	write(w, http.StatusOK, map[string]string{"sender": sender.Name})
}

// fromPage reports whether a page in a browser has sent a request.
func fromPage(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return site != "" && site != "none"
}

// refuse answers with an error.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, sender *Sender, err *refused) {
	h.cfg.Metrics.answered(sender, err.status)
	if err.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((err.after+time.Second-1)/time.Second)))
	}
	switch err.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="certpost"`)
		if h.failed.Allow() {
			h.cfg.Log.Warn().Str("address", h.cfg.Address(r)).Str("reason", err.reason).Msg("an event was refused: the sender is not known")
		}
		err = refuse(err.status, "send a valid token (Authorization: Bearer), signature or client certificate")
	case http.StatusRequestEntityTooLarge:
		w.Header().Set("Connection", "close") // the rest of the body may not be read
	}
	apiproblem.Write(w, err.status, err.reason)
}

func write(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

const batchType = "application/cloudevents-batch+json"

// enter takes one of the places for bodies; leave gives it back. Who has not proved itself gets one of its
// own few places or none, and little time, so that it cannot keep the others waiting.
func (h *Handler) enter(w http.ResponseWriter, r *http.Request, sender *Sender) (leave func(), err *refused) {
	full := refuse(http.StatusServiceUnavailable, "too many requests at the same time")
	full.after = strangersTime
	if sender == nil {
		leave := h.strangers.enter(h.cfg.Address(r))
		if leave == nil {
			return nil, full
		}
		// A writer without deadlines, as in tests, leaves that of the server.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(strangersTime))
		return leave, nil
	}
	select {
	case h.bodies <- struct{}{}:
		return func() { <-h.bodies }, nil
	case <-r.Context().Done():
		return nil, full
	}
}

// take publishes what a request contains. The sender is nil as long as it is not known.
func (h *Handler) take(w http.ResponseWriter, r *http.Request) (sender *Sender, answer []accepted, err *refused) {
	if fromPage(r) {
		return nil, nil, refuse(http.StatusForbidden, "pages in browsers cannot send events")
	}
	media, err := mediaType(r)
	if err != nil {
		return nil, nil, err
	}
	if sender, err = h.byHeaders(r); err != nil {
		return nil, nil, err
	}
	leave, err := h.enter(w, r, sender)
	if err != nil {
		return sender, nil, err
	}
	defer leave()
	most := int64(MaxBody)
	if sender != nil && sender.MaxBytes > 0 {
		most = min(most, sender.MaxBytes)
	}
	body, err := readBody(r, most)
	if err != nil {
		return sender, nil, err
	}
	if sender == nil {
		if sender, err = h.bySignature(r, body); err != nil {
			return nil, nil, err
		}
		if sender.MaxBytes > 0 && int64(len(body)) > sender.MaxBytes {
			return sender, nil, tooLarge(sender.MaxBytes)
		}
	}
	all, err := sender.read(r, media, body)
	if err != nil {
		return sender, nil, err
	}
	if err := sender.allow(h.now(), max(len(all), 1)); err != nil {
		return sender, nil, err
	}
	for i, ev := range all {
		if err := h.check(sender, r, ev); err != nil {
			return sender, nil, at(i, len(all), err)
		}
	}
	for i, ev := range all {
		duplicate, err := h.publish(r, sender, ev)
		if err != nil {
			return sender, nil, at(i, len(all), err)
		}
		answer = append(answer, accepted{ID: ev.ID, Duplicate: duplicate, Allow: sender.Format == StepCA})
	}
	return sender, answer, nil
}

// at adds the place in a batch.
func at(i, of int, err *refused) *refused {
	if of > 1 {
		err.reason = fmt.Sprintf("event %d of the batch: %s", i+1, err.reason)
	}
	return err
}

// mediaType returns the content type of a request, if it is one of ours. Forms of web pages
// are none. step-ca sends none, and a header that a web page of another site cannot send.
func mediaType(r *http.Request) (string, *refused) {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return "", refuse(http.StatusUnsupportedMediaType, "send the body without Content-Encoding")
	}
	given := r.Header.Get("Content-Type")
	media, _, err := mime.ParseMediaType(given)
	switch {
	case given == "" && r.Header.Get(stepSignature) != "":
		return "application/json", nil
	case err == nil && (media == "application/json" || media == events.ContentType || media == batchType):
		return media, nil
	}
	return "", refuse(http.StatusUnsupportedMediaType, "send Content-Type: application/json, %s or %s", events.ContentType, batchType)
}

func tooLarge(most int64) *refused {
	return refuse(http.StatusRequestEntityTooLarge, "the body has more than %d bytes", most)
}

// Received is how much of a body is received at most, in bytes. A client that writes a body
// which is too large reads the answer only after that.
const Received = 4 * MaxBody

func readBody(r *http.Request, most int64) ([]byte, *refused) {
	var body []byte
	if r.ContentLength <= most {
		var err error
		if body, err = io.ReadAll(io.LimitReader(r.Body, most+1)); err != nil {
			return nil, refuse(http.StatusBadRequest, "the body ended early")
		}
		if int64(len(body)) <= most {
			return body, nil
		}
	}
	if r.Header.Get("Expect") == "" { // a client that waits for "100 Continue" has not sent anything
		_, _ = io.CopyN(io.Discard, r.Body, Received-int64(len(body)))
	}
	return nil, tooLarge(most)
}

// allow asks the limit of a sender for a number of events.
func (s *Sender) allow(now time.Time, n int) *refused {
	if s.Rate == nil {
		return nil
	}
	reserved := s.Rate.ReserveN(now, n)
	if !reserved.OK() {
		return refuse(http.StatusTooManyRequests, "a batch may have %d events", s.Rate.Burst())
	}
	if wait := reserved.DelayFrom(now); wait > 0 {
		reserved.CancelAt(now)
		return &refused{http.StatusTooManyRequests, "too many events; try again later", wait}
	}
	return nil
}

// check refuses an event that its sender may not publish.
func (h *Handler) check(s *Sender, r *http.Request, ev *events.Event) *refused {
	source, err := s.source(r)
	if err != nil {
		return err
	}
	ev.Subject = events.SourceSubject(source)
	if s.MayTarget != nil {
		if len(ev.Targets) == 0 {
			return refuse(http.StatusBadRequest, "$.targets: required: %s may send only to some targets", s.Name)
		}
		for i, id := range ev.Targets {
			if !s.MayTarget(id) {
				return refuse(http.StatusBadRequest, "$.targets[%d]: %s may not send to this target", i, s.Name)
			}
		}
	}
	if reasons := h.cfg.Refusals(ev); len(reasons) > 0 {
		return refuse(http.StatusBadRequest, "%s", strings.ReplaceAll(reasons[0], ", then replay", ""))
	}
	return nil
}

// source is the source that a request publishes as: ?source=, else the sender's only one.
func (s *Sender) source(r *http.Request) (string, *refused) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(query["source"]) > 1 { // else it would be published as another source
		return "", refuse(http.StatusBadRequest, "the query of the address is malformed: want ?source=SOURCE, percent-encoded, once")
	}
	if query.Has("source") {
		source := query.Get("source")
		if events.WrongSource(source) != "" || !s.MaySource(source) {
			return "", refuse(http.StatusBadRequest, "%s may not publish as this source", s.Name)
		}
		return source, nil
	}
	for _, source := range s.Sources {
		if !strings.Contains(source, "*") {
			return source, nil
		}
	}
	return "", refuse(http.StatusBadRequest, "name the source: POST /v1/events?source=SOURCE")
}

// publish returns once the stream has stored the event.
func (h *Handler) publish(r *http.Request, s *Sender, ev *events.Event) (duplicate bool, refusal *refused) {
	ctx, cancel := context.WithTimeout(r.Context(), publishTimeout)
	defer cancel()
	duplicate, err := h.cfg.Publish(ctx, ev)
	log := h.cfg.Log.With().Str("event", ev.ID).Str("sender", s.Name).Str("subject", legible.Clean(ev.Subject, 300)).Str("address", h.cfg.Address(r)).Logger()
	switch {
	case err == nil:
		outcome := "stored"
		if duplicate {
			outcome = "duplicate"
		}
		h.cfg.Metrics.published(s, outcome)
		log.Info().Bool("duplicate", duplicate).Msg("an event was published over HTTP")
		return duplicate, nil
	case h.cfg.TooLarge(err):
		return false, refuse(http.StatusRequestEntityTooLarge, "the event is larger than the stream accepts")
	}
	h.cfg.Metrics.published(s, "failed")
	log.Error().Err(err).Msg("an event could not be published over HTTP; its sender was told to try again")
	return false, &refused{http.StatusServiceUnavailable, "the event is not stored: NATS does not accept it now; send it again later, with the same id", 5 * time.Second}
}
