package webhook

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What an answer says about the next try.
//
// Fault: the receiver of a webhook asks to wait, with Retry-After in seconds or as a date. Result: it is waited for so long, at most 30 minutes, and what is no
// time is ignored.
func TestFailures(t *testing.T) {
	t.Parallel()
	date := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) // of the receiver, whose clock is not ours
	at := func(d time.Duration) string { return date.Add(d).Format(http.TimeFormat) }
	for name, c := range map[string]struct {
		status        int
		after         string
		away, refused bool
		want          time.Duration
	}{
		"bad request":                {400, "", false, true, 0},
		"no access":                  {401, "", true, false, 0},
		"forbidden":                  {403, "", false, true, 0},
		"not found":                  {404, "", false, true, 0},
		"gone":                       {410, "", true, false, 0},
		"too large":                  {413, "", false, true, 0},
		"too large for now":          {413, "10", true, false, 10 * time.Second},
		"redirect":                   {307, "", true, false, 0},
		"fault":                      {500, "", false, false, 0},
		"unavailable":                {503, "", false, false, 0},
		"too many":                   {429, "", true, false, 0},
		"too many, seconds":          {429, "17", true, false, 17 * time.Second},
		"unavailable, seconds":       {503, "120", true, false, 2 * time.Minute},
		"unavailable, date":          {503, at(90 * time.Second), true, false, 90 * time.Second},
		"a day":                      {429, "86400", true, false, MaxRetryAfter},
		"more than a number holds":   {429, strings.Repeat("9", 40), true, false, MaxRetryAfter},
		"a date next year":           {503, at(365 * 24 * time.Hour), true, false, MaxRetryAfter},
		"a date that is over":        {503, at(-time.Hour), false, false, 0},
		"no time":                    {503, "soon", false, false, 0},
		"a negative time":            {503, "-5", false, false, 0},
		"zero":                       {429, "0", true, false, 0},
		"a date in the old notation": {503, date.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT"), true, false, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", at(0))
				if c.after != "" {
					w.Header().Set("Retry-After", c.after)
				}
				w.WriteHeader(c.status)
			}))
			t.Cleanup(server.Close)
			var f *Failure
			err := Receiver{Setting: "alerts.webhook", URL: text(server.URL), Format: Slack}.Post(t.Context(), "ID1", hello)
			if !errors.As(err, &f) || f.Away != c.away || f.Refused != c.refused || f.RetryAfter != c.want {
				t.Fatalf("%+v, %v", f, err)
			}
			if asks := "it asks to wait for " + c.want.String(); strings.Contains(err.Error(), asks) != (c.want > 0) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A receiver that got nothing is away; one that did not answer may dislike the message.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	closing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }))
	t.Cleanup(closing.Close)
	gone := httptest.NewServer(nil)
	gone.Close()
	for address, away := range map[string]bool{closing.URL: false, gone.URL: true, "https" + strings.TrimPrefix(closing.URL, "http"): true} {
		var f *Failure
		if err := (Receiver{URL: text(address), Format: Slack}).Post(t.Context(), "ID1", hello); !errors.As(err, &f) || f.Away != away || f.Refused {
			t.Errorf("%s: %+v %v", address, f, err)
		}
	}
}
