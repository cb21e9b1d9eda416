package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// Refusal is the error of a send for an event that can never be published as it is. It is
// set aside, with the reason.
type Refusal struct{ Err error }

func (r *Refusal) Error() string { return r.Err.Error() }

func (r *Refusal) Unwrap() error { return r.Err }

// Failure is an entry that a flush could not send.
type Failure struct {
	Entry *Entry // nil for a file that cannot be read
	Err   error  // a *Refusal if it was set aside
}

// Flush sends what waits, in the order in which it was added, until nothing is left that can
// be sent. One process flushes at a time; others wait until the context ends.
//
// An entry leaves the spool once send has returned nil. After another error it stays, and so
// do later entries of the same source on the same subject, to keep their order. If ctx ends,
// or away says after a failure that nothing else can be sent either, Flush returns. The
// failures are in order; the error says that the spool itself could not be used.
func (s *Spool) Flush(ctx context.Context, send func(context.Context, *Entry) error, away func() bool) (failures []Failure, err error) {
	if _, err := s.names(); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := s.open(); err != nil { // others may have put into it what they like
		return nil, err
	}
	unlock, err := s.lock(ctx, flushLock)
	if err != nil {
		return nil, err
	}
	defer unlock()
	behind := map[[2]string]bool{} // sources with an entry that stays
	for last := uint64(0); ; {
		names, err := s.names()
		if err != nil {
			return failures, err
		}
		sent := false
		for _, f := range names {
			if f.refused || f.number <= last {
				continue
			}
			last, sent = f.number, true
			e, _, err := s.read(f)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil { // it stays: State shows it
				failures = append(failures, Failure{nil, err})
				continue
			}
			line := [2]string{e.Event.Subject, e.Event.Source}
			if behind[line] {
				failures = append(failures, Failure{e, errBehind})
				continue
			}
			err = send(ctx, e)
			if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
				failures = append(failures, Failure{e, err})
				err = s.setAside(ctx, e, refusal)
			} else if err != nil {
				failures = append(failures, Failure{e, err})
				behind[line] = true
				if ctx.Err() != nil || away() {
					return failures, nil
				}
				continue
			} else {
				s.reach("sent")
				err = s.Remove(e.Number)
			}
			if err != nil { // it would be sent again and again
				return failures, err
			}
		}
		if !sent { // also nothing that was added meanwhile
			return failures, nil
		}
	}
}

var errBehind = errors.New("an earlier event of this source waits")

// setAside renames an entry, after the reason was added.
func (s *Spool) setAside(ctx context.Context, e *Entry, refusal *Refusal) error {
	body, err := encode(e, refusal.Error())
	if err != nil {
		return err
	}
	unlock, err := s.lock(context.WithoutCancel(ctx), addLock)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.write(refusedName(e.Number), body); err != nil {
		return fmt.Errorf("set aside an event that cannot be published: %w", err)
	}
	return s.removeWaiting(e.Number)
}
