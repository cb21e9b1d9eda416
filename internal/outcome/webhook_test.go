package outcome

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/webhook"
)

const hookSecret = "sixteen characters"

// receiver is a server that answers as a script says, and keeps what it took.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	script []int // statuses of the first requests; then 200
	tries  int
	took   []*http.Request
	bodies [][]byte
}

func newReceiver(t *testing.T, script ...int) *receiver {
	r := &receiver{script: script}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.tries++
		if len(r.script) > 0 {
			status := r.script[0]
			r.script = r.script[1:]
			w.WriteHeader(status)
			return
		}
		r.took, r.bodies = append(r.took, req), append(r.bodies, body)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.took)
}

func constant(s string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return s, nil }
}

// gathered is the value of a series with a label.
func gathered(t *testing.T, m *Metrics, name, label string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.posts, m.dropped)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, series := range f.GetMetric() {
			for _, l := range series.GetLabel() {
				if f.GetName() == name && l.GetValue() == label {
					return series.GetCounter().GetValue() + series.GetGauge().GetValue()
				}
			}
		}
	}
	return 0
}

// hook is a webhook whose consumer exists.
func (x *fixture) hook(name string, to *receiver) *Webhook {
	x.t.Helper()
	w := &Webhook{Name: name, Feed: x.b.OutcomeFeed(name), Metrics: NewMetrics(prometheus.NewRegistry()), Report: func(error) {}, Log: zerolog.Nop(), standing: standing{first: time.Millisecond},
		To: webhook.Receiver{Setting: "outcomes.webhooks." + name, URL: constant(to.URL), Secret: constant(hookSecret), Format: webhook.Certpost, ContentType: "application/cloudevents+json"}}
	_, err := w.Feed.Fetch(x.t.Context(), 1, 10*time.Millisecond)
	x.must(err)
	return w
}

// Fault: the receiver of a webhook of outcomes answers 500, then 200. Result: it gets each outcome, signed and with the same id; another
// webhook does not wait for it, and what fails is reported.
func TestWebhookFailsThenWorks(t *testing.T) {
	t.Parallel()
	x := open(t)
	bad, good := newReceiver(t, 500, 500, 503), newReceiver(t)
	failing, other := x.hook("failing", bad), x.hook("other", good)
	var mu sync.Mutex
	var reports []error
	failing.Report = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			reports = append(reports, err)
		}
	}
	x.sent("one", "ops")
	x.sent("two", "ops")
	x.all(x.publisher("one", x.b))
	other.Round(t.Context())
	other.Round(t.Context())
	if good.count() != 2 || bad.tries != 0 {
		t.Fatalf("%d outcomes at the other webhook", good.count())
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { failing.Run(ctx); close(ended) }()
	for end := time.Now().Add(30 * time.Second); bad.count() < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d outcomes", bad.count())
		}
	}
	stop()
	<-ended
	mu.Lock()
	defer mu.Unlock()
	if len(reports) == 0 || !strings.HasPrefix(reports[0].Error(), "outcomes.webhooks.failing: the receiver did not take the message (500 Internal Server Error); outcomes that wait for another try: ") {
		t.Errorf("%v", reports)
	}
	seen := map[string]bool{}
	for i, req := range bad.took {
		id, at := req.Header.Get("Webhook-Id"), req.Header.Get("Webhook-Timestamp")
		mac := hmac.New(sha256.New, []byte(hookSecret))
		mac.Write([]byte(id + "." + at + "." + string(bad.bodies[i])))
		e, err := Read(bad.bodies[i])
		if err != nil || e.ID != id || req.Header.Get("Webhook-Signature") != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) || req.Header.Get("Content-Type") != "application/cloudevents+json" {
			t.Errorf("%v: %v %s", err, req.Header, bad.bodies[i])
		}
		seen[id] = true
	}
	if len(seen) != 2 || bad.tries != 5 {
		t.Errorf("%v after %d requests", seen, bad.tries)
	}
	if n := gathered(t, failing.Metrics, "certpost_outcome_posts_total", "failed"); n != 3 {
		t.Errorf("%v failures are counted", n)
	}
}

