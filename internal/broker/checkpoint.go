package broker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/certpost/certpost/internal/backoff"
)

// Checkpoint says which entries with receipts the ledger had. It is written for many
// deliveries at once, so that no delivery costs a stored write of its own.
type Checkpoint struct {
	From    uint64    `json:"from"` // the first and the last of their revisions in the ledger
	To      uint64    `json:"to"`
	Count   int       `json:"count"`
	Root    string    `json:"root"`           // of the Merkle tree of the leaves (RFC 6962, section 2.1), hexadecimal
	Created time.Time `json:"ledger_created"` // of the ledger's stream: revisions belong to it
	// Recovered are those among them that no checkpoint of the process that wrote them covers:
	// it ended before. Their own HMAC says that they are right.
	Recovered int `json:"recovered,omitempty"`
	// Leaves are, for each entry in the order of revisions: the revision, as a varint of the
	// difference to the one before it, 8 bytes of the SHA-256 of the key, and the SHA-256 of the
	// stored value.
	Leaves []byte `json:"leaves"`
}

const (
	// checkpointEvery and checkpointSize say when a checkpoint is written: after a minute, or
	// after 1,000 deliveries.
	checkpointEvery = time.Minute
	checkpointSize  = 1000
	// mostPending bounds the leaves in memory while no checkpoint can be written. Older ones are
	// left out, and recovered from the ledger later.
	mostPending = 100 * checkpointSize
)

// receiptLog holds the receipts that this process has written since its last checkpoint.
type receiptLog struct {
	mu      sync.Mutex
	pending []leaf
	full    chan struct{} // a checkpoint is due
}

// noteReceipt remembers an entry with a receipt for the next checkpoint.
func (b *Broker) noteReceipt(l leaf) {
	log := &b.receipts
	log.mu.Lock()
	defer log.mu.Unlock()
	if len(log.pending) == mostPending {
		log.pending = slices.Delete(log.pending, 0, checkpointSize)
	}
	if log.pending = append(log.pending, l); len(log.pending) >= checkpointSize {
		select {
		case log.full <- struct{}{}:
		default:
		}
	}
}

// RunCheckpoints writes checkpoints until the context ends.
func (b *Broker) RunCheckpoints(ctx context.Context) {
	tick := time.NewTicker(checkpointEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-b.receipts.full:
		}
		if err := b.WriteCheckpoint(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn().Err(err).Msg("the audit does not cover the receipts of the last deliveries yet; trying again")
			backoff.Sleep(ctx, backoff.Jitter(time.Second))
		}
	}
}

// WriteCheckpoint covers all receipts that this process has written since the last one.
func (b *Broker) WriteCheckpoint(ctx context.Context) error {
	for {
		leaves := b.receipts.take()
		if len(leaves) == 0 {
			return nil
		}
		if err := b.appendCheckpoint(ctx, leaves); err != nil {
			b.receipts.putBack(leaves)
			return err
		}
	}
}

// take removes the oldest pending leaves, at most checkpointSize.
func (log *receiptLog) take() []leaf {
	log.mu.Lock()
	defer log.mu.Unlock()
	n := min(len(log.pending), checkpointSize)
	leaves := slices.Clone(log.pending[:n])
	log.pending = slices.Delete(log.pending, 0, n)
	slices.SortFunc(leaves, func(a, b leaf) int { return cmp.Compare(a.revision, b.revision) })
	return slices.CompactFunc(leaves, func(a, b leaf) bool { return a.revision == b.revision })
}

func (log *receiptLog) putBack(leaves []leaf) {
	log.mu.Lock()
	defer log.mu.Unlock()
	log.pending = append(leaves, log.pending...)
}

func (b *Broker) appendCheckpoint(ctx context.Context, leaves []leaf) error {
	s, err := b.js.Stream(ctx, "KV_"+LedgerBucket)
	if err != nil {
		return fmt.Errorf("stream KV_%s: %w", LedgerBucket, err)
	}
	root, recovered := merkleRoot(leaves), 0
	for _, l := range leaves {
		if l.recovered {
			recovered++
		}
	}
	return b.Append(ctx, AuditRecord{Action: ActionCheckpoint, Actor: ProcessActor(b.nc.Opts.Name), Checkpoint: &Checkpoint{
		From: leaves[0].revision, To: leaves[len(leaves)-1].revision, Count: len(leaves), Root: hex.EncodeToString(root[:]),
		Created: s.CachedInfo().Created, Recovered: recovered, Leaves: packLeaves(leaves),
	}})
}

// leafSize is the size of a packed leaf without its revision.
const leafSize = 8 + sha256.Size

func packLeaves(leaves []leaf) []byte {
	packed := make([]byte, 0, len(leaves)*(leafSize+2))
	before := uint64(0)
	for _, l := range leaves {
		packed = binary.AppendUvarint(packed, l.revision-before)
		packed = binary.BigEndian.AppendUint64(packed, l.key)
		packed = append(packed, l.hash[:]...)
		before = l.revision
	}
	return packed
}

// leaves unpacks the leaves, and checks them against the root.
func (c *Checkpoint) leaves() ([]leaf, error) {
	var all []leaf
	before := uint64(0)
	for rest := c.Leaves; len(rest) > 0; {
		step, n := binary.Uvarint(rest)
		if n <= 0 || len(rest) < n+leafSize {
			return nil, errors.New("its leaves cannot be read")
		}
		l := leaf{revision: before + step, key: binary.BigEndian.Uint64(rest[n:])}
		copy(l.hash[:], rest[n+8:])
		all, before, rest = append(all, l), l.revision, rest[n+leafSize:]
	}
	if root := merkleRoot(all); hex.EncodeToString(root[:]) != c.Root || len(all) != c.Count {
		return nil, errors.New("its root is not that of its leaves")
	}
	return all, nil
}

// merkleRoot is the root of the tree of RFC 6962, section 2.1, over the packed leaves.
func merkleRoot(leaves []leaf) [sha256.Size]byte {
	switch len(leaves) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		var text [1 + 8 + leafSize]byte
		binary.BigEndian.PutUint64(text[1:], leaves[0].revision)
		binary.BigEndian.PutUint64(text[9:], leaves[0].key)
		copy(text[17:], leaves[0].hash[:])
		return sha256.Sum256(text[:])
	}
	half := 1
	for half*2 < len(leaves) {
		half *= 2
	}
	left, right := merkleRoot(leaves[:half]), merkleRoot(leaves[half:])
	return sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:]))
}
