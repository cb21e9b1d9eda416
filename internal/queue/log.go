package queue

import (
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/verdict"
)

// log writes one line with all the facts about the outcome of an attempt. With msg ""
// the message follows from the outcome. The level is error when the outcome could not
// be stored, warn for a dead letter, debug for a duplicate, and info otherwise.
func (j *job) log(msg, outcome string, f *verdict.Failure) {
	level := zerolog.InfoLevel
	switch outcome {
	case "dead":
		level = zerolog.WarnLevel
	case "dead_letter_not_stored", "not_recorded":
		level = zerolog.ErrorLevel
	case "duplicate":
		level = zerolog.DebugLevel
	}
	if r := j.entry.Receipt; r != nil && len(r.Warnings) > 0 && level == zerolog.InfoLevel {
		level = zerolog.WarnLevel
	}
	line := j.r.log.WithLevel(level)
	if j.event != nil {
		line.Str("event", j.event.ID)
	}
	line.Str("target", j.target).Str("lane", j.lane.name).Str("outcome", outcome).
		Int("attempt", j.entry.Attempts).Int("generation", max(j.gen, 1))
	if !j.since.IsZero() {
		line.Dur("age_ms", time.Since(j.since))
	}
	if f != nil {
		line.Str("code", string(f.Code)).Str("phase", string(f.Phase)).Str("reason", f.Reason).Str("certainty", string(f.Definite().Certainty))
		if f.ReplyCode != 0 {
			line.Int("reply_code", f.ReplyCode).Str("enhanced_code", f.EnhancedCode)
		}
	}
	if f != nil && f.Rollback != "" {
		line.Str("rollback", string(f.Rollback))
	}
	if r := j.entry.Receipt; r != nil && (outcome == "sent" || outcome == "not_recorded" || outcome == "retry" || outcome == "dead") {
		if r.OnHost() {
			deployed(line, r)
		} else {
			if f == nil || f.ReplyCode == 0 {
				line.Int("reply_code", r.ReplyCode)
			}
			delivered(line, r)
		}
		if len(r.Warnings) > 0 {
			line.Strs("warnings", r.Warnings)
		}
		if r.Certificate != nil {
			line.Str("cn", r.Certificate.Name()).Str("fingerprint", r.Certificate.Fingerprint)
		}
		if j.r.set.LogAddresses {
			line.Strs("addresses", r.Recipients)
		}
	}
	if r := j.entry.Receipt; msg == "" && outcome == "sent" && r != nil && r.OnHost() {
		msg = map[string]string{"deployed": "deployed", "unchanged": "the files had this certificate already; nothing was written or reloaded"}[r.State]
	}
	if msg == "" {
		msg = map[string]string{
			"sent": "delivered", "dead": "dead letter", "retry": "failed; it will be retried", "skipped": "skipped: the target has a newer certificate", "duplicate": "already delivered; acknowledged without sending",
			"relay_failed": "the relay failed; the delivery waits",
		}[outcome]
	}
	line.Msg(msg)
}

// delivered adds the facts of a mail that a relay has accepted, at least for some recipients.
func delivered(line *zerolog.Event, r *verdict.Receipt) {
	line.Str("relay", r.Relay).Str("tls", r.TLS).Str("queue_id", r.QueueID).
		Str("message_id", r.MessageID).Int("size", r.Size).Int("recipients", len(r.Recipients)).
		Dur("secrets_ms", r.Timings.Secrets).Dur("render_ms", r.Timings.Render).Dur("dial_ms", r.Timings.Dial).
		Dur("send_ms", r.Timings.Send).Dur("total_ms", r.Timings.Total)
}

// deployed adds the facts of a deployment, which has no relay; tls only if its result was verified.
func deployed(line *zerolog.Event, r *verdict.Receipt) {
	line.Str("host", r.Host).Str("result", r.State).Strs("files", r.Files).Bool("rollback_available", r.RollbackAvailable)
	if r.TLS != "" {
		line.Str("tls", r.TLS)
	}
	line.Dur("secrets_ms", r.Timings.Secrets).Dur("deploy_ms", r.Timings.Send).Dur("total_ms", r.Timings.Total)
}
