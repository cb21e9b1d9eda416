package devrelay

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Mail is a mail that the relay has accepted.
type Mail struct {
	ID         int // counts from 1
	Received   time.Time
	From       string   // envelope sender
	Recipients []string // envelope recipients
	User       string   // authenticated user, "" without AUTH
	TLS        bool
	EnvelopeID string // ENVID, "" without it (RFC 3461)
	Return     string // RET: FULL, HDRS, or "" without it
	Raw        []byte // as received, without dot-stuffing; must not be changed
}

// mailbox keeps the newest mails.
type mailbox struct {
	max      int
	maxBytes int

	mu      sync.Mutex
	mails   []Mail
	bytes   int // of the mails
	dropped int // mails that left because of maxBytes
	count   int
	changed chan struct{} // closed at the next mail
}

func newMailbox(max, maxBytes int) *mailbox {
	return &mailbox{max: max, maxBytes: maxBytes, changed: make(chan struct{})}
}

// add counts the mail, keeps it if keep is set, and returns its id.
func (m *mailbox) add(mail Mail, keep bool) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count++
	mail.ID = m.count
	if keep {
		if len(m.mails) == m.max {
			m.dropOldest()
		}
		for len(m.mails) > 0 && m.bytes+len(mail.Raw) > m.maxBytes {
			m.dropOldest()
			m.dropped++
		}
		m.mails, m.bytes = append(m.mails, mail), m.bytes+len(mail.Raw)
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return mail.ID
}

// dropOldest removes the oldest mail. The lock must be held.
func (m *mailbox) dropOldest() {
	m.bytes -= len(m.mails[0].Raw)
	m.mails = slices.Delete(m.mails, 0, 1)
}

// droppedForSize is how many mails left because the mailbox was too large.
func (m *mailbox) droppedForSize() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dropped
}

func (m *mailbox) look() (mails []Mail, count int, changed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.mails), m.count, m.changed
}

// Mails returns the mailbox, oldest first.
func (r *Relay) Mails() []Mail {
	mails, _, _ := r.mailbox.look()
	return mails
}

// Count is the number of mails accepted since the start, kept or not.
func (r *Relay) Count() int {
	r.mailbox.mu.Lock()
	defer r.mailbox.mu.Unlock()
	return r.mailbox.count
}

// WaitFor returns the mailbox once wanted returns true, or the current mailbox with the
// context's error.
func (r *Relay) WaitFor(ctx context.Context, wanted func([]Mail) bool) ([]Mail, error) {
	for {
		mails, _, changed := r.mailbox.look()
		if wanted(mails) {
			return mails, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return mails, ctx.Err()
		}
	}
}
