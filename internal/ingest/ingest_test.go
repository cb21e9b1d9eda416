package ingest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/time/rate"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/lab"
)

const (
	ciToken    = "canary-token-of-ci"
	oldToken   = "canary-token-of-old"
	hookSecret = "whsec_Y2FuYXJ5LXNlY3JldC1vZi1jYQ=="
	hubSecret  = "canary-secret-of-hub"
	stepSecret = "Y2FuYXJ5LXNlY3JldC1vZi1zdGVw"
)

// house is a handler with a stream.
type house struct {
	t       *testing.T
	handler *Handler
	log     bytes.Buffer

	registry *prometheus.Registry

	mu      sync.Mutex
	stream  []*events.Event
	failure error // of the stream, before it has stored an event
	lost    error // after it has
	closed  string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, registry: prometheus.NewRegistry()}
	secret := func(text string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) { return text, nil }
	}
	only := func(allowed ...string) func(string) bool {
		return func(source string) bool { return slices.Contains(allowed, source) }
	}
	h.handler = New(Config{
		Senders: []Sender{
			{Name: "ci", Scheme: Token, Secret: secret(ciToken), Format: Events, Sources: []string{"ci", "*.ci"}, MaySource: only("ci", "a.ci"), MayTarget: only("ops", "web")},
			{Name: "old", Scheme: Token, Secret: secret(oldToken), Format: Events, Sources: []string{"**"}, MaySource: only("old"), MaxBytes: 4 << 10, Rate: rate.NewLimiter(1, 3)},
			{Name: "ca", Scheme: Standard, Secret: secret(hookSecret), Format: Events, Sources: []string{"ca"}, MaySource: only("ca")},
			{Name: "hub", Scheme: GitHub, Secret: secret(hubSecret), Format: EJBCA, Sources: []string{"hub"}, MaySource: only("hub")},
			{Name: "step", Scheme: Step, Secret: secret(stepSecret), Format: StepCA, Sources: []string{"step"}, MaySource: only("step")},
			{Name: "short", Scheme: Token, Secret: secret("short"), Format: Events, Sources: []string{"short"}, MaySource: only("short")},
			{Name: "web1", Scheme: Certificate, SAN: "web1.example.com", Format: Events, Sources: []string{"web1"}, MaySource: only("web1")},
		},
		Verify: func([]*x509.Certificate) error { return nil },
		Publish: func(_ context.Context, ev *events.Event) (bool, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.failure != nil {
				return false, h.failure
			}
			known := slices.ContainsFunc(h.stream, func(e *events.Event) bool { return bytes.Equal(e.Encode(), ev.Encode()) })
			if !known {
				h.stream = append(h.stream, ev)
			}
			return known, h.lost
		},
		TooLarge: func(err error) bool { return errors.Is(err, io.ErrShortWrite) },
		Refusals: func(ev *events.Event) []string {
			if ev.PrivateKey != nil && h.closed != "" {
				return []string{h.closed}
			}
			return nil
		},
		Address: func(r *http.Request) string { return r.RemoteAddr },
		Log:     zerolog.New(&h.log),
		Metrics: NewMetrics(h.registry),
	})
	t.Cleanup(func() {
		for _, canary := range []string{"canary", "whsec", hookSecret, stepSecret} {
			if strings.Contains(h.log.String(), canary) {
				t.Errorf("the log has a secret: %s", h.log.String())
			}
		}
	})
	return h
}

// post sends a request; the body of the answer is compact JSON.
func (h *house) post(path, body string, header ...string) (int, string) {
	h.t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Set(name, value)
	}
	return h.serve(r)
}

func (h *house) serve(r *http.Request) (int, string) {
	h.t.Helper()
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	text := strings.TrimSpace(w.Body.String())
	h.described(w.Code, text)
	if w.Code == http.StatusUnauthorized != (w.Header().Get("WWW-Authenticate") != "") {
		h.t.Errorf("%d with WWW-Authenticate %q", w.Code, w.Header().Get("WWW-Authenticate"))
	}
	if (w.Code == http.StatusTooManyRequests || w.Code == http.StatusServiceUnavailable) && w.Header().Get("Retry-After") == "" {
		h.t.Errorf("%d without Retry-After", w.Code)
	}
	return w.Code, text
}

