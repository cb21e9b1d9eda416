package broker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// exportLine is one line of an export: a record as it is stored, or the end.
type exportLine struct {
	Sequence uint64    `json:"sequence,omitempty"`
	Subject  string    `json:"subject,omitempty"`
	Stored   time.Time `json:"stored,omitzero"` // by the server's clock; no HMAC covers it
	HMAC     string    `json:"hmac,omitempty"`
	// Record are the stored bytes if they are JSON on one line, as Certpost writes them; Bytes
	// are those of anything else.
	Record json.RawMessage `json:"record,omitempty"`
	Bytes  []byte          `json:"bytes,omitempty"`
	End    json.RawMessage `json:"end,omitempty"` // an ExportEnd; HMAC is that of its bytes
}

// ExportEnd is the last line of an export. It says how far the audit went, so that a file that
// was cut off is noticed.
type ExportEnd struct {
	From     uint64    `json:"from"` // the first record that was asked for
	Records  uint64    `json:"records"`
	Head     Anchor    `json:"head"`
	Created  time.Time `json:"created"` // of the stream
	Exported time.Time `json:"exported"`
	Signed   bool      `json:"-"` // set when it is read: its HMAC is right
}

// labelExport is the label of the HMAC of an export's end.
const labelExport = "certpost audit export"

// ExportAudit writes the audit's records from a sequence on as they are stored, one per line,
// for VerifyExport. Nothing is changed or left out; checkpoints are included. The end is signed
// if the configuration has the keys.
func (b *Broker) ExportAudit(ctx context.Context, from uint64, out io.Writer) error {
	s, err := b.js.Stream(ctx, AuditStream)
	if err != nil {
		return fmt.Errorf("stream %s: %w", AuditStream, err)
	}
	end := ExportEnd{From: max(from, 1), Created: s.CachedInfo().Created}
	w := bufio.NewWriterSize(out, 64<<10)
	for raw, err := range b.read(ctx, AuditStream, "", from) {
		if err != nil {
			return err
		}
		if err := writeLine(w, exportLine{Sequence: raw.Sequence, Subject: raw.Subject, Stored: raw.Time, HMAC: raw.Header.Get(headerProof)}, raw.Data); err != nil {
			return err
		}
		end.Records++
		end.Head = Anchor{raw.Sequence, hashOf(raw.Data)}
	}
	key, err := b.signer(ctx)
	if err != nil && b.cfg.AuditKeys != nil {
		return err
	}
	end.Exported = time.Now().UTC()
	line := exportLine{}
	if line.End, err = json.Marshal(end); err != nil {
		return err
	}
	if key != nil {
		line.HMAC = key.proof(labelExport, end.Head.Sequence, "", line.End)
	}
	return errors.Join(writeLine(w, line, nil), w.Flush())
}

