package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/spool"
)

// send publishes an event, behind what waits in the spool. It is kept there first, so that it
// is not lost with this process: a client runs its hook once for each certificate.
func (c *publishCmd) send(a *app, cfg *Config, e *spool.Entry) error {
	out := a.outbox(cfg, func(text string) { fmt.Fprintln(a.stderr, "certpost: warning:", text) })
	defer out.close()
	notKept := out.add(a.ctx, e)
	if c.From != "" && notKept == nil {
		out.remember(a.ctx, e)
	}
	ctx, cancel := context.WithTimeout(a.ctx, publishTimeout)
	defer cancel()
	err := out.dial(ctx)
	if err == nil {
		err = c.checkID(ctx, a, out.broker, e.Event)
	}
	if failed := (*failure)(nil); errors.As(err, &failed) && failed.code == exitUsage {
		return errors.Join(err, out.discard(e))
	}
	var result *publishedEvent
	if err == nil {
		var others []spool.Failure
		result, others, err = out.publish(ctx, e, notKept == nil)
		c.complain(a, others)
	}
	refusal := (*spool.Refusal)(nil)
	switch {
	case err == nil:
		if c.From != "" && notKept != nil {
			out.remember(a.ctx, e)
		}
		return c.report(a, e.Event.ID, result)
	case errors.As(err, &refusal), errors.Is(err, secrets.ErrNotFound): // no Vault, or no such engine: the command is wrong
		return errors.Join(err, out.discard(e))
	case notKept != nil:
		return fmt.Errorf("event %s is not published (%w), and not kept either (%w): repeat the command once one of them is fixed%s", e.Event.ID, err, notKept, c.repeatHint())
	}
	return c.kept(a, out.spool, e, err)
}

// repeatHint says how to publish the certificate of a hook again: the client will not call
// its hook for this certificate again.
func (c *publishCmd) repeatHint() string {
	if c.From == "" {
		return ""
	}
	return " (by hand with certpost publish --cert FILE; " + c.From + " does not call its hook again before the next renewal)"
}

// discard takes an entry out of the spool that was never to be published.
func (o *outbox) discard(e *spool.Entry) error {
	if e.Number == 0 {
		return nil
	}
	return errors.Join(o.spool.Remove(e.Number), o.spool.Forget(context.Background(), e.Event.ID))
}

// remember records that an event was published, or waits in the spool. It comes after the
// spool, so what is remembered is not lost.
func (o *outbox) remember(ctx context.Context, e *spool.Entry) {
	leaf, err := e.Event.Leaf()
	if err == nil {
		err = o.spool.Remember(context.WithoutCancel(ctx), map[string]time.Time{e.Event.ID: leaf.NotAfter})
	}
	if err != nil {
		o.warn("the certificate may be published once more: " + err.Error())
	}
}

// publish publishes what waits in the spool and then, if it is not kept there, the event. The
// result is nil if another process has published it. others are failures of other events.
func (o *outbox) publish(ctx context.Context, e *spool.Entry, kept bool) (result *publishedEvent, others []spool.Failure, err error) {
	if !kept {
		o.added[e.Number] = &publishedEvent{}
		others, _ = o.flush(ctx)
		return o.added[e.Number], others, o.send(ctx, e)
	}
	failures, err := o.flush(ctx)
	var own error
	for _, f := range failures {
		if f.Entry != nil && f.Entry.Number == e.Number {
			own = f.Err
		} else {
			others = append(others, f)
		}
	}
	switch reason, waits, stateErr := o.spool.Find(e.Number); {
	case o.added[e.Number] != nil && o.added[e.Number].done:
		return o.added[e.Number], others, nil // an error of the spool is about what comes after it
	case own != nil:
		return nil, others, own
	case reason != "": // by another process
		return nil, others, &spool.Refusal{Err: errors.New(reason)}
	case err != nil:
		return nil, others, err
	case waits && len(others) > 0: // NATS was lost before it was its turn
		return nil, others, others[len(others)-1].Err
	case waits:
		return nil, others, errors.Join(errNotItsTurn, ctx.Err())
	default:
		return nil, others, stateErr
	}
}

var errNotItsTurn = errors.New("its turn in the spool did not come")