// described compares an answer with openapi.yaml.
func (h *house) described(status int, text string) {
	h.t.Helper()
	schema := description(h.t)[strconv.Itoa(status)]
	if schema == nil {
		h.t.Errorf("openapi.yaml does not have the status %d", status)
		return
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err == nil {
		err = schema.Validate(v)
	}
	if err != nil {
		h.t.Errorf("%d %s: not as openapi.yaml says: %v", status, text, err)
	}
}

// description returns the schemas of the answers by status.
var description = func() func(testing.TB) map[string]*jsonschema.Schema {
	var once sync.Once
	all := map[string]*jsonschema.Schema{}
	return func(t testing.TB) map[string]*jsonschema.Schema {
		once.Do(func() {
			text, err := yaml.YAMLToJSON(OpenAPI)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			compiler := jsonschema.NewCompiler()
			if err := compiler.AddResource("openapi.json", doc); err != nil {
				t.Fatal(err)
			}
			responses := doc.(map[string]any)["paths"].(map[string]any)["/v1/events"].(map[string]any)["post"].(map[string]any)["responses"].(map[string]any)
			for status := range responses {
				media := "application~1json"
				if status[0] != '2' {
					media = "application~1problem+json"
				}
				schema, err := compiler.Compile("openapi.json#/paths/~1v1~1events/post/responses/" + status + "/content/" + media + "/schema")
				if err != nil {
					t.Fatal(err)
				}
				all[status] = schema
			}
		})
		return all
	}
}()

func bearer(token string) string { return "Authorization: Bearer " + token }

var chain = sync.OnceValue(func() string { return lab.SelfSigned("www.example.com") })

func bare(id string, more string) string {
	return fmt.Sprintf(`{"id": %q, "certificate": %q%s}`, id, chain(), more)
}

func structured(id string) string {
	return fmt.Sprintf(`{"specversion": "1.0", "type": "certificate.issued", "source": "test://ca", "id": %q, "data": {"certificate": %q, "targets": ["ops"]}}`, id, chain())
}

// got are "SUBJECT ID" of what the stream has.
func (h *house) got(want ...string) {
	h.t.Helper()
	var all []string
	for _, ev := range h.stream {
		all = append(all, ev.Subject+" "+ev.ID)
	}
	if !slices.Equal(all, want) {
		h.t.Errorf("the stream has %q, want %q", all, want)
	}
}

const ops = `, "targets": ["ops"]`

func TestForms(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, c := range []struct {
		body   string
		header []string
		want   string
	}{
		{bare("bare", ops), nil, `{"id":"bare","duplicate":false}`},
		{bare("bare", ops), nil, `{"id":"bare","duplicate":true}`},
		{structured("one"), []string{"Content-Type: application/cloudevents+json; charset=utf-8"}, `{"id":"one","duplicate":false}`},
		{structured("two"), nil, `{"id":"two","duplicate":false}`},
		{fmt.Sprintf(`{"certificate": %q, "targets": ["web"]}`, chain()), []string{"ce-specversion: 1.0", "ce-type: certificate.issued", "ce-source: test://ca", "ce-id: binary"}, `{"id":"binary","duplicate":false}`},
		{"[" + structured("three") + "," + structured("one") + "]", []string{"Content-Type: application/cloudevents-batch+json"}, `[{"id":"three","duplicate":false},{"id":"one","duplicate":true}]`},
		{"[" + structured("four") + "]", []string{"Content-Type: application/cloudevents-batch+json"}, `[{"id":"four","duplicate":false}]`},
	} {
		if status, text := h.post("/v1/events", c.body, append(c.header, bearer(ciToken))...); status != http.StatusAccepted || text != c.want {
			t.Errorf("%d %s, want %s", status, text, c.want)
		}
	}
	if status, _ := h.post("/v1/events?source=a.ci", bare("elsewhere", ops), bearer(ciToken)); status != http.StatusAccepted {
		t.Errorf("%d", status)
	}
	const at = "certificate.issued.ci "
	h.got(at+"bare", at+"one", at+"two", at+"binary", at+"three", at+"four", "certificate.issued.a.ci elsewhere")
	if log := h.log.String(); strings.Count(log, "published over HTTP") != 9 || !strings.Contains(log, `"sender":"ci"`) {
		t.Errorf("%s", log)
	}
}

// What is refused is refused as a whole, with a reason that quotes nothing.
//
// Fault: POST /v1/events with wrong bodies, content types, sources, targets, or a private key.
// Result: refused with a status and a reason; nothing is stored, nothing is quoted.
func TestRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.closed = "file:/etc/shadow is outside events.file_roots"
	key := string(lab.KeyPEM(t, lab.NewKey(t, "p256")))
	token := bearer(ciToken)
	for _, c := range []struct {
		path, body string
		header     []string
		status     int
		want       string
	}{
		{"", "{", []string{token}, 400, "not valid JSON"},
		{"", `{"id": "x"}`, []string{token}, 400, "$.certificate: required"},
		{"", bare("", ops), []string{token}, 400, "$.id"},
		{"", bare("x", `, "private_key": "`+strings.ReplaceAll(key, "\n", `\n`)+`"`), []string{token}, 400, "private key"},
		{"", bare("x", ops+`, "private_key": {"file": "/etc/shadow"}`), []string{token}, 400, "outside events.file_roots"},
		{"", bare("x", ""), []string{token}, 400, "$.targets: required: ci may send only to some targets"},
		{"", bare("x", `, "targets": ["ops", "others"]`), []string{token}, 400, "$.targets[1]: ci may not send to this target"},
		{"?source=web1", bare("x", ops), []string{token}, 400, "ci may not publish as this source"},
		{"?source=", bare("x", ops), []string{token}, 400, "ci may not publish as this source"},
		{"?source=*", bare("x", ops), []string{token}, 400, "ci may not publish as this source"},
		{"?source=%zz", bare("x", ops), []string{token}, 400, "the query of the address is malformed"},
		{"?source=ci&source=web1", bare("x", ops), []string{token}, 400, "the query of the address is malformed"},
		{"", bare("x", ops), []string{bearer(oldToken)}, 400, "name the source: POST /v1/events?source=SOURCE"},
		{"", "[" + structured("good") + "," + bare("bad", "") + "]", []string{token, "Content-Type: application/cloudevents-batch+json"}, 400, "event 2 of the batch: "},
		{"", "[]", []string{token, "Content-Type: application/cloudevents-batch+json"}, 400, "a batch has 1 to 100 events"},
		{"", "[" + strings.Repeat("{},", MaxBatch) + "{}]", []string{token, "Content-Type: application/cloudevents-batch+json"}, 400, "a batch has 1 to 100 events"},
		{"", structured("x"), []string{token, "Content-Type: application/cloudevents-batch+json"}, 400, "a batch is a JSON list"},
		{"", "[" + structured("x") + "]", []string{token}, 400, ""},
		{"", "a=b", []string{token, "Content-Type: application/x-www-form-urlencoded"}, 415, "send Content-Type"},
		{"", bare("x", ops), []string{token, "Content-Type: text/plain"}, 415, "send Content-Type"},
		{"", bare("x", ops), []string{token, "Content-Type: "}, 415, "send Content-Type"},
		{"", "x", []string{token, "Content-Encoding: gzip"}, 415, "without Content-Encoding"},
		{"", bare("x", ops), []string{token, "Sec-Fetch-Site: cross-site"}, 403, "pages in browsers cannot send events"},
		{"", bare("x", ops), []string{token, "Sec-Fetch-Site: same-origin"}, 403, "pages in browsers cannot send events"},
		{"?source=old", bare("x", `, "labels": {"a": "`+strings.Repeat("x", 5000)+`"}`), []string{bearer(oldToken)}, 413, "more than 4096 bytes"},
		{"", strings.Repeat(" ", MaxBody+1), []string{token}, 413, "more than 4194304 bytes"},
		{"", strings.Repeat(" ", MaxBody), []string{token}, 400, "at most 1048576 are allowed"},
	} {
		status, text := h.post("/v1/events"+c.path, c.body, c.header...)
		if status != c.status || !strings.Contains(text, c.want) || strings.Contains(text, "canary") || strings.Contains(text, "PRIVATE KEY-----") || strings.Contains(text, "stream now holds") {
			t.Errorf("%.60s %q: %d %s, want %d and %s", c.body, c.header, status, text, c.status, c.want)
		}
	}
	h.got()

	// A body without a length is counted as it is read.
	r := httptest.NewRequest(http.MethodPost, "/v1/events", io.MultiReader(strings.NewReader(strings.Repeat(" ", MaxBody+1))))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+ciToken)
	r.ContentLength = -1
	if status, text := h.serve(r); status != 413 {
		t.Errorf("%d %s", status, text)
	}
}

