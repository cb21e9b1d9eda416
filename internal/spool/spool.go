// Package spool keeps events that wait for their publication, in a directory.
//
// A CA's client runs its hook once for each certificate. What the hook cannot publish at
// that moment must not be lost, so a publisher first adds the event to the spool, which is
// on disk when Add returns, then publishes what is there in order, and removes it. The
// process may be killed at any point: the next Flush continues. An event may then be
// published twice; its id makes that harmless.
//
// The directory holds one file for each event, numbered in the order of Add:
//
//	1769860800000001.json          waits
//	1769860800000002.refused.json  will never be published as it is; has the reason
//	published.json                 ids of the events that were added before
//	lock, flush.lock               held by processes that add, or publish
//
// Files hold events and references, never a private key: for an event whose key is yet to
// be stored, the path of the key's file.
package spool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/certpost/certpost/internal/events"
	"github.com/certpost/certpost/internal/inputfile"
)

// Limits bound a spool. A full one refuses; it never drops what it has.
type Limits struct {
	Events int   // refused ones included
	Bytes  int64 // of their files
}

// Spool is a directory of waiting events, shared by all processes of one user.
type Spool struct {
	dir    string
	limits Limits

	// reached is called at points where tests end the process; nil otherwise.
	reached func(point string)
	// uid is who the process is, in tests; nil otherwise.
	uid *int
}

// Entry is one event in a spool.
type Entry struct {
	// Event has its Subject set.
	Event *events.Event
	// Added is when it was added.
	Added time.Time
	// StoreKey is set if the private key is to be stored before the publication.
	StoreKey *StoreKey
	// Number orders the entries; Add assigns it.
	Number uint64
}

// StoreKey says which private key is stored where, before its event is published.
type StoreKey struct {
	// Place is the reference to store it at, such as vault:secret/certs/x#private_key.
	Place string `json:"place"`
	// File is the path of the key's file, which the CA's client keeps.
	File string `json:"file"`
	// Passphrase is a reference to the passphrase of File, if that is a PKCS#12 file.
	Passphrase string `json:"passphrase,omitempty"`
	// Unchecked stores a key that does not match the certificate, too.
	Unchecked bool `json:"unchecked,omitempty"`
}

// record is the content of a file.
type record struct {
	Version  int             `json:"version"`
	Subject  string          `json:"subject"`
	Added    time.Time       `json:"added"`
	Refused  string          `json:"refused,omitempty"`
	StoreKey *StoreKey       `json:"store_key,omitempty"`
	Event    json.RawMessage `json:"event"`
}

const version = 1

// maxFile bounds a file that is read: an event, and what the record adds.
const maxFile = events.MaxSize + 64<<10

// FullError says that a spool is at a limit.
type FullError struct{ Dir, Limit string }

func (e *FullError) Error() string {
	return fmt.Sprintf("the spool %s is full: it holds %s", e.Dir, e.Limit)
}

// New returns the spool in a directory, which need not exist yet.
func New(dir string, limits Limits) *Spool {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs // messages are read elsewhere than where a hook runs
	}
	return &Spool{dir: dir, limits: limits}
}

// Dir is the directory's absolute path.
func (s *Spool) Dir() string { return s.dir }

// openToAdd makes the directory if need be, and keeps others from adding until unlock is called.
func (s *Spool) openToAdd(ctx context.Context) (unlock func(), err error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	return s.lock(ctx, addLock)
}