// writeLine writes a line. A record's bytes are put in as they are: an encoder would format
// them anew.
func writeLine(w *bufio.Writer, line exportLine, record []byte) error {
	whole := len(record) > 0 && json.Valid(record) && !bytes.ContainsAny(record, "\r\n")
	if !whole && len(record) > 0 {
		line.Bytes = record
	}
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	if whole {
		text = append(append(append(text[:len(text)-1], `,"record":`...), record...), '}')
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

// longestLine bounds a line of an export: a record is at most a NATS message, in base64.
const longestLine = 96 << 20

// VerifyExport verifies what ExportAudit has written, without NATS: each record, that none is
// missing between them, and the end. Without keys no HMAC is checked. It reads the file twice,
// because what an operator has accepted stands behind it.
func VerifyExport(in io.ReadSeeker, keys *AuditKeys, anchors ...Anchor) (AuditReport, *ExportEnd, error) {
	w := newWalk(keys, anchors)
	w.report.Keyless = keys == nil
	lines := newExportReader(in)
	for lines.next() {
		if raw := lines.line.stored(); strings.HasPrefix(raw.Subject, auditPrefix+string(ActionAccepted)+".") {
			if a := acceptedIn(keys, raw); a != nil {
				w.accepted = append(w.accepted, *a)
			}
		}
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return w.report, nil, err
	}
	for lines = newExportReader(in); lines.next(); {
		if lines.line.End != nil {
			end := w.endOfFile(lines.line)
			if w.report.Break == nil && lines.lines.Scan() {
				w.setBreak(w.report.Head.Sequence+1, BreakForeign, "the file has lines after its end, in line %d", lines.n+1)
			}
			return w.report, end, lines.lines.Err()
		}
		if w.step(lines.line.stored()); w.report.Break != nil {
			return w.report, nil, nil
		}
	}
	head := w.report.Head.Sequence
	switch err := lines.lines.Err(); {
	case err != nil:
		return w.report, nil, err
	case lines.foreign:
		w.setBreak(head+1, BreakForeign, "line %d is not that of an export: write one with `certpost audit export --signed`", lines.n)
	default:
		w.setBreak(head+1, BreakTruncated, "the file has no end: lines after record %d are missing", head)
	}
	return w.report, nil, nil
}

// exportReader reads an export line by line.
type exportReader struct {
	lines   *bufio.Scanner
	line    exportLine
	n       int
	foreign bool // line n is not that of an export
}

func newExportReader(in io.Reader) *exportReader {
	r := &exportReader{lines: bufio.NewScanner(in)}
	r.lines.Buffer(nil, longestLine)
	return r
}

// next reads the next line; false at the end and at a line that is not that of an export.
func (r *exportReader) next() bool {
	if !r.lines.Scan() {
		return false
	}
	r.n++
	r.line = exportLine{}
	err := json.Unmarshal(r.lines.Bytes(), &r.line)
	r.foreign = err != nil || (r.line.Sequence == 0) == (r.line.End == nil)
	return !r.foreign
}

// stored returns the record of a line as it is in the stream.
func (l *exportLine) stored() *jetstream.RawStreamMsg {
	raw := &jetstream.RawStreamMsg{Sequence: l.Sequence, Subject: l.Subject, Time: l.Stored, Header: nats.Header{}, Data: l.Bytes}
	if l.Record != nil {
		raw.Data = l.Record
	}
	if l.HMAC != "" {
		raw.Header.Set(headerProof, l.HMAC)
	}
	return raw
}

// endOfFile checks the last line of an export.
func (w *walk) endOfFile(line exportLine) *ExportEnd {
	var end ExportEnd
	if err := json.Unmarshal(line.End, &end); err != nil {
		w.setBreak(w.report.Head.Sequence+1, BreakForeign, "the end of the file cannot be read")
		return nil
	}
	head := w.report.Head
	if w.keys != nil {
		result, key := w.keys.check(line.HMAC, labelExport, end.Head.Sequence, "", line.End)
		switch {
		case result == unknownKey && w.strange.count > 0: // end says so
		case result == forged, result == unknownKey, result == authentic && head == end.Head && w.inForce != "" && key != w.inForce:
			w.setBreak(head.Sequence, BreakForged, "the HMAC of the file's end is wrong: the end was changed, or not written by Certpost")
			return &end
		case result == unsigned && w.report.SignedFrom != 0:
			w.setBreak(head.Sequence, BreakUnsigned, "the file's end has no HMAC, so lines before it may be missing: export with a configuration that has the key")
			return &end
		}
		end.Signed = result == authentic
	}
	switch {
	case head != end.Head && head.Sequence < end.Head.Sequence:
		w.setBreak(head.Sequence+1, BreakTruncated, "%s missing at the end of the file", numbers(head.Sequence+1, end.Head.Sequence))
	case w.report.First > end.From && end.Exported.Sub(end.Created) < auditAge:
		w.setBreak(end.From, BreakTruncated, "%s missing at the start of the file, and the stream was too young for them to have aged out", numbers(end.From, w.report.First-1))
	case head != end.Head || w.report.Records != end.Records:
		w.setBreak(head.Sequence, BreakChanged, "the file's end is about other records: %d up to %s, not %d up to %s", end.Records, end.Head, w.report.Records, head)
	default:
		if end.From == 1 {
			w.checkFront(end.Exported)
		}
		if w.report.Break == nil {
			w.end(head.Sequence)
		}
	}
	if end.From > 1 {
		w.report.AgedOut = w.report.First - min(end.From, w.report.First)
	}
	return &end
}