// Fault: POST /v1/events with forged, old or missing tokens and signatures. Result: 401; nothing is
// stored.
func TestProofs(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	body := bare("signed", "")
	now := time.Now()
	standard := func(id string, at time.Time, secret string, body string) []string {
		key, err := Standard.Key(secret)
		if err != nil {
			t.Fatal(err)
		}
		sum := mac(key, []byte(fmt.Sprintf("%s.%d.", id, at.Unix())), []byte(body))
		return []string{"Webhook-Id: " + id, fmt.Sprintf("Webhook-Timestamp: %d", at.Unix()), "Webhook-Signature: v1," + base64.StdEncoding.EncodeToString(sum)}
	}
	several := standard("msg_1", now, hookSecret, body)
	several[2] = "Webhook-Signature: v1a,AAAA v1,AAAA " + strings.TrimPrefix(several[2], "Webhook-Signature: ")
	later := standard("msg_1", now, hookSecret, body)
	later[1] = fmt.Sprintf("Webhook-Timestamp: %d", now.Unix()+1)
	for name, c := range map[string]struct {
		header []string
		status int
	}{
		"nothing":                  {nil, 401},
		"another scheme":           {[]string{"Authorization: Basic Y2k6Y2k="}, 401},
		"wrong token":              {[]string{bearer("canary-token-of-cj")}, 401},
		"empty token":              {[]string{"Authorization: Bearer "}, 401},
		"begin of a token":         {[]string{bearer(ciToken[:10])}, 401},
		"a token that is short":    {[]string{bearer("short")}, 401},
		"signature":                {standard("msg_1", now, hookSecret, body), 202},
		"several signatures":       {several, 202},
		"four minutes old":         {standard("msg_1", now.Add(-4*time.Minute), hookSecret, body), 202},
		"six minutes old":          {standard("msg_1", now.Add(-6*time.Minute), hookSecret, body), 401},
		"six minutes ahead":        {standard("msg_1", now.Add(6*time.Minute), hookSecret, body), 401},
		"another body":             {standard("msg_1", now, hookSecret, body+" "), 401},
		"another secret":           {standard("msg_1", now, hubSecret, body), 401},
		"another time":             {later, 401},
		"without id":               {standard("", now, hookSecret, body), 401},
		"of nothing":               {[]string{"Webhook-Signature: v1,"}, 401},
		"GitHub, wrong":            {[]string{"X-Hub-Signature-256: sha256=00"}, 401},
		"GitHub, without its name": {[]string{"X-Hub-Signature-256: " + hex.EncodeToString(mac([]byte(hubSecret), []byte(body)))}, 401},
		"step, wrong":              {[]string{"X-Smallstep-Signature: zz"}, 401},
	} {
		status, text := h.post("/v1/events", body, c.header...)
		if status != c.status {
			t.Errorf("%s: %d %s, want %d", name, status, text, c.status)
		}
	}
	h.got("certificate.issued.ca signed")

	// While a secret cannot be read, nobody knows whether a token is wrong.
	h.handler.cfg.Senders[5].Secret = func(context.Context) (string, error) { return "", errors.New("Vault is away") }
	if status, _ := h.post("/v1/events", body, bearer("canary-token-of-cj")); status != 503 {
		t.Errorf("%d", status)
	}
	if status, _ := h.post("/v1/events", bare("known", ops), bearer(ciToken)); status != 202 {
		t.Errorf("%d", status)
	}
	if strings.Contains(h.log.String(), "Webhook") {
		t.Errorf("%s", h.log.String())
	}
}

