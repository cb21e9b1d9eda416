package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// DeskBucket is the bucket CERTPOST_DESK: the state that operators working on dead letters,
// and the processes that act for them, share. Its keys are hold.<number>, run.<id>,
// set.<id>, group.<fingerprint>, letters.last (NoteLetters) and alerts.
type DeskBucket struct{ kv jetstream.KeyValue }

// DeskEntry is one value of the bucket.
type DeskEntry struct {
	Key      string
	Value    []byte
	Revision uint64
	Time     time.Time // of the last change
	Deleted  bool
}

// The errors of the bucket's operations.
var (
	ErrNoDeskEntry = errors.New("entry not found")
	ErrDeskChanged = errors.New("the entry was changed by another process")
)

// Desk opens the bucket.
func (b *Broker) Desk(ctx context.Context) (*DeskBucket, error) {
	kv, err := b.js.KeyValue(ctx, DeskBucketName)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, fmt.Errorf("bucket %s not found at %s: start `certpost run` once to create it", DeskBucketName, b.URL())
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", DeskBucketName, err)
	}
	return &DeskBucket{kv}, nil
}

// Get returns an entry; ErrNoDeskEntry if there is none.
func (d *DeskBucket) Get(ctx context.Context, key string) (DeskEntry, error) {
	e, err := d.kv.Get(ctx, key)
	if err != nil {
		return DeskEntry{}, deskError("read", key, err)
	}
	return deskEntry(e), nil
}

// Create writes a new entry; ErrDeskChanged if it exists.
func (d *DeskBucket) Create(ctx context.Context, key string, value []byte) (revision uint64, err error) {
	if revision, err = d.kv.Create(ctx, key, value); err != nil {
		return 0, deskError("create", key, err)
	}
	return revision, nil
}

// Update writes an entry if its revision is still the one given; ErrDeskChanged if it is
// not.
func (d *DeskBucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	next, err := d.kv.Update(ctx, key, value, revision)
	if err != nil {
		return 0, deskError("write", key, err)
	}
	return next, nil
}

// Delete removes an entry, with its history, if its revision is still the one given;
// ErrDeskChanged if it is not.
func (d *DeskBucket) Delete(ctx context.Context, key string, revision uint64) error {
	if err := d.kv.Purge(ctx, key, jetstream.LastRevision(revision)); err != nil {
		return deskError("delete", key, err)
	}
	return nil
}

func deskError(what, key string, err error) error {
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrInvalidKey): // what cannot be a key is in no bucket
		err = ErrNoDeskEntry
	case errors.Is(err, jetstream.ErrKeyExists), WrongSequence(err):
		err = ErrDeskChanged
	default:
		err = Explain(err, "KV_"+DeskBucketName)
	}
	return fmt.Errorf("%s %s in %s: %w", what, key, DeskBucketName, err)
}

func deskEntry(e jetstream.KeyValueEntry) DeskEntry {
	return DeskEntry{Key: e.Key(), Value: e.Value(), Revision: e.Revision(), Time: e.Created(), Deleted: e.Operation() != jetstream.KeyValuePut}
}

// Watch calls each for every entry whose key begins with the prefix ("run."), then known
// once, then each for every change, until the context ends, and returns the context's
// error. It survives a lost connection, but not a bucket that was deleted and recreated:
// restart it from time to time.
func (d *DeskBucket) Watch(ctx context.Context, prefix string, each func(DeskEntry), known func()) error {
	return d.watch(ctx, prefix, each, known)
}

func (d *DeskBucket) watch(ctx context.Context, prefix string, each func(DeskEntry), known func(), opts ...jetstream.WatchOpt) error {
	w, err := d.kv.Watch(ctx, prefix+">", opts...)
	if err != nil {
		return fmt.Errorf("watch %s in %s: %w", prefix, DeskBucketName, err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return fmt.Errorf("watch %s in %s: %w", prefix, DeskBucketName, errors.New("ended by the server"))
			}
			if e == nil {
				known()
				continue
			}
			each(deskEntry(e))
		}
	}
}

// Heads returns all entries whose key begins with the prefix ("hold."), without the values.
func (d *DeskBucket) Heads(ctx context.Context, prefix string) ([]DeskEntry, error) {
	return d.list(ctx, prefix, jetstream.MetaOnly())
}

func (d *DeskBucket) list(ctx context.Context, prefix string, opts ...jetstream.WatchOpt) ([]DeskEntry, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all []DeskEntry
	complete := false
	err := d.watch(ctx, prefix, func(e DeskEntry) {
		if !e.Deleted {
			all = append(all, e)
		}
	}, func() { complete = true; cancel() }, opts...)
	if !complete {
		return nil, err
	}
	return all, nil
}
