package broker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jsm.go"
	"github.com/nats-io/jsm.go/api"
	"github.com/nats-io/nats.go/jetstream"
)

// BackedUp is a stream in a backup. Its directory has the form that `nats stream restore`
// reads.
type BackedUp struct {
	Stream   string    `json:"stream"`
	Messages uint64    `json:"messages"`
	First    uint64    `json:"first_sequence"`
	Last     uint64    `json:"last_sequence"`
	Newest   time.Time `json:"newest,omitzero"` // time of the last message
	SHA256   string    `json:"sha256"`          // of the data, in hexadecimal
	Settings string    `json:"settings_sha256"` // of the stream's settings
}

// The files of a stream in a backup.
const (
	backupData     = "stream.tar.s2"
	backupSettings = "backup.json"
)

// backupChunk is how much of a stream is on its way at a time; the server waits for a
// confirmation of each part. backupTimeout bounds one answer of the server.
const (
	backupChunk   = 512 << 10
	backupTimeout = 30 * time.Second
)

// backupOrder is the order in which streams are copied, while work goes on. The ledger is the
// last: what is settled meanwhile is then in it, though the delivery is in the backup too, and
// is not sent again. In the other order the copy of the ledger would call it waiting. The outcomes
// are the first: they say how far they have read the others. Whether there are any is asked of NATS, not of the configuration: that of
// a client has no section outcomes.
func (b *Broker) backupOrder() []string {
	names := []string{OutcomesStream}
	for _, s := range b.streams() {
		if s.Name != OutcomesStream && s.Name != "KV_"+LedgerBucket {
			names = append(names, s.Name)
		}
	}
	return append(names, "KV_"+LedgerBucket)
}

// withoutOutcomes are the streams that every backup has.
func withoutOutcomes(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return name == OutcomesStream })
}

func (b *Broker) manager() (*jsm.Manager, error) {
	options := []jsm.Option{jsm.WithTimeout(backupTimeout)}
	if prefix := strings.TrimSuffix(b.apiPrefix(), "."); prefix != "" && prefix != "$JS.API" {
		options = append(options, jsm.WithAPIPrefix(prefix))
	}
	return jsm.New(b.nc, options...)
}

// BackUp copies all streams with their consumers into directories of their names below dir,
// and calls done after each. It verifies the checksum of each message.
func (b *Broker) BackUp(ctx context.Context, dir string, done func(BackedUp)) error {
	m, err := b.manager()
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	for _, name := range b.backupOrder() {
		if name == OutcomesStream {
			if _, err := b.js.Stream(ctx, name); errors.Is(err, jetstream.ErrStreamNotFound) {
				continue
			}
		}
		copied, err := b.backUpStream(ctx, m, name, filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("backup of stream %s: %w", name, err)
		}
		done(copied)
	}
	return nil
}

