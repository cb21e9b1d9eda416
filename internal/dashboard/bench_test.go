package dashboard

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/lab"
)

// filled is an office with the given number of dead letters of six causes, written as
// the courier writes them.
func filled(b *testing.B, letters int) *office {
	b.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	address := free.Addr().String()
	must(b, free.Close())
	o := openOffice(b, officeConfig{listen: address})
	nc := lab.Admin(b, "nats://"+address, o.dataDir)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(2000))
	must(b, err)
	certificate := selfSigned(b, "web1.example.com")
	for n := range letters {
		code := []string{"SMTP_AUTH", "SMTP_PERMANENT", "SMTP_TLS"}[n%3]
		lane, target, event := fmt.Sprintf("relay-%d", n%2), fmt.Sprintf("target-%d", n%300), fmt.Sprintf("01JD%022d", n)
		m := nats.NewMsg("certpost.dead." + code + "." + lane + "." + target + "." + event)
		m.Data = fmt.Appendf(nil, `{"id":%q,"certificate":%q,"targets":[%q]}`, event, certificate, target)
		for _, header := range [][2]string{{"Event-Id", event}, {"Target", target}, {"Lane", lane}, {"Generation", "1"}, {"Code", code}, {"Phase", "rcpt"},
			{"Reason", "the relay refused the recipient; fix that and replay"}, {"Reply-Code", "550"}, {"Enhanced-Code", "5.1.1"}, {"Reply", "no such user"}, {"Attempts", "1"},
			{"First-Attempt", "2026-11-21T04:00:00Z"}, {"Last-Attempt", "2026-11-21T04:00:01Z"}, {"Certainty", "not-sent"}, {"Recipients", "ops@example.com"},
			{"Replay-Subject", "certpost.delivery." + lane + "." + target}} {
			m.Header.Set("Certpost-"+header[0], header[1])
		}
		_, err := js.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute))
		must(b, err)
	}
	<-js.PublishAsyncComplete()
	deadline := time.Now().Add(3 * time.Minute)
	for o.desk.Balance().Open < letters {
		if time.Now().After(deadline) {
			b.Fatalf("the index has only %d of %d letters", o.desk.Balance().Open, letters)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return o
}

// BenchmarkPages measures the server's time for a page: guard, desk, template and
// compression. With 100,000 letters it must be under 100 ms, and at most 1.5 times the
// time with 1,000 letters.
func BenchmarkPages(b *testing.B) {
	for _, letters := range []int{1_000, 100_000} {
		o := filled(b, letters)
		for _, page := range []struct{ name, path string }{
			{"overview", "/"}, {"list", "/dead-letters"}, {"causes", "/dead-letters?view=groups"}, {"by_expiry", "/dead-letters?order=expiry"}, {"one_code", "/dead-letters?code=SMTP_AUTH"},
			{"one_target", "/dead-letters?target=target-7"}, {"search", "/dead-letters?q=no+such+user"}, {"news", "/dead-letters/news?newer_than=900"}, {"letter", "/dead-letters/500"},
		} {
			b.Run(fmt.Sprintf("%s/%d", page.name, letters), func(b *testing.B) {
				for b.Loop() {
					r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+page.path, nil)
					r.Header.Set("Accept", "text/html")
					r.Header.Set("Accept-Encoding", "gzip")
					w := httptest.NewRecorder()
					o.handler.ServeHTTP(w, r)
					if w.Code != http.StatusOK {
						b.Fatalf("%s answers %d", page.path, w.Code)
					}
				}
			})
		}
	}
}

// BenchmarkExport writes 100,000 letters as CSV.
func BenchmarkExport(b *testing.B) {
	const letters = 100_000
	o := filled(b, letters)
	for b.Loop() {
		r := httptest.NewRequest(http.MethodGet, "http://127.0.0.1/dead-letters.csv", nil)
		w := httptest.NewRecorder()
		o.handler.ServeHTTP(w, r)
		if n := strings.Count(w.Body.String(), "\n"); n != letters+1 {
			b.Fatalf("the CSV has %d lines, want %d", n, letters+1)
		}
	}
}
