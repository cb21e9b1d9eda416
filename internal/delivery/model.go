package delivery

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/mailtext"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// Limits on what a model has of an event's labels.
const (
	maxLabels = 100
	maxLabel  = 200 // bytes
)

// newModel returns what templates see of a mail. It has nothing of provisions.
func newModel(t *Target, m mailFacts) *mailtext.Model {
	leaf := m.bundle.Leaf
	fingerprint := sha256.Sum256(leaf.Raw)
	model := &mailtext.Model{
		Product: m.product, Target: legible.Clean(t.ID, 64), Contact: legible.Clean(cmp.Or(t.ReplyTo, t.FromAddress), 254),
		Name:      modelName(m.bundle.Name()),
		NotBefore: mailtext.At(leaf.NotBefore), NotAfter: mailtext.At(leaf.NotAfter),
		DaysLeft: legible.Days(m.now, leaf.NotAfter), Expired: m.now.After(leaf.NotAfter), Endless: legible.Endless(leaf.NotAfter),
		Issuer: legible.Clean(leaf.Issuer.String(), 200), Key: payload.KeyKind(leaf),
		Serial: oneLineOf(colons(verdict.SerialNumber(leaf))), SHA256: oneLineOf(colons(hex.EncodeToString(fingerprint[:]))),
		Payload: cmp.Or(t.Payload, payload.PEM), HasKey: t.settings(nil).NeedsKey(), KeyInClear: t.keyInClear(), Encryption: cmp.Or(t.Encryption, encryption.None),
		NeedsPassphrase: t.settings(nil).Passphrase() != "",
		Duplicate:       m.possibleDuplicate,
		EventID:         legible.Clean(m.eventID, maxEventID), Source: legible.Clean(m.source, 200), Time: mailtext.At(m.time),
	}
	if ref := passphraseRef(t, m.passphraseAt); ref.Vault != nil {
		model.PassphraseVault = legible.Clean(strings.TrimPrefix(ref.String(), "vault:"), 300)
	}
	names := verdict.AlternativeNames(leaf)
	for _, n := range names[:min(len(names), mailtext.MaxNames)] {
		model.Names = append(model.Names, modelName(n))
	}
	model.MoreNames = len(names) - len(model.Names)
	for _, shown := range chainOf(m.bundle) {
		model.Chain = append(model.Chain, shown.Text)
	}
	for _, a := range m.attachments {
		model.Files = append(model.Files, mailtext.File{Name: a.Name, Size: size(len(a.Data)), About: a.About})
	}
	for _, tip := range howToOpen(t, m.attachments) {
		model.HowToOpen = append(model.HowToOpen, mailtext.Tip(tip))
	}
	for _, w := range m.warnings {
		model.Warnings = append(model.Warnings, sentence(legible.Clean(w, 300)))
	}
	model.Notes = notes(t, m)
	model.Labels = modelLabels(m.labels)
	return model
}

func modelName(s string) mailtext.Name {
	shown := legible.Name(s, maxShownName)
	return mailtext.Name{ASCII: shown.Text, Unicode: shown.Note}
}

// modelLabels returns labels cleaned, those with the first names if there are too many.
func modelLabels(labels map[string]string) map[string]string {
	all := make(map[string]string, min(len(labels), maxLabels))
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if len(all) == maxLabels {
			break
		}
		all[legible.Clean(name, maxLabel)] = legible.Clean(labels[name], maxLabel)
	}
	return all
}

// oneLineOf joins the lines of colons again.
func oneLineOf(lines []legible.Shown) string {
	var all []string
	for _, l := range lines {
		all = append(all, l.Text)
	}
	return strings.Join(all, ":")
}