// answering is a receiver whose answer to an outcome a function gives: a status, and Retry-After.
func answering(t *testing.T, answer func(event string) (status int, after string)) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.tries++
		event, _, _ := strings.Cut(req.Header.Get("Webhook-Id"), "/")
		status, after := answer(event)
		if status != http.StatusOK {
			w.Header().Set("Retry-After", after)
			w.WriteHeader(status)
			return
		}
		r.took, r.bodies = append(r.took, req), append(r.bodies, body)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) tried() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tries
}

// One outcome that the receiver refuses is a failure until it has arrived, also when nothing is due and after other
// outcomes have arrived.
func TestWebhookStaysFailed(t *testing.T) {
	t.Parallel()
	x := open(t)
	var accepts atomic.Bool
	r := answering(t, func(event string) (int, string) {
		if event == "one" && !accepts.Load() {
			return http.StatusBadRequest, ""
		}
		return http.StatusOK, ""
	})
	w := x.hook("hook", r)
	var last error
	w.Report = func(err error) { last = err }
	p := x.publisher("one", x.b)
	x.sent("one", "ops")
	x.all(p)
	for r.tried() < 2 {
		w.Round(t.Context())
	}
	w.look(t.Context())
	if last == nil || !strings.Contains(last.Error(), "(400 Bad Request); outcomes that wait for another try: 1") {
		t.Errorf("%v", last)
	}
	x.sent("two", "ops")
	x.all(p)
	for r.count() == 0 {
		w.Round(t.Context())
	}
	if w.look(t.Context()); last == nil {
		t.Error("another outcome ends the failure")
	}
	// A process that begins now knows it, too.
	var begun error
	next := &Webhook{Name: w.Name, Feed: x.b.OutcomeFeed(w.Name), Metrics: w.Metrics, Report: func(err error) { begun = err }}
	if next.look(t.Context()); begun == nil || begun.Error() != "webhook hook: outcomes that failed and wait for another try: 1" {
		t.Errorf("another process: %v", begun)
	}
	accepts.Store(true)
	for end := time.Now().Add(30 * time.Second); last != nil; w.look(t.Context()) {
		if w.Round(t.Context()); time.Now().After(end) {
			t.Fatal(last)
		}
	}
	if s, err := w.Feed.State(t.Context()); err != nil || s.Waiting != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// Fault: the receiver of a webhook refuses some outcomes, with 400 or 500, and takes the others. Result: no other outcome waits for them, nor for
// a pause; they are tried again until they are taken, and the webhook counts as failed so long.
func TestRefusedOutcomesHoldUpNoOther(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusBadRequest, http.StatusNotFound, http.StatusInternalServerError} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			x := open(t)
			var accepts atomic.Bool
			r := answering(t, func(event string) (int, string) {
				if strings.HasPrefix(event, "bad") && !accepts.Load() {
					return status, ""
				}
				return http.StatusOK, ""
			})
			w := x.hook("hook", r)
			w.standing.first = 0 // the pauses of the product
			for _, id := range []string{"bad1", "bad2", "bad3", "good1", "good2", "good3", "bad4", "good4"} {
				x.sent(id, "ops")
			}
			x.all(x.publisher("one", x.b))
			for range 8 {
				if pause := w.standing.wait(atOnce-1, time.Now()); pause > 0 {
					t.Fatalf("the webhook pauses for %s", pause)
				}
				w.Round(t.Context())
			}
			if r.count() != 4 {
				t.Errorf("%d outcomes were taken", r.count())
			}
			if s, err := w.Feed.State(t.Context()); err != nil || s.Waiting != 4 {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

// Fault: the receiver of a webhook answers 429 or 503 with Retry-After. Result: it gets nothing before that time, and then one outcome to try.
func TestRetryAfterPausesTheWebhook(t *testing.T) {
	t.Parallel()
	x := open(t)
	r := answering(t, func(string) (int, string) { return http.StatusTooManyRequests, "120" })
	w := x.hook("hook", r)
	var last error
	w.Report = func(err error) { last = err }
	x.sent("one", "ops")
	x.sent("two", "ops")
	x.all(x.publisher("one", x.b))
	w.Round(t.Context())
	now := time.Now()
	for worker := range atOnce {
		if pause := w.standing.wait(worker, now); pause < 110*time.Second || pause > 2*time.Minute {
			t.Errorf("worker %d waits for %s", worker, pause)
		}
	}
	if last == nil || !strings.Contains(last.Error(), "(429 Too Many Requests); it asks to wait for 2m0s") {
		t.Errorf("%v", last)
	}
	if w.look(t.Context()); last == nil {
		t.Error("while nothing is due the webhook does not count as failed")
	}
	later := now.Add(121 * time.Second)
	if w.standing.wait(0, later) != 0 || w.standing.wait(1, later) == 0 {
		t.Error("want one worker to try, and the others to wait for its result")
	}
}

// Fault: the process is killed between the answer of the receiver and its note of it. Result: the outcome is posted again, with the same id.
func TestWebhookPostsAgainAfterAKill(t *testing.T) {
	t.Parallel()
	x := open(t)
	r := newReceiver(t)
	w := x.hook("hook", r)
	x.sent("one", "ops")
	x.all(x.publisher("one", x.b))
	batch, err := w.Feed.Fetch(t.Context(), 1, 5*time.Second)
	x.must(err)
	e, err := Read(batch[0].Data)
	x.must(err)
	x.must(w.To.Post(t.Context(), e.ID, func(string) ([]byte, error) { return e.Body(webhook.Certpost, "") })) // and is killed
	x.must(batch[0].Again(time.Millisecond))                                                                   // as the end of its acknowledgement wait
	w.Round(t.Context())
	if len(r.took) != 2 || r.took[0].Header.Get("Webhook-Id") != r.took[1].Header.Get("Webhook-Id") {
		t.Errorf("%d requests", len(r.took))
	}
}

// A webhook gets the types and targets that it wants.
func TestWebhookSelects(t *testing.T) {
	t.Parallel()
	x := open(t)
	r := newReceiver(t)
	w := x.hook("hook", r)
	w.Types, w.Targets = []Type{Dead, Delivered}, []string{"ops"}
	x.letter("bad", "ops")
	x.letter("bad2", "others")
	x.sent("good", "ops")
	x.put("ops.skip", func(e *broker.Entry) { *e = entry("skip", "ops"); e.State, e.Receipt = broker.StateSkipped, nil })
	x.all(x.publisher("one", x.b))
	for range 4 {
		w.Round(t.Context())
	}
	if len(r.took) != 2 {
		t.Errorf("%d outcomes: %s", len(r.took), r.bodies)
	}
	s, err := w.Feed.State(t.Context())
	x.must(err)
	if s.Waiting != 0 || s.Dropped != 0 {
		t.Errorf("%+v", s)
	}
}

// What the limits of the stream remove before the webhook has it is counted.
//
// Fault: a webhook of outcomes is away for longer than outcomes.max_age. Result: the number of outcomes that it will never get is in the
// log and the metrics.
func TestWebhookMissesOutcomes(t *testing.T) {
	t.Parallel()
	x := open(t)
	w := x.hook("hook", newReceiver(t))
	for _, id := range []string{"a", "b", "c"} {
		x.sent(id, "ops")
	}
	x.all(x.publisher("one", x.b))
	stream, err := x.b.JetStream().Stream(t.Context(), broker.OutcomesStream)
	x.must(err)
	first := stream.CachedInfo().State.LastSeq - 2
	for n := range uint64(2) { // as its limits do
		x.must(stream.DeleteMsg(t.Context(), first+n))
	}
	x.must(stream.DeleteMsg(t.Context(), 1)) // the first position
	s, err := w.Feed.State(t.Context())
	x.must(err)
	if s.Waiting == 0 || s.Dropped < 2 {
		t.Errorf("%+v", s)
	}
	var log bytes.Buffer
	w.Log = zerolog.New(&log)
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	w.watch(ctx)
	if !strings.Contains(log.String(), "outcomes that the webhook does not have") || gathered(t, w.Metrics, "certpost_outcome_webhook_dropped", "hook") < 2 {
		t.Errorf("log: %s", log.String())
	}
}