// EJBCA's publisher and step-ca's webhooks: one certificate gives one id.
func TestAdapters(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	gitHub := func(body string) string {
		return "X-Hub-Signature-256: sha256=" + hex.EncodeToString(mac([]byte(hubSecret), []byte(body)))
	}
	step := func(body string) string {
		return "X-Smallstep-Signature: " + hex.EncodeToString(mac([]byte("canary-secret-of-step"), []byte(body)))
	}
	ejbca := func(status string) string { return fmt.Sprintf(`{"status": %q, "pem": %q}`, status, chain()) }
	for _, status := range []string{"Active", "ACTIVE"} {
		if got, text := h.post("/v1/events", ejbca(status), gitHub(ejbca(status))); got != 202 || strings.Contains(text, "allow") {
			t.Errorf("%d %s", got, text)
		}
	}
	for body, want := range map[string]int{ejbca("Revoked"): 200, `{"status": "Active", "pem": ""}`: 400, `{"pem": "x"}`: 400, `{`: 400, `{"status": "Active", "pem": "x"}`: 400} {
		if got, text := h.post("/v1/events", body, gitHub(body)); got != want {
			t.Errorf("%s: %d %s, want %d", body, got, text, want)
		}
	}
	block, _ := pem.Decode([]byte(chain()))
	notify := fmt.Sprintf(`{"timestamp": "2026-11-29T00:00:00Z", "provisionerName": "scep", "x509Certificate": {"raw": %q, "notAfter": "2027-01-01T00:00:00Z"}}`, base64.StdEncoding.EncodeToString(block.Bytes))
	if got, text := h.post("/v1/events", notify, step(notify), "Content-Type: "); got != 202 || !strings.HasSuffix(text, `"duplicate":false,"allow":true}`) {
		t.Errorf("%d %s", got, text)
	}
	failed := `{"x509CertificateRequest": {"raw": "MA=="}, "scepTransactionID": "1", "scepErrorDescription": "canary"}`
	if got, text := h.post("/v1/events", failed, step(failed)); got != 200 || text != `{"allow":true,"ignored":true}` {
		t.Errorf("a certificate that was not signed: %d %s", got, text)
	}
	for _, body := range []string{`{"x509CertificateRequest": {}, "scepChallenge": "x", "scepTransactionID": "1"}`, `{"x509CertificateRequest": {}}`, `{"x509Certificate": {"subject": {}}}`, `[`} {
		if got, text := h.post("/v1/events", body, step(body)); got != 400 {
			t.Errorf("%s: %d %s", body, got, text)
		}
	}
	if len(h.stream) != 2 || h.stream[0].Source != "ejbca://hub" || h.stream[1].Source != "step-ca://step" || h.stream[0].ID == h.stream[1].ID {
		t.Errorf("%d events", len(h.stream))
	}
}

