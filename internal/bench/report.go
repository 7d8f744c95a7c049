package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// report is everything that one run measured. It is what --json prints.
type report struct {
	Started  time.Time `json:"started"`
	Took     seconds   `json:"took_seconds"`
	Command  string    `json:"command"`
	Machine  machine   `json:"machine"`
	Warnings []string  `json:"warnings,omitempty"`
	Results  []*result `json:"results"`
}

type seconds float64

// result is one line of the table of targets.
type result struct {
	ID   string `json:"id"`
	What string `json:"what"`
	// OthersBusy is the share of the processors that other work took right before, and Load the load average then.
	OthersBusy float64   `json:"others_busy"`
	Load       float64   `json:"load"`
	Figures    []*figure `json:"figures"`
	Limits     []*figure `json:"limits,omitempty"` // of this machine, in the same run
	Notes      []string  `json:"notes,omitempty"`
	// Table is for results that are more than figures: a heading and lines.
	Table [][]string `json:"table,omitempty"`
}

// figure is one number, the median of its runs.
type figure struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Runs   []float64 `json:"runs"`
	Target *target   `json:"target,omitempty"`
}

// target is what the design asks of a figure.
type target struct {
	Value float64 `json:"value"`
	Most  bool    `json:"most"` // the figure must stay below it; else it must reach it
	Met   bool    `json:"met"`
}

func newReport(o options) *report {
	args := []string{"bench"}
	if o.server {
		args = append(args, "--server")
	}
	args = append(args, "--only", o.only, fmt.Sprintf("--close-events %d --instances %d", o.closeEvents, o.instances))
	return &report{Command: strings.Join(args, " "), Started: clockNow().UTC()}
}

// begin describes the machine before anything is measured.
func (r *report) begin(work string) {
	r.Machine = describeMachine(work)
	if busy := othersBusy(); busy > 0.1 {
		r.Warnings = append(r.Warnings, fmt.Sprintf(
			"this machine is busy (load average %.2f, processors %.0f %% in use by others): trust ratios to the limits, not figures", r.Machine.Load, 100*busy))
	}
	if r.Machine.FileSystem == "tmpfs" {
		r.Warnings = append(r.Warnings, "the temporary directory is in memory, where a sync costs nothing: choose one on a disk with --dir")
	}
}

func (r *report) end() {
	r.Took = seconds(math.Round(time.Since(r.Started).Seconds()))
	r.Machine.LoadAfter = loadAverage()
}

// add begins a result.
func (r *report) add(id, format string, args ...any) *result {
	res := &result{ID: id, What: fmt.Sprintf(format, args...), OthersBusy: othersBusy(), Load: loadAverage()}
	r.Results = append(r.Results, res)
	return res
}

// named returns the figure of a name, made when it is new.
func named(list *[]*figure, name, unit string) *figure {
	for _, f := range *list {
		if f.Name == name {
			return f
		}
	}
	f := &figure{Name: name, Unit: unit}
	*list = append(*list, f)
	return f
}

// got adds one run's value of a figure, limit one of a limit.
func (res *result) got(name, unit string, value float64) *figure {
	return named(&res.Figures, name, unit).add(value)
}

// value is the median of the figure whose name begins so, for people; "" when there is none.
func (res *result) value(name string) string {
	for _, f := range res.Figures {
		if strings.HasPrefix(f.Name, name) {
			return short(f.Median)
		}
	}
	return ""
}

func (res *result) limit(name, unit string, value float64) {
	named(&res.Limits, name, unit).add(value)
}

func (res *result) note(format string, args ...any) {
	res.Notes = append(res.Notes, fmt.Sprintf(format, args...))
}

func (f *figure) add(value float64) *figure {
	f.Runs = append(f.Runs, value)
	sorted := append([]float64(nil), f.Runs...)
	f.Median = quantile(sorted, 0.5)
	f.Min, f.Max = sorted[0], sorted[len(sorted)-1]
	if f.Target != nil {
		f.judge()
	}
	return f
}

// least and most set what the figure is measured against.
func (f *figure) least(value float64) { f.Target = &target{Value: value}; f.judge() }
func (f *figure) most(value float64)  { f.Target = &target{Value: value, Most: true}; f.judge() }

func (f *figure) judge() {
	f.Target.Met = f.Median >= f.Target.Value
	if f.Target.Most {
		f.Target.Met = f.Median <= f.Target.Value
	}
}

// write prints the report.
func (r *report) write(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	m := r.Machine
	fmt.Fprintf(w, "\n%s  %s\n%s, %d cores, %.0f GB, %s; client on the same machine; load average %.2f before, %.2f after; took %.0f s\n\n",
		r.Started.Format("2006-01-02 15:04 UTC"), r.Command, m.Processor, m.Cores, float64(m.MemoryBytes)/(1<<30), m.FileSystem, m.Load, m.LoadAfter, float64(r.Took))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tMEDIAN\tMIN - MAX\tTARGET\t")
	for _, res := range r.Results {
		if len(res.Table) > 0 {
			continue // printed below
		}
		fmt.Fprintf(table, "%s  %s\t\t\t\t\n", res.ID, res.What)
		for _, f := range res.Figures {
			f.row(table, "   ")
		}
		for _, f := range res.Limits {
			f.row(table, "   limit: ")
		}
		for _, note := range res.Notes {
			fmt.Fprintf(table, "   %s\t\t\t\t\n", note)
		}
		if res.OthersBusy > 0.1 {
			fmt.Fprintf(table, "   (busy: others took %.0f %% of the processors right before)\t\t\t\t\n", 100*res.OthersBusy)
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	for _, res := range r.Results {
		res.writeTable(w)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(w, "\nwarning: %s\n", warning)
	}
	return nil
}

// writeTable writes the result's own table in Markdown, for docs/benchmarks.md.
func (res *result) writeTable(w io.Writer) {
	for i, row := range res.Table {
		if i == 0 {
			fmt.Fprintf(w, "\n%s  %s\n\n", res.ID, res.What)
		}
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat(" ---: |", len(row)))
		}
	}
}

// row writes one line of the table.
func (f *figure) row(w io.Writer, prefix string) {
	spread := ""
	if len(f.Runs) > 1 {
		spread = short(f.Min) + " - " + short(f.Max)
	}
	goal := ""
	if t := f.Target; t != nil {
		goal = "≥ " + short(t.Value)
		if t.Most {
			goal = "≤ " + short(t.Value)
		}
		if t.Met {
			goal += " met"
		} else {
			goal += " MISSED"
		}
	}
	fmt.Fprintf(w, "%s%s\t%s %s\t%s\t%s\t\n", prefix, f.Name, short(f.Median), f.Unit, spread, goal)
}

// short prints a number for people: three significant digits, thousands grouped.
func short(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000:
		digits := math.Pow(10, math.Floor(math.Log10(a))-2)
		text := fmt.Sprintf("%.0f", math.Round(v/digits)*digits)
		for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
