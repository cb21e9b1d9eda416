package delivery

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/encryption"
	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// arrivesByteForByte sends a mail of each kind of payload, encryption and signature through Postfix
// into a mailbox of Dovecot, and reads it there by IMAP: below the lines that servers put on top,
// it is what was sent.
func (o *fixture) arrivesByteForByte(t *testing.T, server *lab.MailServer, user string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) secrets.Ref {
		lab.Write(t, filepath.Join(dir, name), data)
		return secrets.Ref{File: filepath.Join(dir, name)}
	}
	public := map[string]secrets.Ref{encryption.SMIME: write("rsa.pem", lab.PEM(mailCertificate(t, "rsa", user, 300)))}
	for _, kind := range []string{encryption.Age, encryption.OpenPGP} {
		public[kind] = write("key"+keyFileEndings[kind], newHolder(t, kind, user).public)
	}
	signer := mailCertificate(t, "p256", o.target.FromAddress, 300)
	signature := SignSMIME{Certificate: write("sign.pem", lab.PEM(signer)), PrivateKey: write("sign.key", lab.KeyPEM(t, signer.Key))}
	dkim := DKIM{Domain: "example.com", Selector: "c1", PrivateKey: write("dkim.key", lab.KeyPEM(t, lab.NewKey(t, "ed25519")))}

	var kinds []func(*Target)
	for _, kind := range payload.Kinds {
		kinds = append(kinds, func(t *Target) { t.Payload, t.ZipPrivateKey = kind, kind == payload.ZIP })
	}
	for _, kind := range []string{encryption.SMIME, encryption.OpenPGP, encryption.Age} {
		kinds = append(kinds, func(t *Target) {
			t.Payload, t.Encryption, t.RecipientKeys = payload.PEMAndKey, kind, map[string]secrets.Ref{user: public[kind]}
		})
	}
	kinds = append(kinds,
		func(t *Target) { t.Sign.SMIME, t.DKIM = signature, dkim },
		func(t *Target) {
			t.Encryption, t.RecipientKeys = encryption.SMIME, map[string]secrets.Ref{user: public[encryption.SMIME]}
			t.Sign.SMIME, t.DKIM = signature, dkim
		})
	phrase := Passphrase{Ref: secrets.Ref{Value: secrets.New([]byte("correct-horse-battery"))}}
	plain := o.target
	plain.To, plain.PKCS12Passphrase, plain.KeystorePassword = []string{user}, phrase, phrase
	o.withKey()
	var sent [][]byte
	for _, change := range kinds {
		o.redefine(func(t *Target) { *t = plain; change(t) })
		a := &attempt{Courier: o.Courier, order: verdict.Attempt{Target: o.target.ID, Number: 1, Claim: claimedAtOnce}, event: o.event, defs: o.book.Current(), started: time.Now()}
		if failure := a.prepare(t.Context()); failure != nil {
			t.Fatal(failure)
		}
		sent = append(sent, bytes.Clone(a.msg.raw))
		if _, failure := a.transmit(lab.Patient(t)); failure != nil {
			t.Fatal(failure)
		}
		a.clear()
	}
	times := func(mails [][]byte, raw []byte) (n int) {
		for _, mail := range mails {
			if bytes.HasSuffix(mail, raw) {
				n++
			}
		}
		return n
	}
	// Not a number of mails: Postfix may deliver an earlier one twice when it is stopped.
	arrived := server.Fetch(t, user, func(mails [][]byte) bool {
		return !slices.ContainsFunc(sent, func(raw []byte) bool { return times(mails, raw) == 0 })
	})
	for i, raw := range sent {
		if n := times(arrived, raw); n != 1 {
			t.Errorf("mail %d of %d (payload, encryption, signature, in this order) is %d times in the mailbox as it was sent", i+1, len(sent), n)
		}
	}
}
