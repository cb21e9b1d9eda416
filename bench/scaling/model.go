package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What a mail costs. docs/scaling.md says where each figure comes from.
const (
	certpostTime = 0.9e-3 // seconds of a core in a Certpost, with NATS in other processes
	serverTime   = 1.5e-3 // seconds of a core in each of the three servers that keep everything
	embeddedTime = 2.2e-3 // seconds of a core, with the embedded server and sync_interval: always
	entryBytes   = 170    // of memory in each server for an entry of the ledger
	replyTime    = 25e-3  // seconds that a relay takes for a mail
)

// What each part has.
const (
	cores       = 2   // of a Certpost and of a server
	busy        = 0.6 // share of them that may be in use at the busiest time
	workers     = 64  // delivery.concurrency
	connections = 20  // of a process to a relay
	lanes       = 200 // consumers that a work queue serves without getting slower
	relayRate   = 100 // mails a second that a relay wants from one sender
	peak        = 4   // times the average rate at the busiest time
	memory      = 8e9 // bytes for the index of the ledger in a server
	perCluster  = 8   // cells on three servers of 64 GiB, their other memory included
	embeddedMax = 5e6 // entries of a ledger in an embedded server: below 1 GB of memory
	longest     = 400 // days, the default of nats.ledger_age
	middle      = 60  // days
	shortest    = 31  // days, the least that is allowed
)

// Size is what an installation for a number of deliveries a day has.
type Size struct {
	Daily     float64
	Rate      float64 // mails a second at the busiest time
	Relays    int     // at least, for that rate
	Days      int     // nats.ledger_age
	Embedded  bool    // one process with its own server
	Cells     int     // accounts with streams and Certposts of their own
	Decides   string  // what makes them so many
	Processes int     // Certposts in a cell
	Clusters  int     // of three servers; 0 if embedded
	Index     float64 // bytes of memory for the ledger's index, in each server of a cell
	// ByRate, ByLedger and ByLanes are the numbers of cells that each would need on its own.
	ByRate, ByLedger, ByLanes int
}

func up(x float64) int { return max(1, int(math.Ceil(x-1e-9))) }

// cellRate is the number of mails a second that the servers of a cell bear.
const cellRate = cores * busy / serverTime

// SizeFor applies the model.
func SizeFor(daily float64) Size {
	s := Size{Daily: daily, Rate: daily / (24 * time.Hour).Seconds() * peak, Days: longest}
	s.Relays = up(s.Rate / relayRate)
	if daily*longest <= embeddedMax && s.Rate*embeddedTime <= cores*busy {
		s.Embedded, s.Cells, s.Processes, s.Decides = true, 1, 1, "-"
		s.Index = daily * longest * entryBytes
		s.ByRate, s.ByLedger, s.ByLanes = 1, 1, 1
		return s
	}
	// The ledger remembers for as long as one cell can, and for less when there are many.
	for _, s.Days = range []int{longest, middle, shortest} {
		s.ByLedger = up(daily * float64(s.Days) * entryBytes / memory)
		if s.ByLedger <= 2*perCluster {
			break
		}
	}
	s.ByRate, s.ByLanes = up(s.Rate/cellRate), up(float64(s.Relays)/lanes)
	s.Cells = max(s.ByRate, s.ByLedger, s.ByLanes)
	switch {
	case s.Cells == 1:
		s.Decides = "-"
	case s.Cells == s.ByLedger:
		s.Decides = "memory of the ledger"
	case s.Cells == s.ByRate:
		s.Decides = "rate"
	default:
		s.Decides = "lanes"
	}
	each := s.Rate / float64(s.Cells)
	s.Processes = max(2, up(each*certpostTime/(cores*busy))) // two, because one may be restarted
	s.Clusters = up(float64(s.Cells) / perCluster)
	s.Index = daily / float64(s.Cells) * float64(s.Days) * entryBytes
	return s
}

// Daily are the numbers of deliveries a day in the table.
var Daily = []float64{1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

// Report prints the table, in Markdown.
func Report(w io.Writer) error {
	var b strings.Builder
	b.WriteString("| deliveries a day | mails/s at the busiest time | relays | `ledger_age`, days | NATS | cells, because of | Certposts | ledger's index in each server | busiest, in the model / simulated | p50 / p99 simulated |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	for _, daily := range Daily {
		s := SizeFor(daily)
		r := Simulate(s, s.Rate/float64(s.Cells), 1)
		if !r.Stable {
			return fmt.Errorf("%g deliveries a day: the simulation does not keep up: %+v", daily, r)
		}
		layout, cells := "embedded", "1"
		if !s.Embedded {
			layout = fmt.Sprintf("%d x 3 servers", s.Clusters)
			if s.Cells > 1 {
				cells = fmt.Sprintf("%d, %s", s.Cells, s.Decides)
			}
		}
		model := s.Busiest(s.Rate / float64(s.Cells))
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %s | %s | %d | %s | %.1f %% / %.1f %% | %.0f / %.0f ms |\n", power(daily), rate(s.Rate), s.Relays, s.Days, layout, cells,
			s.Cells*s.Processes, size(s.Index), model*100, r.Busiest*100, r.P50*1000, r.P99*1000)
	}
	b.WriteString("\n| what ends first in one cell, or without cells | at deliveries a day |\n|---|---|\n")
	for _, l := range Limits() {
		fmt.Fprintf(&b, "| %s | %s |\n", l.What, thousands(l.Daily))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Limit is where something ends.
type Limit struct {
	What  string
	Daily float64
}

// Limits returns where one cell ends, the first first.
func Limits() []Limit {
	perDay := (24 * time.Hour).Seconds() / peak
	all := []Limit{
		{"the ledger of the embedded server, 400 days, in 1 GB", embeddedMax / longest},
		{"the ledger in three servers, 400 days, in 8 GB of each", memory / entryBytes / longest},
		{"the same, 60 days", memory / entryBytes / middle},
		{"the same, 31 days", memory / entryBytes / shortest},
		{"the servers' processors, at 60 % of two cores at the busiest time", cellRate * perDay},
		{"200 lanes, with relays that want 100 mails/s at most", lanes * relayRate * perDay},
	}
	slices.SortStableFunc(all, func(a, b Limit) int { return cmp.Compare(a.Daily, b.Daily) })
	return all
}

// thousands writes a number, rounded to two digits, with commas.
func thousands(x float64) string {
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	text := strconv.FormatFloat(math.Round(x/unit)*unit, 'f', 0, 64)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Busiest returns the share of the busiest part of a cell that is in use at a rate.
func (s Size) Busiest(rate float64) float64 {
	if s.Embedded {
		return rate * embeddedTime / cores
	}
	relays := up(rate / relayRate)
	return max(rate*serverTime/cores, rate*certpostTime/float64(cores*s.Processes), rate*replyTime/float64(connections*s.Processes*relays))
}

func power(x float64) string { return "10^" + strconv.Itoa(int(math.Round(math.Log10(x)))) }

func rate(x float64) string {
	if x < 10 {
		return fmt.Sprintf("%.2g", x)
	}
	return fmt.Sprintf("%.0f", x)
}

func size(x float64) string {
	if x < 1e9 {
		return fmt.Sprintf("%.0f MB", x/1e6)
	}
	return fmt.Sprintf("%.1f GB", x/1e9)
}