// Add writes an event to the end of the spool, and sets its number. When it returns without
// an error, the event survives the end of this process and of the machine's power. An event that
// waits already, with the same id and content, is not added again: known says so, and the number is
// that of the one that waits. The error is a *FullError at a limit.
func (s *Spool) Add(ctx context.Context, e *Entry) (known bool, err error) {
	unlock, err := s.openToAdd(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	names, err := s.names()
	if err != nil {
		return false, err
	}
	body, err := encode(e, "")
	if err != nil {
		return false, err
	}
	if number, waits := s.equal(e, names, int64(len(body))); waits {
		e.Number = number
		return true, nil
	}
	last, size := uint64(0), int64(0)
	for _, f := range names {
		last, size = f.number, size+f.size
	}
	switch {
	case len(names) >= s.limits.Events:
		return false, &FullError{s.dir, fmt.Sprintf("%d events (spool.max_events)", len(names))}
	case size+int64(len(body)) > s.limits.Bytes:
		return false, &FullError{s.dir, fmt.Sprintf("%d bytes, and this event has %d more (spool.max_size)", size, len(body))}
	}
	// The time makes a number that was not used before, also in a directory that is empty now.
	number := max(last+1, uint64(time.Now().UnixMicro()))
	if err := s.write(fileName(number), body); err != nil {
		return false, err
	}
	e.Number = number
	return false, nil
}

// timesDiffer is how much longer one record of an event may be than another, in bytes: the digits of
// two times.
const timesDiffer = 32

// equal returns the number of the entry that waits with the same id and content, but for the time of
// the event. Files of another size cannot have it, so that few are read.
func (s *Spool) equal(e *Entry, names []file, size int64) (number uint64, waits bool) {
	timeless := func(e *Entry) []byte {
		ev := *e.Event
		ev.Time = time.Time{}
		return ev.Encode()
	}
	same := timeless(e)
	for _, f := range names {
		if f.refused || f.size < size-timesDiffer || f.size > size+timesDiffer {
			continue
		}
		// A file that cannot be read is no reason not to keep the event.
		other, _, err := s.read(f)
		if err != nil || other.Event.ID != e.Event.ID || other.Event.Subject != e.Event.Subject {
			continue
		}
		sameKey := e.StoreKey == nil && other.StoreKey == nil || e.StoreKey != nil && other.StoreKey != nil && *e.StoreKey == *other.StoreKey
		if sameKey && bytes.Equal(timeless(other), same) {
			return f.number, true
		}
	}
	return 0, false
}

// Check returns why events cannot be kept, as Add would, and changes nothing. A directory that does
// not exist yet is made by Add.
func (s *Spool) Check() error {
	info, err := os.Stat(s.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		for dir := filepath.Dir(s.dir); ; dir = filepath.Dir(dir) {
			above, err := os.Stat(dir)
			if err == nil && !above.IsDir() {
				return fmt.Errorf("spool: %s is not a directory", dir)
			}
			if err == nil || dir == filepath.Dir(dir) {
				return nil
			}
		}
	case err != nil:
		return fmt.Errorf("spool: %w", err)
	case !info.IsDir():
		return fmt.Errorf("spool: %s is not a directory", s.dir)
	}
	return s.closable(info)
}

// closable returns why a directory may not be closed to other users, or is another user's; nil if it
// may, or is closed.
func (s *Spool) closable(info fs.FileInfo) error {
	if err := s.owned(info); err != nil {
		return err
	}
	if runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	return s.shared(info)
}

// shared returns an error if other programs use the directory, so that it may not be closed to
// other users: they may write in it, or it has files that are not the spool's.
func (s *Spool) shared(info fs.FileInfo) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	foreign := slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return !strings.HasSuffix(e.Name(), ".json") && !strings.HasSuffix(e.Name(), "lock") && e.Name() != "unfinished"
	})
	if foreign || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("spool: %s has the mode %04o, and other programs may use it: name a directory of its own, or close it with chmod 700 if it is", s.dir, info.Mode().Perm())
	}
	return nil
}

// open makes the directory, and closes it to other users.
func (s *Spool) open() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	info, err := os.Stat(s.dir)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if err := s.closable(info); err != nil {
		return err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(s.dir, 0o700); err != nil {
			return fmt.Errorf("spool: other users may enter the directory, and its mode cannot be changed to 0700: %w", err)
		}
	}
	return nil
}

// The locks. flushLock is held for as long as a flush takes; addLock only while files are
// written and removed, so that a hook never waits for the network of another one.
const (
	addLock   = "lock"
	flushLock = "flush.lock"
)

// lockRetry is the pause between two tries to get a lock.
const lockRetry = 10 * time.Millisecond

// lock waits for a lock until the context ends.
func (s *Spool) lock(ctx context.Context, name string) (unlock func(), err error) {
	l := flock.New(filepath.Join(s.dir, name), flock.SetPermissions(0o600))
	if _, err := l.TryLockContext(ctx, lockRetry); err != nil {
		return nil, fmt.Errorf("spool: lock %s: %w", l.Path(), err)
	}
	return func() { _ = l.Close() }, nil
}

