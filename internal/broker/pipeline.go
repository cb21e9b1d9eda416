package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The number of requests sent at once for streams read with one request per message, each in
// a stretch of its own. It begins low, because most reads are for what arrived in the last
// half second.
const (
	minPipeline = 4
	maxPipeline = 64
)

// stretchLength is how many numbers of the stream a stretch has.
const stretchLength = 8

// stretch is a part of the numbers of a stream, whose messages are requested one after the
// other.
type stretch struct {
	next, end uint64 // the number to ask for next, and the first one after the stretch
	page      []*jetstream.RawStreamMsg
	noMore    bool // the stream has no message from next on
}

func (s *stretch) read() bool { return s.next >= s.end }

// nextPage reads the next messages, in a batch or with one request per message, whichever
// suits the stream; width is the number of requests to send at once.
func (b *Broker) nextPage(ctx context.Context, stream, filter string, from uint64, width *int) (page []*jetstream.RawStreamMsg, ended bool, err error) {
	if !oneByOne(stream, filter) {
		return b.page(ctx, stream, getRequest{Seq: from, Next: filter, Batch: readBatch, MaxBytes: readBytes})
	}
	page, ended, err = b.pipeline(ctx, stream, from, *width)
	*width = nextWidth(*width, page)
	return page, ended, err
}

// oneByOne reports that a stream is not to be read in batches. With each batch the server
// sends the number of messages after it, which it counts first, with the stream locked. In
// a stream with one message for each subject, of which some were removed, it looks at every
// subject for that (nats-server 2.15, server/filestore.go, NumPending): among 1,000,000
// deliveries this takes 60 ms for each 256 that are read, and blocks all writes meanwhile.
func oneByOne(stream, filter string) bool {
	return filter == "" && (stream == DeadLettersStream || stream == "KV_"+LedgerBucket)
}

// pipeline reads the messages of width stretches, one of each at once. It replaces page for
// streams that are read one by one. A request gets the first message at or after a number: over
// gaps in a stretch, such as the claims of the ledger that outcomes have replaced, one request
// leads, and the last stretch leads over a gap of any length.
func (b *Broker) pipeline(ctx context.Context, stream string, from uint64, width int) (page []*jetstream.RawStreamMsg, ended bool, err error) {
	stretches := make([]stretch, width)
	for i := range stretches {
		begin := from + uint64(i)*stretchLength
		stretches[i] = stretch{next: begin, end: begin + stretchLength}
	}
	for left := true; left && err == nil; {
		stretches, left, err = b.advance(ctx, stream, stretches)
	}
	for _, s := range stretches {
		if page = append(page, s.page...); !s.read() {
			return page, s.noMore, err
		}
	}
	return page, false, err
}

// advance requests the next message of each stretch that is not read yet. It returns the
// stretches without those beyond the end of the stream, and whether any is left to be read.
func (b *Broker) advance(ctx context.Context, stream string, stretches []stretch) (rest []stretch, left bool, err error) {
	var asked []int
	var requests []string
	for i := range stretches {
		if s := &stretches[i]; !s.read() && !s.noMore {
			asked = append(asked, i)
			requests = append(requests, fmt.Sprintf(`{"seq":%d,"next_by_subj":">"}`, s.next))
		}
	}
	if len(asked) == 0 {
		return stretches, false, nil
	}
	answered, err := b.requestAll(ctx, stream, requests)
	for i, answer := range answered {
		s, last := &stretches[asked[i]], asked[i] == len(stretches)-1
		if answer == nil {
			return stretches, false, err
		}
		if serverHeader(answer, headerSequence) == "" {
			_, s.noMore, err = parseBatchEnd(nil, answer, 0)
			return stretches[:asked[i]+1], true, err
		}
		m, err := rawMessage(answer)
		if err == nil && m.Sequence < s.next {
			err = fmt.Errorf("the server answered with message %d to a request for %d or later", m.Sequence, s.next)
		}
		if err != nil {
			return stretches, false, err
		}
		if m.Sequence < s.end || last { // otherwise another stretch has it
			s.page = append(s.page, m)
		}
		s.next = m.Sequence + 1
	}
	return stretches, true, nil
}

// requestAll sends direct gets of one message each and waits for their answers, which are
// in the order of the requests. With an error, those that did not arrive are nil.
func (b *Broker) requestAll(ctx context.Context, stream string, requests []string) ([]*nats.Msg, error) {
	answered := make([]*nats.Msg, len(requests))
	answers := make(chan *nats.Msg, len(requests)+2)
	inbox := b.nc.NewInbox() + "."
	sub, err := b.nc.ChanSubscribe(inbox+"*", answers)
	if err != nil {
		return answered, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for i, request := range requests {
		if err := b.nc.PublishRequest(b.apiPrefix()+"DIRECT.GET."+stream, inbox+strconv.Itoa(i), []byte(request)); err != nil {
			return answered, err
		}
	}
	overdue := time.NewTimer(readTimeout)
	defer overdue.Stop()
	for left := len(requests); left > 0; {
		select {
		case <-ctx.Done():
			return answered, ctx.Err()
		case <-overdue.C:
			return answered, nats.ErrTimeout
		case answer := <-answers:
			overdue.Reset(readTimeout)
			i, err := strconv.Atoi(strings.TrimPrefix(answer.Subject, inbox))
			if err == nil && i >= 0 && i < len(answered) && answered[i] == nil {
				answered[i] = answer
				left--
			}
		}
	}
	return answered, nil
}

// EntriesAt returns the ledger's entries with these revisions, in their order and without
// those that have changed since.
func (b *Broker) EntriesAt(ctx context.Context, revisions []uint64) ([]LedgerChange, error) {
	requests := make([]string, len(revisions))
	for i, revision := range revisions {
		requests[i] = fmt.Sprintf(`{"seq":%d}`, revision)
	}
	answered, err := b.requestAll(ctx, "KV_"+LedgerBucket, requests)
	if ctx.Err() != nil {
		return nil, b.readError(ctx, "KV_"+LedgerBucket, err)
	}
	entries := make([]LedgerChange, 0, len(revisions))
	for i, answer := range answered {
		if answer != nil && serverHeader(answer, headerSequence) != "" {
			if m, err := rawMessage(answer); err == nil && m.Sequence == revisions[i] {
				c := ledgerChange(m)
				b.prove(m, &c)
				entries = append(entries, c)
				continue
			}
		}
		c, err := b.EntryAt(ctx, revisions[i]) // this replica does not have it, but the leader may
		if errors.Is(err, ErrNoEntry) {
			continue
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, c)
	}
	return entries, nil
}

// nextWidth returns how many stretches to read at once after width of them have brought a
// page: fewer after long gaps or large messages.
func nextWidth(width int, page []*jetstream.RawStreamMsg) int {
	switch {
	case len(page) < width:
		width = max(width/2, 1)
	case len(page) >= width*2:
		width = min(width*2, maxPipeline)
	}
	size := 0
	for _, m := range page {
		size += len(m.Data)
	}
	if size == 0 {
		return width
	}
	return max(min(width, readBytes*len(page)/size/stretchLength), 1)
}