// Fault: the stream does not store an event that was posted, stores it and does not say so, or will
// never take it. Result: 503, and 202 for the repeated event, which is stored once; 413.
func TestStreamThatFails(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.failure = errors.New("no responders")
	for range 2 {
		if status, text := h.post("/v1/events", bare("x", ops), bearer(ciToken)); status != 503 || !strings.Contains(text, "not stored") {
			t.Errorf("%d %s", status, text)
		}
	}
	h.got()
	h.failure, h.lost = nil, errors.New("timeout")
	if status, _ := h.post("/v1/events", bare("x", ops), bearer(ciToken)); status != 503 {
		t.Errorf("%d", status)
	}
	h.lost = nil
	if status, text := h.post("/v1/events", bare("x", ops), bearer(ciToken)); status != 202 || text != `{"id":"x","duplicate":true}` {
		t.Errorf("%d %s", status, text)
	}
	h.got("certificate.issued.ci x")
	h.failure = fmt.Errorf("publish: %w", io.ErrShortWrite)
	if status, _ := h.post("/v1/events", bare("large", ops), bearer(ciToken)); status != 413 {
		t.Errorf("%d", status)
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	now := time.Now()
	h.handler.now = func() time.Time { return now }
	send := func(id string) int {
		status, _ := h.post("/v1/events?source=old", bare(id, ""), bearer(oldToken))
		return status
	}
	var got []int
	for i := range 4 {
		got = append(got, send(fmt.Sprint(i)))
	}
	if !slices.Equal(got, []int{202, 202, 202, 429}) {
		t.Errorf("%v", got)
	}
	if status, _ := h.post("/v1/events", bare("other", ops), bearer(ciToken)); status != 202 {
		t.Errorf("another sender: %d", status)
	}
	now = now.Add(time.Second)
	if got := send("later"); got != 202 {
		t.Errorf("a second later: %d", got)
	}
}

// The page has the description that is served.
func TestDescriptionOnThePage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(lab.Root(), "docs", "schemas", "openapi.yaml"))
	if err != nil || !bytes.Equal(page, OpenAPI) {
		t.Errorf("%v: docs/schemas/openapi.yaml differs from internal/ingest/openapi.yaml: copy it there", err)
	}
	// Its limits are those of the handler.
	for _, want := range []string{fmt.Sprintf("maxItems: %d", MaxBatch), "application/json:", events.ContentType + ":", batchType + ":"} {
		if !strings.Contains(string(OpenAPI), want) {
			t.Errorf("openapi.yaml lacks %s", want)
		}
	}
}
