package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// layout is the version of what lies in the streams. It grows when an older Certpost would
// misread what a newer one has written; a newer one reads all older layouts. Streams without
// a version have layout 1.
const layout = 1

// What else the metadata of streams says: their layout, and on the ledger up to when the
// messages of a restored backup go.
const (
	layoutKey   = "certpost.layout"
	restoredKey = "certpost.restored-to"
	// restoringKey is on each stream of a restore until all are complete.
	restoringKey = "certpost.restoring"
)

// restoringFile is in data_dir from before a restore copies anything until it is complete.
const restoringFile = "restore.unfinished"

// ErrUnfinishedRestore says that a restore was killed, or has failed: what is there is a part of a backup.
var ErrUnfinishedRestore = errors.New("the restore of a backup did not end, so what is there is incomplete")

// ErrNewerLayout says that a newer version of Certpost has written the streams.
var ErrNewerLayout = errors.New("written by a newer version of Certpost")

// checkLayout refuses a stream whose layout this version does not know.
func checkLayout(stream string, metadata map[string]string) error {
	if metadata[restoringKey] != "" {
		return fmt.Errorf("stream %s: %w: delete the streams of certpost (nats stream ls), then run certpost restore again", stream, ErrUnfinishedRestore)
	}
	text := metadata[layoutKey]
	if text == "" {
		return nil
	}
	if n, err := strconv.Atoi(text); err != nil || n > layout {
		return fmt.Errorf("stream %s was %w (layout %s, this version knows %d): use that version or a later one, or restore a backup that this version made", stream, ErrNewerLayout, text, layout)
	}
	return nil
}

// BeginRestore marks a data_dir as the place of a restore that has not ended. Until EndRestore only
// a process with Config.Restoring can open the embedded store there. A data_dir with a store is refused:
// it may be in use.
func BeginRestore(dataDir string) error {
	if store := filepath.Join(dataDir, "nats", "jetstream"); exists(store) {
		return fmt.Errorf("%s exists: restore into an empty data_dir", store)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("data_dir %s: %w", dataDir, err)
	}
	const text = "certpost restore has not ended. Empty this directory, and run it again.\n"
	if err := WritePrivate(filepath.Join(dataDir, restoringFile), []byte(text)); err != nil {
		return fmt.Errorf("data_dir %s: %w", dataDir, err)
	}
	return syncDir(dataDir)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// EndRestore removes the mark.
func EndRestore(dataDir string) error {
	if err := os.Remove(filepath.Join(dataDir, restoringFile)); err != nil {
		return fmt.Errorf("data_dir %s: %w", dataDir, err)
	}
	return syncDir(dataDir)
}

// checkRestored refuses a data_dir whose restore has not ended.
func checkRestored(dataDir string) error {
	_, err := os.Lstat(filepath.Join(dataDir, restoringFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("data_dir %s: %w", dataDir, err)
	}
	return fmt.Errorf("data_dir %s: %w: empty the directory, then run certpost restore again", dataDir, ErrUnfinishedRestore)
}

// syncDir makes the names of a directory's files durable.
func syncDir(path string) error {
	if runtime.GOOS == "windows" { // directories cannot be synced there, and need not be
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// streamMarks is the metadata of our streams.
func streamMarks() map[string]string {
	return map[string]string{ownerKey: ownerMark, layoutKey: strconv.Itoa(layout)}
}

// restoredTo returns the time of the newest message of the backup that was restored; zero if
// none was. What is as old may have been delivered after the backup was made.
func restoredTo(c jetstream.StreamConfig) time.Time {
	at, _ := time.Parse(time.RFC3339Nano, c.Metadata[restoredKey])
	return at
}
