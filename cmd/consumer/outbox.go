package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/certfiles"
	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/spool"
)

// outbox publishes what waits in the spool.
type outbox struct {
	app   *app
	cfg   *Config
	spool *spool.Spool
	warn  func(text string)

	broker     *broker.Broker // nil without a connection
	disconnect func()
	keys       *secrets.Store // nil until a key is to be stored
	// added are the entries of this process, with their results. All others may have been
	// published by a process that was killed afterwards.
	added     map[uint64]*publishedEvent
	published int // entries that left the spool for the stream
}

// publishedEvent is what became of an event.
type publishedEvent struct {
	sequence  uint64
	duplicate bool
	done      bool
}

func (a *app) outbox(cfg *Config, warn func(string)) *outbox {
	return &outbox{app: a, cfg: cfg, spool: cfg.spool(), warn: warn, added: map[uint64]*publishedEvent{}}
}

// add keeps an event until it is published.
func (o *outbox) add(ctx context.Context, e *spool.Entry) error {
	e.Added = time.Now()
	// An interrupt ends the publication. What is published later must be kept first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), addTimeout)
	defer cancel()
	known, err := o.spool.Add(ctx, e)
	if err != nil {
		return err
	}
	if !known { // else the process that added it may have published it before it was killed
		o.added[e.Number] = &publishedEvent{}
	}
	return nil
}

// addTimeout bounds the wait for other processes that add.
const addTimeout = 10 * time.Second

// dial connects to NATS, if there is no connection yet. The caller calls close.
func (o *outbox) dial(ctx context.Context) (err error) {
	if o.broker != nil {
		return nil
	}
	b, done, err := o.app.dialWith(ctx, o.cfg, broker.Administrator, broker.Publisher)
	if err != nil {
		return err
	}
	o.broker, o.disconnect = b, done
	return nil
}

// close ends the connections.
func (o *outbox) close() {
	if o.broker != nil {
		o.disconnect()
		o.broker = nil
	}
	if o.keys != nil {
		o.keys.Close()
		o.keys = nil
	}
}

// flush publishes what waits, in order.
func (o *outbox) flush(ctx context.Context) ([]spool.Failure, error) {
	return o.spool.Flush(ctx, o.send, func() bool { return o.broker.Disconnected() != nil })
}

// sendTimeout bounds one publication: NATS does not answer a publisher who may not publish on
// a subject, and other subjects must not wait behind it for long.
const sendTimeout = 10 * time.Second

// send publishes an entry of the spool, after its key was stored.
func (o *outbox) send(ctx context.Context, e *spool.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	ev := e.Event
	if e.StoreKey != nil {
		ref, err := o.storeKey(ctx, e)
		if err != nil {
			return err
		}
		ev.PrivateKey = ref
	}
	result, own := o.added[e.Number]
	if !own {
		if o.broker.Known(ctx, ev) {
			o.published++
			return nil
		}
		result = &publishedEvent{}
	}
	sequence, duplicate, err := o.broker.Publish(ctx, ev)
	if broker.Unpublishable(err) {
		return &spool.Refusal{Err: err}
	}
	if err != nil {
		return err
	}
	*result = publishedEvent{sequence, duplicate, true}
	o.published++
	return nil
}

// storeKey writes the private key to Vault, and returns its reference with the version that
// was written: a delivery that waits, or is replayed after the next renewal, then still finds
// the key of its certificate. It runs before the publication: a published event must never
// reference a key that does not exist.
func (o *outbox) storeKey(ctx context.Context, e *spool.Entry) (*events.Reference, error) {
	ref, err := secrets.ParseRef(e.StoreKey.Place)
	if err != nil || ref.Vault == nil {
		return nil, &spool.Refusal{Err: errors.New("the reference to store the private key at is wrong")}
	}
	leaf, err := e.Event.Leaf()
	if err != nil {
		return nil, &spool.Refusal{Err: err}
	}
	text, err := o.readKey(ctx, e.StoreKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &spool.Refusal{Err: fmt.Errorf("the private key is to be stored at %s, but its file %s is gone", ref, e.StoreKey.File)}
	}
	if err != nil {
		return nil, fmt.Errorf("read the private key that is to be stored at %s: %w", ref, err)
	}
	defer clear(text)
	if err := payload.CheckKey(text, leaf); err != nil && !e.StoreKey.Unchecked {
		return nil, &spool.Refusal{Err: fmt.Errorf("the private key is to be stored at %s, but %s has another one now: %s", ref, e.StoreKey.File, reasonOf(err))}
	}
	if err := o.openKeys(); err != nil {
		return nil, err
	}
	written, err := o.keys.Put(ctx, ref, secrets.New(text))
	if err != nil {
		return nil, fmt.Errorf("store the private key: %w", err)
	}
	if before := written.Before.Reveal(); before != nil {
		if payload.CheckKey(before, leaf) != nil {
			o.warn(replacedKey(ref, written.Version))
		}
		clear(before)
	}
	stored := eventReference(ref)
	stored.Vault.Version = written.Version
	return stored, nil
}

func (o *outbox) openKeys() (err error) {
	if o.keys == nil {
		o.keys, err = secrets.Open(o.cfg.Vault, o.app.logger(LogConfig{Level: "error", Format: o.cfg.Log.Format}))
	}
	return err
}

// readKey returns the private key in PEM.
func (o *outbox) readKey(ctx context.Context, k *spool.StoreKey) ([]byte, error) {
	data, err := readFile(k.File)
	if err != nil || k.Passphrase == "" {
		return data, err
	}
	defer clear(data)
	ref, err := secrets.ParseRef(k.Passphrase)
	if err != nil {
		return nil, err
	}
	if err := o.openKeys(); err != nil {
		return nil, err
	}
	passphrase, err := o.keys.Get(ctx, ref, nil)
	if err != nil {
		return nil, err
	}
	opened := passphrase.Value.Reveal()
	defer clear(opened)
	_, key, err := certfiles.PKCS12(data, string(opened))
	return key, err
}
