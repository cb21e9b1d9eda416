package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/html"

	"github.com/certpost/certpost/internal/desk"
)

// replayed is the result of a replay run.
type replayed struct {
	letters   int
	confirm   time.Duration // until the confirmation page was loaded
	begin     time.Duration // until the request was accepted
	published time.Duration // until the last letter was published
	took      time.Duration // until all had arrived
	pages     []measured    // in the meantime
	live      times         // of events published in the meantime
	most      float64       // MiB
}

// replay replays all letters of one cause through the confirmation page, as an operator
// does, and requests pages until all have arrived.
func replay(ctx context.Context, f *office, t *town) (r replayed, err error) {
	var o desk.Overview
	if err := f.ask(ctx, "/", &o); err != nil {
		return r, err
	}
	cause := ""
	for _, g := range o.Groups {
		if g.EnhancedCode == "5.1.1" {
			cause = g.Fingerprint
		}
	}
	if cause == "" {
		return r, fmt.Errorf("the %s store has no letters of the kind refused: %+v", f.name, o.Groups)
	}
	p, err := f.get(ctx, "/dead-letters/confirm?action=replay&all=yes&group="+cause)
	if err != nil {
		return r, err
	}
	r.confirm = p.took
	if p, err = f.wants(http.StatusOK, "the confirmation")(f.do(ctx, http.MethodGet, "/dead-letters/confirm?action=replay&all=yes&group="+cause, "", "text/html", "identity")); err != nil {
		return r, err
	}
	fields, err := form(string(p.body), "/dead-letters/bulk")
	if err != nil {
		return r, err
	}
	fields.Set("reason", "the addresses exist again")
	if err := t.refuse(false); err != nil {
		return r, err
	}
	began := time.Now()
	p, err = f.wants(http.StatusSeeOther, "the replay request")(f.do(ctx, http.MethodPost, "/dead-letters/bulk", fields.Encode(), "text/html", "identity"))
	if err != nil {
		return r, err
	}
	r.begin = p.took
	to, _, _ := strings.Cut(p.header.Get("Location"), "?")

	under, done := context.WithCancel(ctx)
	defer done()
	seen, live := make(chan error, 1), make(chan error, 1)
	go func() {
		var err error
		r.pages, err = measure(ctx, under, 1<<20, 4*pause, f) // about as a few users do
		seen <- err
	}()
	go func() {
		var err error
		r.live, err = traffic(ctx, under, f, t.relays[0], "replay")
		live <- err
	}()
	var run desk.Run
	err = f.poll(ctx, 20*time.Minute, "the replay", func() error {
		run = desk.Run{}
		if err := f.ask(ctx, to, &run); err != nil {
			return err
		}
		if r.letters = run.Spec.Frozen.Count; run.Published == r.letters && r.published == 0 {
			r.published = time.Since(began)
		}
		if run.Ended.IsZero() {
			return fmt.Errorf("of %d letters %d are published and %d delivered", r.letters, run.Published, run.Delivered)
		}
		r.took = time.Since(began)
		return nil
	})
	done()
	err = errors.Join(err, <-seen, <-live)
	if err == nil && (run.Delivered < r.letters || r.letters == 0) {
		err = fmt.Errorf("the replay is %s: %s; of %d letters %d were delivered, %d are dead again, %d gone, %d failed", run.State, run.Why, r.letters, run.Delivered, run.DeadAgain, run.Gone, run.Failed)
	}
	_, r.most = f.memory()
	return r, err
}

// form returns the hidden fields of the page's form with this action. It selects no
// checkboxes.
func form(page, action string) (url.Values, error) {
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		return nil, err
	}
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode || n.Data != "form" || attribute(n, "action") != action {
			continue
		}
		fields := url.Values{}
		for in := range n.Descendants() {
			if in.Type == html.ElementNode && in.Data == "input" && attribute(in, "type") == "hidden" {
				fields.Add(attribute(in, "name"), attribute(in, "value"))
			}
		}
		return fields, nil
	}
	return nil, fmt.Errorf("the page has no form for %s", action)
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