// kept says that an event waits in the spool. A script learns it from the exit code. A hook
// ends well: nothing is lost, dehydrated would stop before the other certificates, lego and
// step would report a renewal that has worked as failed, and no client calls its hook again.
func (c *publishCmd) kept(a *app, s *spool.Spool, e *spool.Entry, why error) error {
	fmt.Fprintf(a.stderr, "certpost: event %s is not published yet: %v; it is kept in %s, and published by the next certpost publish, by certpost publish --flush, or by a running certpost watch\n",
		e.Event.ID, why, s.Dir())
	if c.Output == "json" {
		if err := a.json(map[string]any{"id": e.Event.ID, "kept": true, "spool": s.Dir()}); err != nil {
			return err
		}
	}
	if c.From != "" {
		return nil
	}
	return &failure{code: exitKept}
}

func (c *publishCmd) report(a *app, id string, r *publishedEvent) error {
	if c.Output == "json" {
		if r == nil {
			return a.json(map[string]any{"id": id, "by_another_process": true})
		}
		return a.json(map[string]any{"id": id, "sequence": r.sequence, "duplicate": r.duplicate})
	}
	switch {
	case r == nil:
		fmt.Fprintf(a.stdout, "event %s was published by another certpost on this host\n", id)
	case r.duplicate:
		fmt.Fprintf(a.stdout, "event %s was published already\n", id)
	default:
		fmt.Fprintf(a.stdout, "event %s published (sequence %d)\n", id, r.sequence)
	}
	return nil
}

// complain prints what could not be published, besides what this command is about.
func (c *publishCmd) complain(a *app, failures []spool.Failure) {
	for _, f := range failures {
		if f.Entry == nil {
			fmt.Fprintf(a.stderr, "certpost: a file of the spool cannot be published: %v\n", f.Err)
			continue
		}
		id, what := "event "+f.Entry.Event.ID, "waits"
		if refusal := (*spool.Refusal)(nil); errors.As(f.Err, &refusal) {
			what = "is set aside and will not be published"
		}
		fmt.Fprintf(a.stderr, "certpost: %s %s: %v\n", printable(id), what, f.Err)
	}
}

// flushQuietly publishes what waits, if something does. A hook has nothing to say about it.
func (c *publishCmd) flushQuietly(a *app, cfg *Config) error {
	if state, err := cfg.spool().State(); err != nil || state.Waiting == 0 {
		return err
	}
	out := a.outbox(cfg, func(text string) { fmt.Fprintln(a.stderr, "certpost: warning:", text) })
	defer out.close()
	ctx, cancel := context.WithTimeout(a.ctx, publishTimeout)
	defer cancel()
	err := out.dial(ctx)
	var failures []spool.Failure
	if err == nil {
		failures, err = out.flush(ctx)
	}
	c.complain(a, failures)
	if err != nil {
		fmt.Fprintln(a.stderr, "certpost: what waits in the spool is not published yet:", err)
	}
	return nil
}

// flushTimeout bounds --flush: a full spool takes longer than a hook may.
const flushTimeout = 10 * time.Minute

// flushSpool publishes what waits. It fails if something still waits afterwards, or cannot be read.
func (c *publishCmd) flushSpool(a *app, cfg *Config) error {
	out := a.outbox(cfg, func(text string) { fmt.Fprintln(a.stderr, "certpost: warning:", text) })
	defer out.close()
	before, err := out.spool.State()
	if err != nil {
		return err
	}
	failures := before.Damaged()
	if before.Waiting > 0 {
		ctx, cancel := context.WithTimeout(a.ctx, flushTimeout)
		defer cancel()
		if err := out.dial(ctx); err != nil {
			return fmt.Errorf("%s in %s: %w", waitingText(before, time.Now()), out.spool.Dir(), err)
		}
		if failures, err = out.flush(ctx); err != nil {
			return err
		}
	}
	c.complain(a, failures)
	after, err := out.spool.State()
	if err != nil {
		return err
	}
	if c.Output == "json" {
		err = a.json(map[string]any{"published": out.published, "spool": after})
	} else {
		_, err = fmt.Fprintf(a.stdout, "%s published from %s, %s\n", count(out.published, "event"), after.Dir, count(after.Waiting, "waits", "wait"))
	}
	if err == nil && len(failures) > 0 {
		err = &failure{code: exitFailed}
	}
	return err
}
