package delivery

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// generatePassphrase gets the passphrase that Certpost makes for the certificate: the same
// for every attempt, replay and process. It is in Vault before the file is made. A mail that is
// not sent gets the one that is there, or else one that nobody learns: looking at a mail
// changes nothing.
func (c *Courier) generatePassphrase(ctx context.Context, t *Target, p *provisions) *verdict.Failure {
	place, of := t.passphrase().Place(), artefactOf(p.bundle)
	generate := c.store.Generate
	if p.trial {
		generate = c.store.FindGenerated
	} else if failure := c.worthAPassphrase(t, p); failure != nil {
		return failure
	}
	made, err := generate(ctx, place, p.vars, of)
	switch {
	case err == nil:
		p.passphrase, p.passphraseAt = made.Value.Reveal(), made.Ref
		unpinned, _ := place.Filled(p.vars)
		p.remember(unpinned, made.Secret)
		return nil
	case p.trial && errors.Is(err, secrets.ErrNotFound):
		p.passphrase = []byte(rand.Text())
		p.passphraseAt, err = place.Filled(p.vars)
	}
	if err != nil {
		return secretFailure(err)
	}
	return nil
}

// worthAPassphrase returns why the file cannot be made, as far as that is known without a
// passphrase: none is left in Vault for a mail that is refused anyway.
func (c *Courier) worthAPassphrase(t *Target, p *provisions) *verdict.Failure {
	if _, err := c.certificateWarnings(t, p.bundle, time.Now()); err != nil {
		return asFailure(err)
	}
	settings := t.settings(p.vars)
	err := settings.RequireKey(len(p.key) > 0)
	if err == nil && settings.NeedsKey() {
		err = payload.CheckKey(p.key, p.bundle.Leaf)
	}
	if err != nil {
		return asFailure(err)
	}
	return nil
}

// artefactOf names what a passphrase is made for: the SHA-256 of the certificate. Where it is
// stored tells targets apart.
func artefactOf(b *payload.Bundle) string {
	sum := sha256.Sum256(b.Leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// probeGenerated checks, without making one, that a passphrase could be made for the target.
func (c *Courier) probeGenerated(ctx context.Context, t *Target, vars secrets.Vars) (all []verdict.Finding) {
	place := t.passphrase().Place()
	example := ""
	if needsCertificate(place) && vars["cn"] == "" {
		// Policies are written for all names: any name stands for them.
		example = " (" + exampleName + " stands for the name of any certificate)"
		vars = secrets.Vars{"host": vars["host"], "target": vars["target"], "cn": exampleName, "domain": exampleName}
	}
	found, err := c.store.CheckGenerate(ctx, place, vars)
	if err != nil {
		return []verdict.Finding{{What: "secret", Status: verdict.Error, Message: err.Error() + example}}
	}
	all = append(all, verdict.Finding{What: "secret", Status: verdict.OK, Message: place.String() + ": passphrases can be stored there"})
	for _, w := range found.Warnings {
		all = append(all, verdict.Finding{What: "secret", Status: verdict.Warning, Message: place.String() + ": " + w})
	}
	return all
}

// exampleName stands for the name of a certificate that is not known.
const exampleName = "name.example.com"
