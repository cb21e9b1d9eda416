package delivery

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// sealing encrypts one mail to its recipients. The zero value encrypts nothing.
type sealing struct {
	kind    string
	keys    []*encryption.Key
	options encryption.Options
	now     time.Time
}

// encrypts reports whether mails to the target are encrypted in any way.
func (t *Target) encrypts() bool { return t.Encryption != "" && t.Encryption != encryption.None }

// keyInClear reports whether the target's mails carry a private key that anybody can use who
// reads the mail.
func (t *Target) keyInClear() bool { return t.settings(nil).KeyInClear() && !t.encrypts() }

// sealing fetches the keys of the mail's recipients; others are recipients besides those of
// the target. Every address of the headers gets a key of its own: a mail that one of them
// could not open is not sent.
func (c *Courier) sealing(ctx context.Context, t *Target, p *provisions, others []mailbox, now time.Time) (*sealing, *verdict.Failure) {
	s := &sealing{kind: t.Encryption, options: encryption.Options{OAEP: t.SMIMEOAEP}, now: now}
	if !t.encrypts() {
		return s, nil
	}
	addresses := slices.Concat(t.To, t.CC)
	for _, b := range others {
		addresses = append(addresses, string(b))
	}
	for _, address := range addresses {
		key, failure := c.recipientKey(ctx, t, p, address)
		if failure != nil {
			if failure.Code != verdict.SMTPPayload { // a store's reason does not say whose key it is
				failure.Reason = fmt.Sprintf("the key of %s to encrypt to is not there: %s", legible.Clean(address, 254), failure.Reason)
			}
			return nil, failure
		}
		if err := key.Usable(s.options, now); err != nil {
			return nil, keyFailure(address, err)
		}
		s.keys = append(s.keys, key)
	}
	if hybrid := slices.ContainsFunc(s.keys, (*encryption.Key).Hybrid); hybrid && slices.ContainsFunc(s.keys, func(k *encryption.Key) bool { return !k.Hybrid() }) {
		return nil, verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload,
			"some recipients have hybrid age keys (age1pq...) and others do not, which age does not mix; split the target in two, then replay")
	}
	return s, nil
}

// recipientKey fetches the key of one recipient.
func (c *Courier) recipientKey(ctx context.Context, t *Target, p *provisions, address string) (*encryption.Key, *verdict.Failure) {
	ref := t.recipientKeyRef(address)
	if ref.IsZero() {
		return nil, keyFailure(address, errors.New("there is none: add it to recipient_keys"))
	}
	value, failure := c.secret(ctx, ref, p)
	if failure != nil {
		return nil, failure
	}
	key, err := encryption.Parse(t.Encryption, value.Reveal())
	if err != nil {
		return nil, keyFailure(address, err)
	}
	return key, nil
}

func keyFailure(address string, err error) *verdict.Failure {
	return verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload,
		fmt.Sprintf("the key of %s to encrypt to cannot be used: %s; put a usable one in its place, then replay", legible.Clean(address, 254), err))
}

// recipientKeyRef returns where the key of an address is; zero if the target does not say.
func (t *Target) recipientKeyRef(address string) secrets.Ref {
	wanted, err := parseMailbox("", address)
	if err != nil {
		return secrets.Ref{}
	}
	for _, of := range slices.Sorted(maps.Keys(t.RecipientKeys)) {
		if b, err := parseMailbox("", of); err == nil && strings.EqualFold(string(b), string(wanted)) {
			return t.RecipientKeys[of]
		}
	}
	if t.RecipientKeysDir == "" || strings.ContainsAny(string(wanted), `/\`) {
		return secrets.Ref{}
	}
	return secrets.Ref{File: filepath.Join(t.RecipientKeysDir, strings.ToLower(string(wanted))+keyFileEndings[t.Encryption])}
}

// keyFileEndings are the endings of the files in recipient_keys_dir, by encryption.
var keyFileEndings = map[string]string{encryption.SMIME: ".pem", encryption.OpenPGP: ".asc", encryption.Age: ".pub"}

// files encrypts the attachments with age; for the other kinds it returns them as they are.
func (s *sealing) files(list []payload.Attachment) ([]payload.Attachment, error) {
	if s.kind != encryption.Age {
		return list, nil
	}
	var all []payload.Attachment
	for _, a := range list {
		data, err := encryption.Encrypt(s.keys, a.Data, s.options, s.now)
		if err != nil {
			return nil, verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload, "a file cannot be encrypted with age").Because(err)
		}
		all = append(all, payload.Attachment{Name: a.Name + ".age", ContentType: "application/octet-stream", About: "encrypted with age: " + a.About, Data: data})
	}
	return all, nil
}

// mail encrypts a rendered mail as S/MIME or PGP/MIME: the entity, which begins at its
// Content-Type, and none of the headers before it. For the other kinds it returns the mail
// as it is. It clears the mail that it has encrypted.
func (s *sealing) mail(raw []byte) ([]byte, error) {
	if s.kind != encryption.SMIME && s.kind != encryption.OpenPGP {
		return raw, nil
	}
	start := bytes.Index(raw, []byte("\r\nContent-Type:")) + len("\r\n")
	if start < len("\r\n") {
		return nil, renderFailure("the mail cannot be encrypted: it has no Content-Type", nil)
	}
	defer clear(raw)
	sealed, err := encryption.Encrypt(s.keys, raw[start:], s.options, s.now)
	if err != nil {
		return nil, verdict.Fail(verdict.SMTPPayload, verdict.PhasePayload, "the mail cannot be encrypted with "+s.kind).Because(err)
	}
	var out bytes.Buffer
	out.Grow(start + len(sealed)*3/2 + 1<<10)
	out.Write(raw[:start])
	if s.kind == encryption.SMIME {
		writeSMIME(&out, sealed)
	} else {
		writePGP(&out, sealed)
	}
	return out.Bytes(), nil
}

// writeSMIME writes the entity of an enveloped mail (RFC 8551 section 3.3).
func writeSMIME(out *bytes.Buffer, der []byte) {
	out.WriteString("Content-Type: application/pkcs7-mime; smime-type=enveloped-data;\r\n name=\"smime.p7m\"\r\n" +
		"Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=\"smime.p7m\"\r\n\r\n")
	const line = 57 // bytes; 76 characters of base64
	for piece := range slices.Chunk(der, line) {
		out.WriteString(base64.StdEncoding.EncodeToString(piece))
		out.WriteString("\r\n")
	}
}

// pgpBoundary separates the parts of a PGP/MIME mail. Neither part can contain it: one is a
// fixed text, the other base64 between lines with dashes and capitals.
const pgpBoundary = "certpost-encrypted"

// writePGP writes the entity of an encrypted mail (RFC 3156 section 4).
func writePGP(out *bytes.Buffer, armored []byte) {
	out.WriteString("Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\";\r\n boundary=\"" + pgpBoundary + "\"\r\n\r\n" +
		"--" + pgpBoundary + "\r\nContent-Type: application/pgp-encrypted\r\nContent-Description: PGP/MIME version identification\r\n\r\nVersion: 1\r\n" +
		"--" + pgpBoundary + "\r\nContent-Type: application/octet-stream; name=\"encrypted.asc\"\r\nContent-Description: OpenPGP encrypted message\r\n" +
		"Content-Disposition: inline; filename=\"encrypted.asc\"\r\n\r\n")
	out.Write(bytes.ReplaceAll(armored, []byte("\n"), []byte("\r\n")))
	out.WriteString("\r\n--" + pgpBoundary + "--\r\n")
}