func (b *Broker) backUpStream(ctx context.Context, m *jsm.Manager, name, dir string) (BackedUp, error) {
	s, err := b.js.Stream(ctx, name)
	if err != nil {
		return BackedUp{}, Explain(err, name)
	}
	if err := checkLayout(name, s.CachedInfo().Config.Metadata); err != nil {
		return BackedUp{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return BackedUp{}, err
	}
	data, err := newPrivate(filepath.Join(dir, backupData))
	if err != nil {
		return BackedUp{}, err
	}
	settings, err := newPrivate(filepath.Join(dir, backupSettings))
	if err != nil {
		return BackedUp{}, errors.Join(err, data.Close())
	}
	stream, err := m.LoadStream(name)
	if err == nil {
		// Both files are closed by it.
		_, err = stream.SnapshotToBuffer(ctx, data, settings, jsm.SnapshotConsumers(), jsm.SnapshotHealthCheck(), jsm.SnapshotChunkSize(backupChunk))
	}
	if err := errors.Join(err, data.Close(), settings.Close()); err != nil {
		return BackedUp{}, err
	}
	var held api.JSApiStreamRestoreRequest
	if err := readJSON(filepath.Join(dir, backupSettings), &held); err != nil {
		return BackedUp{}, err
	}
	return BackedUp{
		Stream: name, Messages: held.State.Msgs, First: held.State.FirstSeq, Last: held.State.LastSeq, Newest: held.State.LastTime, SHA256: data.sum(), Settings: settings.sum(),
	}, nil
}

// Existing returns those of our streams that exist.
func (b *Broker) Existing(ctx context.Context) (names []string, err error) {
	for _, name := range b.backupOrder() {
		_, err := b.js.Stream(ctx, name)
		switch {
		case err == nil:
			names = append(names, name)
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("stream %s: %w", name, Explain(err, name))
		}
	}
	return names, nil
}

// RestoreBackup makes the streams of a backup below dir, of which none may exist, and calls done
// after each. They get this process's number of replicas. Deliveries of the backup that are not
// settled in it may have been settled afterwards: their mails say that they may be duplicates.
func (b *Broker) RestoreBackup(ctx context.Context, dir string, streams []BackedUp, done func(BackedUp)) error {
	var names []string
	for _, s := range streams {
		names = append(names, s.Stream)
	}
	if want := withoutOutcomes(b.backupOrder()); !slices.Equal(withoutOutcomes(names), want) {
		return fmt.Errorf("restore: the backup has the streams %q, and not %q: it is not complete", names, want)
	}
	for _, s := range streams { // all of it, before anything is made
		err := errors.Join(checkSum(filepath.Join(dir, s.Stream, backupData), s.SHA256), checkSum(filepath.Join(dir, s.Stream, backupSettings), s.Settings))
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	m, err := b.manager()
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	var newest time.Time
	for _, s := range streams {
		if s.Newest.After(newest) {
			newest = s.Newest
		}
	}
	for _, s := range streams {
		if err := b.restoreStream(ctx, m, filepath.Join(dir, s.Stream), s, newest); err != nil {
			return fmt.Errorf("restore of stream %s: %w", s.Stream, err)
		}
		done(s)
	}
	for _, s := range streams {
		if err := b.endRestore(ctx, s.Stream); err != nil {
			return fmt.Errorf("restore of stream %s: %w", s.Stream, err)
		}
	}
	return nil
}

// endRestore removes the mark of a restore from a stream.
func (b *Broker) endRestore(ctx context.Context, name string) error {
	stream, err := b.js.Stream(ctx, name)
	if err != nil {
		return err
	}
	cfg := stream.CachedInfo().Config
	delete(cfg.Metadata, restoringKey)
	_, err = b.js.UpdateStream(ctx, cfg)
	return err
}

func (b *Broker) restoreStream(ctx context.Context, m *jsm.Manager, dir string, want BackedUp, newest time.Time) error {
	var held api.JSApiStreamRestoreRequest
	if err := readJSON(filepath.Join(dir, backupSettings), &held); err != nil {
		return err
	}
	if err := checkLayout(want.Stream, held.Config.Metadata); err != nil {
		return err
	}
	cfg := held.Config
	cfg.Replicas, cfg.Placement = max(b.cfg.Replicas, 1), nil
	if cfg.Metadata == nil {
		cfg.Metadata = map[string]string{}
	}
	cfg.Metadata[restoringKey] = "unfinished"
	if want.Stream == "KV_"+LedgerBucket && !newest.IsZero() {
		cfg.Metadata[restoredKey] = newest.UTC().Format(time.RFC3339Nano)
	}
	_, state, err := m.RestoreSnapshotFromDirectory(ctx, want.Stream, dir, jsm.RestoreConfiguration(cfg))
	if err != nil {
		return err
	}
	expired := want.Stream == OutcomesStream // they may have grown too old since the backup
	if state.Msgs != want.Messages && !expired || state.LastSeq != want.Last {
		return fmt.Errorf("it has %d messages up to %d now, and %d up to %d in the backup", state.Msgs, state.LastSeq, want.Messages, want.Last)
	}
	return nil
}

// private is a file that only its user may read, hashed while it is written.
type private struct {
	file   *os.File
	hash   hash.Hash
	closed bool
}

func newPrivate(path string) (*private, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &private{file: f, hash: sha256.New()}, nil
}

func (p *private) Write(b []byte) (int, error) {
	p.hash.Write(b)
	return p.file.Write(b)
}

// Close flushes the file to disk and closes it; again it does nothing.
func (p *private) Close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	return errors.Join(p.file.Sync(), p.file.Close())
}

func (p *private) sum() string { return hex.EncodeToString(p.hash.Sum(nil)) }

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// checkSum reads a file and compares its SHA-256.
func checkSum(path, want string) error {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return cmp.Or(err, fmt.Errorf("%s is not a file", path))
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%s is not what the backup wrote: its SHA-256 is %s, not %s", path, got, want)
	}
	return nil
}
