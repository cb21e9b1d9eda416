package broker

import (
	"errors"
	"fmt"
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
)

// ErrNewerLayout says that a newer version of Certpost has written the streams.
var ErrNewerLayout = errors.New("written by a newer version of Certpost")

// checkLayout refuses a stream whose layout this version does not know.
func checkLayout(stream string, metadata map[string]string) error {
	text := metadata[layoutKey]
	if text == "" {
		return nil
	}
	if n, err := strconv.Atoi(text); err != nil || n > layout {
		return fmt.Errorf("stream %s was %w (layout %s, this version knows %d): use that version or a later one, or restore a backup that this version made", stream, ErrNewerLayout, text, layout)
	}
	return nil
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
