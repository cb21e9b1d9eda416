package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/verdict"
)

// Newest is the certificate that becomes valid last of those of one primary name and kind of key
// that a target was sent. It is kept only for targets whose policy asks for it.
type Newest struct {
	Event       string               `json:"event"`
	Certificate *verdict.Certificate `json:"certificate"`
	At          time.Time            `json:"at"` // when it was sent
}

const newestPrefix = "newest."

// newestKey is the key of a certificate's line in the bucket CERTPOST_DESK. Names are no keys, so
// they are hashed.
func newestKey(target string, c *verdict.Certificate) string {
	line := sha256.Sum256([]byte(c.KeyType + "\x00" + verdict.PrimaryName(c.CommonName, c.AllNames())))
	return newestPrefix + target + "." + hex.EncodeToString(line[:16])
}

// NewestFor returns the newest certificate in the line of c that the target was sent; nil if none is
// known. A value that was not written by Certpost counts as none.
func (b *Broker) NewestFor(ctx context.Context, target string, c *verdict.Certificate) (*Newest, error) {
	newest, _, err := b.newest(ctx, newestKey(target, c))
	return newest, err
}

func (b *Broker) newest(ctx context.Context, key string) (newest *Newest, revision uint64, err error) {
	var entry DeskEntry
	err = b.Persist(ctx, func(ctx context.Context) error {
		desk, err := b.Desk(ctx)
		if err == nil {
			entry, err = desk.Get(ctx, key)
		}
		return err
	})
	if errors.Is(err, ErrNoDeskEntry) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var read Newest
	if json.Unmarshal(entry.Value, &read) != nil || read.Certificate == nil {
		return nil, entry.Revision, nil
	}
	return &read, entry.Revision, nil
}

// newestTries is the number of attempts at a write while other processes write the same key.
const newestTries = 5

// NoteNewest records that a target was sent a certificate, unless it was sent a newer one before.
func (b *Broker) NoteNewest(ctx context.Context, target, event string, c *verdict.Certificate) error {
	key := newestKey(target, c)
	value, err := json.Marshal(Newest{Event: event, Certificate: c, At: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return fmt.Errorf("note the newest certificate of %s: %w", target, err)
	}
	for range newestTries {
		known, revision, err := b.newest(ctx, key)
		if err != nil {
			return err
		}
		if known != nil && known.Certificate.NotBefore.After(c.NotBefore) {
			return nil
		}
		err = b.Persist(ctx, func(ctx context.Context) error {
			desk, err := b.Desk(ctx)
			if err != nil {
				return err
			}
			if revision == 0 {
				_, err = desk.Create(ctx, key, value)
			} else {
				_, err = desk.Update(ctx, key, value, revision)
			}
			return err
		})
		if !errors.Is(err, ErrDeskChanged) {
			return err
		}
	}
	return fmt.Errorf("note the newest certificate of %s: %w", strings.ToValidUTF8(target, ""), ErrDeskChanged)
}
