package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/config"
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

// inspectWebhooks checks the addresses and keys of webhooks that stand in files and variables of this machine, by the rules by which
// they are used. What is not there yet, or is in Vault, only a live check can judge.
func (c *Config) inspectWebhooks(ctx context.Context) []config.Problem {
	var f findings
	store, err := secrets.Open(secrets.Config{}, zerolog.Nop()) // without Vault
	if err != nil {
		return nil
	}
	defer store.Close()
	inspect := func(path string, ref secrets.Ref, rule func(string) error) {
		if ref.File == "" && ref.Env == "" && ref.Credential == "" {
			return
		}
		if text, err := reader(store, ref)(ctx); err == nil {
			if wrong := rule(strings.TrimSpace(text)); wrong != nil {
				f.err(path, ref.String()+" "+wrong.Error())
			}
		}
	}
	one := func(path string, url, secret secrets.Ref, format string) {
		inspect(path+".url", url, webhook.CheckURL)
		inspect(path+".secret", secret, func(text string) error { return webhook.CheckSecret(webhook.Format(format), text) })
	}
	one("alerts.webhook", c.Alerts.Webhook.URL, c.Alerts.Webhook.Secret, c.Alerts.Webhook.Format)
	for _, name := range slices.Sorted(maps.Keys(c.Outcomes.Webhooks)) {
		w := c.Outcomes.Webhooks[name]
		one("outcomes.webhooks."+name, w.URL, w.Secret, w.format())
	}
	return f
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
