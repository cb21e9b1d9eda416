package main

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/certpost/certpost/bench/road"
)

// Result is one measurement.
type Result struct {
	Mails  int     `json:"mails"`
	Rate   float64 `json:"mails_per_second"`
	CPU    float64 `json:"cpu_ms_per_mail"`       // of the contestant alone: not of the sink, not of the publisher
	Memory float64 `json:"peak_mib"`              // the sum of the peaks of its processes
	P50    float64 `json:"p50_ms,omitempty"`      // of measurements that send one mail at a time
	Read   float64 `json:"read_mib,omitempty"`    // from the disk
	Write  float64 `json:"written_mib,omitempty"` // to the disk
}

func (r Result) String() string {
	text := fmt.Sprintf("%8.0f mails/s  %6.3f cpu-ms/mail  %5.0f MiB", r.Rate, r.CPU, r.Memory)
	if r.P50 > 0 {
		text += fmt.Sprintf("  p50 %.2f ms", r.P50)
	}
	return text
}

func rate(r Result) float64 { return r.Rate }
func cpu(r Result) float64  { return r.CPU }
func p50(r Result) float64  { return r.P50 }

func medianOf(all []Result, by func(Result) float64) float64 {
	var values []float64
	for _, r := range all {
		values = append(values, by(r))
	}
	return road.Median(values)
}

// ratios returns, by round, a figure's ratio.
func (f figure) ratios(all map[string][]Result) (out []float64) {
	for i := range all[f.Of] {
		out = append(out, f.By(all[f.Of][i])/f.By(all[f.To][i]))
	}
	return out
}

func (f figure) reached(ratio float64) string {
	switch {
	case f.Wanted == 0:
		return ""
	case f.Most && ratio <= f.Wanted, !f.Most && ratio >= f.Wanted:
		return "reached"
	}
	return "not reached"
}

func report(out io.Writer, chosen []figure, all map[string][]Result) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nFIGURE\tRATIO\tFROM\tTO\tWANTED\t\tMEASURED")
	for _, f := range chosen {
		ratios := f.ratios(all)
		wanted := "-"
		if f.Wanted > 0 {
			wanted = fmt.Sprintf("%.2f", f.Wanted)
		}
		m := road.Median(ratios)
		fmt.Fprintf(table, "%s\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s / %s, %s\n", f.Name, m, slices.Min(ratios), slices.Max(ratios), wanted, f.reached(m), f.Of, f.To, f.Unit)
	}
	fmt.Fprintln(table, "\nCONTESTANT\tMAILS/S\tCPU-MS/MAIL\tPEAK MIB\tP50 MS")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r := all[name]
		fmt.Fprintf(table, "%s\t%.0f\t%.3f\t%.0f\t%.2f\n", name, medianOf(r, rate), medianOf(r, cpu), medianOf(r, func(r Result) float64 { return r.Memory }), medianOf(r, p50))
	}
	table.Flush() // the writer is the terminal or a buffer; its error would show there
}

// Document is what -json writes.
type Document struct {
	Time         time.Time           `json:"time"`
	Processors   int                 `json:"processors"`
	Go           string              `json:"go"`
	Figures      []FigureResult      `json:"figures"`
	Measurements map[string][]Result `json:"measurements"` // by name, in the order of the rounds
}

// FigureResult is a figure of a Document.
type FigureResult struct {
	Name   string    `json:"name"`
	Median float64   `json:"median"`
	Ratios []float64 `json:"ratios"`
	Wanted float64   `json:"wanted,omitempty"`
}

func document(chosen []figure, all map[string][]Result) Document {
	d := Document{Time: time.Now().UTC(), Processors: runtime.NumCPU(), Go: runtime.Version(), Measurements: all}
	for _, f := range chosen {
		ratios := f.ratios(all)
		d.Figures = append(d.Figures, FigureResult{f.Name, road.Median(ratios), ratios, f.Wanted})
	}
	return d
}