// file is a file of the directory that belongs to an event.
type file struct {
	name    string
	number  uint64
	refused bool
	size    int64
}

// names lists the files in order.
func (s *Spool) names() ([]file, error) {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	var all []file
	for _, entry := range list {
		digits, ok := strings.CutSuffix(entry.Name(), ".json")
		if !ok || !entry.Type().IsRegular() {
			continue
		}
		digits, refused := strings.CutSuffix(digits, ".refused")
		number, err := strconv.ParseUint(digits, 10, 63)
		info, gone := entry.Info()
		if err != nil || gone != nil {
			continue
		}
		all = append(all, file{entry.Name(), number, refused, info.Size()})
	}
	slices.SortFunc(all, func(a, b file) int { return cmp.Compare(a.number, b.number) })
	return all, nil
}

func fileName(number uint64) string { return fmt.Sprintf("%016d.json", number) }

func refusedName(number uint64) string { return fmt.Sprintf("%016d.refused.json", number) }

func encode(e *Entry, refused string) ([]byte, error) {
	return json.Marshal(record{Version: version, Subject: e.Event.Subject, Added: e.Added.UTC(), Refused: refused, StoreKey: e.StoreKey, Event: e.Event.Encode()})
}

// read returns an entry; fs.ErrNotExist if another process has published it meanwhile. An
// error of another kind is about this file only, and names it.
func (s *Spool) read(f file) (e *Entry, refused string, err error) {
	path := filepath.Join(s.dir, f.name)
	body, err := inputfile.Read(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	if err == nil {
		e, refused, err = decode(body)
	}
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		err = at.Err
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s cannot be read as an event (%w): publish its certificate again, and remove the file", path, err)
	}
	e.Number = f.number
	return e, refused, nil
}

// decode reads the content of a file. Its errors do not quote it.
func decode(body []byte) (e *Entry, refused string, err error) {
	var r record
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil || r.Version != version { // the error may quote the file
		return nil, "", fmt.Errorf("it is not what version %d of the spool holds", version)
	}
	ev, err := events.Decode(nil, r.Event)
	if err != nil {
		return nil, "", err
	}
	if _, ok := events.SourceOf(r.Subject); !ok {
		return nil, "", errors.New("its subject is none of events")
	}
	ev.Subject = r.Subject
	return &Entry{Event: ev, Added: r.Added, StoreKey: r.StoreKey}, r.Refused, nil
}

// write makes a file that is complete or does not exist, also after a crash. The caller
// holds addLock, so an unfinished file is of a process that was killed.
func (s *Spool) write(name string, body []byte) error {
	half := filepath.Join(s.dir, "unfinished")
	if err := os.Remove(half); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool: %w", err)
	}
	f, err := os.OpenFile(half, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	_, err = f.Write(body)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(half) // a full disk must not stay full because of it
		return fmt.Errorf("spool: %w", err)
	}
	s.reach("written")
	if err := os.Rename(half, filepath.Join(s.dir, name)); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.reach("renamed")
	return s.sync()
}

// sync makes the names of the files durable.
func (s *Spool) sync() error {
	if runtime.GOOS == "windows" { // directories cannot be synced there, and need not be
		return nil
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

func (s *Spool) reach(point string) {
	if s.reached != nil {
		s.reached(point)
	}
}

// Find looks for an entry: refused is the reason why it was set aside, "" if it was not. An
// entry that neither waits nor was set aside has left the spool.
func (s *Spool) Find(number uint64) (refused string, waits bool, err error) {
	names, err := s.names()
	if err != nil {
		return "", false, err
	}
	for _, f := range names {
		switch {
		case f.number != number:
		case f.refused:
			_, reason, err := s.read(f)
			return cmp.Or(reason, "it was set aside"), false, err
		default:
			waits = true
		}
	}
	return "", waits, nil
}

// Remove takes an entry out of the spool, also a refused one. One that is not there is no error.
func (s *Spool) Remove(number uint64) error {
	if err := s.remove(refusedName(number)); err != nil {
		return err
	}
	return s.removeWaiting(number)
}

func (s *Spool) removeWaiting(number uint64) error {
	if err := s.remove(fileName(number)); err != nil {
		return err
	}
	return s.sync()
}

func (s *Spool) remove(name string) error {
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}
