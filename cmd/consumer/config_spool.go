package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/config"
	"github.com/certpost/certpost/internal/spool"
)

// SpoolConfig is the section spool: where publishers keep events that they cannot publish
// at once. docs/publishing.md describes it.
type SpoolConfig struct {
	// Dir is the directory of the spool; only its owner may read it. Give an absolute path
	// where hooks run in other directories. Default: spool in data_dir.
	Dir string `yaml:"dir"`
	// MaxEvents is the number of events that the spool keeps; a full one keeps no more.
	MaxEvents int `yaml:"max_events" min:"1" max:"1000000"`
	// MaxSize is the size of all files in the spool.
	MaxSize Size `yaml:"max_size"`
	// WarnAfter is the age at which `certpost check` and the watcher warn of an event that waits.
	WarnAfter time.Duration `yaml:"warn_after" min:"1m"`
}

func defaultSpool() SpoolConfig {
	return SpoolConfig{MaxEvents: 10_000, MaxSize: 100 << 20, WarnAfter: time.Hour}
}

// spool is the spool of publishers with this configuration.
func (c *Config) spool() *spool.Spool {
	return spool.New(cmp.Or(c.Spool.Dir, filepath.Join(c.DataDir, "spool")), spool.Limits{Events: c.Spool.MaxEvents, Bytes: int64(c.Spool.MaxSize)})
}

// inspectSpool warns of events that wait for long, and of those that were set aside.
func (c *Config) inspectSpool(now time.Time) []config.Problem {
	var f findings
	if err := c.spool().Check(); err != nil && !errors.Is(err, fs.ErrPermission) {
		f.err("spool.dir", "publishers can keep nothing: "+strings.TrimPrefix(err.Error(), "spool: "))
		return f
	}
	state, err := c.spool().State()
	switch {
	case err != nil:
		f.warn("spool", "cannot be looked at: "+err.Error())
		return f
	case state.Waiting > 0 && now.Sub(state.Oldest) >= c.Spool.WarnAfter:
		f.warn("spool", state.Dir+" has "+waitingText(state, now)+": `certpost publish --flush` publishes them, or says what is in the way")
	}
	for i, r := range state.Refused {
		if i == 10 {
			f.warn("spool", fmt.Sprintf("%s has %d more events that will not be published", state.Dir, len(state.Refused)-i))
			break
		}
		if r.Damaged {
			f.warn("spool", r.Reason)
			continue
		}
		f.warn("spool", "the event in "+r.File+" will not be published ("+r.Reason+"): look at it, then remove the file")
	}
	return f
}

// spoolStill is how long events may wait in the spool before health says so: a publisher that can
// publish needs seconds.
const spoolStill = time.Minute

// spoolHealth is degraded if events wait for longer than publishers need, or were set aside. A
// spool of another user is that user's to look at.
func spoolHealth(s *spool.Spool, now time.Time) check {
	held, err := s.Held()
	c := verdictOn("spool", "nats", degraded, nil)
	switch {
	case errors.Is(err, fs.ErrPermission):
		c.Message = "not known: it belongs to another user"
	case err != nil:
		c = verdictOn("spool", "nats", degraded, err)
	case held.Waiting > 0 && now.Sub(held.Oldest) > spoolStill:
		c = verdictOn("spool", "nats", degraded, errors.New(waitingText(spool.State{Waiting: held.Waiting, Oldest: held.Oldest}, now)+": `certpost publish --flush` publishes them, or says what is in the way"))
	case held.Refused > 0:
		c = verdictOn("spool", "nats", degraded, errors.New(count(held.Refused, "event was", "events were")+" set aside and will not be published: `certpost check` says why"))
	}
	return c
}

// waitingText says how many events wait, and for how long.
func waitingText(s spool.State, now time.Time) string {
	return count(s.Waiting, "event") + " to publish, the oldest for " + now.Sub(s.Oldest).Round(time.Second).String()
}
