package spool

import (
	"errors"
	"io/fs"
	"path/filepath"
	"time"
)

// State is what a spool holds.
type State struct {
	Dir     string    `json:"dir"`
	Waiting int       `json:"waiting"`
	Bytes   int64     `json:"bytes"` // of those that wait
	Oldest  time.Time `json:"oldest,omitzero"`
	// Refused are files of events that will never be published as they are, with the reasons.
	Refused []Refused `json:"refused,omitempty"`
}

// Refused is an event that was set aside, or a file that is none.
type Refused struct {
	File   string `json:"file"`
	Event  string `json:"event,omitempty"`
	Reason string `json:"reason"`
	// Damaged says that the file cannot be read as an event. Nothing has set it aside, so if it was
	// one, it still has to be published.
	Damaged bool `json:"damaged,omitempty"`
}

// Damaged returns the files that cannot be read, as a flush would.
func (s State) Damaged() (failures []Failure) {
	for _, r := range s.Refused {
		if r.Damaged {
			failures = append(failures, Failure{nil, errors.New(r.Reason)})
		}
	}
	return failures
}

// State returns what the spool holds; an empty State if it was never used.
func (s *Spool) State() (State, error) {
	state := State{Dir: s.dir}
	names, err := s.names()
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	if err != nil {
		return state, err
	}
	for _, f := range names {
		e, refused, err := s.read(f)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			state.Refused = append(state.Refused, Refused{File: filepath.Join(s.dir, f.name), Reason: err.Error(), Damaged: !f.refused})
		case f.refused:
			state.Refused = append(state.Refused, Refused{File: filepath.Join(s.dir, f.name), Event: e.Event.ID, Reason: refused})
		default:
			state.Waiting, state.Bytes = state.Waiting+1, state.Bytes+f.size
			if state.Oldest.IsZero() || e.Added.Before(state.Oldest) {
				state.Oldest = e.Added
			}
		}
	}
	return state, nil
}
