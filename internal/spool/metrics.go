package spool

import (
	"errors"
	"io/fs"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Held is what the names of a spool's files say: a look that is cheap however much it holds.
// State reads the files, too.
type Held struct {
	Waiting int       // files of events that wait, also if they cannot be read
	Refused int       // events that were set aside
	Bytes   int64     // of all of them
	Oldest  time.Time // when the first that waits was added; zero if none waits
}

// Held returns what the spool holds; nothing if it was never used.
func (s *Spool) Held() (held Held, err error) {
	names, err := s.names()
	if errors.Is(err, fs.ErrNotExist) {
		return held, nil
	}
	for _, f := range names {
		held.Bytes += f.size
		if f.refused {
			held.Refused++
			continue
		}
		if held.Waiting++; held.Waiting == 1 {
			held.Oldest = time.UnixMicro(int64(f.number)) // Add makes numbers of the time
		}
	}
	return held, err
}

// The metrics of a spool.
var (
	heldEvents   = prometheus.NewDesc("certpost_spool_events", "Events in the spool of publishers on this host by state: waiting, refused (set aside, will not be published).", []string{"state"}, nil)
	heldBytes    = prometheus.NewDesc("certpost_spool_bytes", "Size of the events in the spool, in bytes.", nil, nil)
	heldOldest   = prometheus.NewDesc("certpost_spool_oldest_timestamp_seconds", "When the oldest event that waits in the spool was added, in seconds since 1970; 0 if none waits.", nil, nil)
	heldReadable = prometheus.NewDesc("certpost_spool_readable", "Whether the spool can be read: 1 or 0.", nil, nil)
)

// Describe and Collect make a Spool a prometheus.Collector.
func (s *Spool) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{heldEvents, heldBytes, heldOldest, heldReadable} {
		ch <- d
	}
}

// Collect looks at the directory.
func (s *Spool) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	held, err := s.Held()
	if err != nil {
		gauge(heldReadable, 0)
		return
	}
	oldest := 0.0
	if !held.Oldest.IsZero() {
		oldest = float64(held.Oldest.UnixMilli()) / 1000
	}
	gauge(heldReadable, 1)
	gauge(heldEvents, float64(held.Waiting), "waiting")
	gauge(heldEvents, float64(held.Refused), "refused")
	gauge(heldBytes, float64(held.Bytes))
	gauge(heldOldest, oldest)
}
