package main

import (
	"context"

	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/webhook"
)

// checkWebhook checks the receiver of a webhook that is configured at a path.
func checkWebhook(f *findings, path string, url, secret secrets.Ref, format webhook.Format) {
	if err := url.Validate(); err != nil {
		f.err(path+".url", err.Error())
	} else if text := url.Value.Reveal(); text != nil {
		if err := webhook.CheckURL(string(text)); err != nil {
			f.err(path+".url", err.Error())
		}
		if format == webhook.Slack || format == webhook.Teams {
			f.warn(path+".url", "is in the configuration, and every reader of that can post there; use a secret reference")
		}
	}
	switch {
	case secret.IsZero() && format == webhook.PagerDuty:
		f.err(path+".secret", "is required: the integration key of PagerDuty")
	case secret.IsZero() && format.NeedsSecret():
		f.err(path+".secret", "is required: the receiver verifies with it that a message is from Certpost")
	case secret.IsZero():
	case !format.NeedsSecret():
		f.err(path+".secret", "has no use with format "+string(format)+": its address is the secret")
	default:
		if err := secret.Validate(); err != nil {
			f.err(path+".secret", err.Error())
			return
		}
		if text := secret.Value.Reveal(); text != nil {
			if err := webhook.CheckSecret(format, string(text)); err != nil {
				f.err(path+".secret", err.Error())
			}
		}
		if warning := secret.Warning(); warning != "" {
			f.warn(path+".secret", warning)
		}
	}
}

// openWebhook returns the receiver with its secrets.
func openWebhook(store *secrets.Store, path string, url, secret secrets.Ref, format string) webhook.Receiver {
	return webhook.Receiver{Setting: path, URL: reader(store, url), Secret: reader(store, secret), Format: webhook.Format(format)}
}

// probeWebhook checks the secrets of a webhook, and whether the receiver answers. It posts nothing. section is
// that of the configuration, what names the webhook in it.
func probeWebhook(ctx context.Context, store *secrets.Store, section, what string, to webhook.Receiver, url, secret secrets.Ref, good string) (found []finding) {
	for _, one := range []struct {
		what string
		ref  secrets.Ref
	}{{what + " url", url}, {what + " secret", secret}} {
		if !one.ref.IsZero() {
			found = append(found, secretFindings(ctx, store, section, one.what, one.ref)...)
		}
	}
	f := finding{section, what, "ok", good}
	if err := to.Check(ctx); err != nil {
		f.Status, f.Message = "error", err.Error()
	}
	return append(found, f)
}
