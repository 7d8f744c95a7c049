package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/internal/demo"
	"github.com/meterd/meterd/internal/sandbox"
	"github.com/meterd/meterd/reporter"
)

// demoOutcome is what came of the demo, as printed with --json.
type demoOutcome struct {
	Sent            int64             `json:"events_sent"`
	Stored          uint64            `json:"events_stored"`
	Duplicates      int64             `json:"duplicates"`
	WindowsClosed   int               `json:"windows_closed"`
	RecordsAccepted int               `json:"records_accepted"`
	QuantityByMeter map[string]string `json:"quantity_by_meter"`
	// Verify is "ok" or the list of differences.
	Verify any `json:"verify"`
	// Elapsed is the time since the start of the command.
	Elapsed string `json:"elapsed"`

	resent      int64
	differences []string
	records     []sandbox.Record
}

func (o *demoOutcome) ok() bool { return len(o.differences) == 0 }

func (o *demoOutcome) differ(format string, args ...any) {
	o.differences = append(o.differences, fmt.Sprintf(format, args...))
}

// settle compares four things: the file, the store, our books, and the marketplace's.
func (r *demoRun) settle(ctx context.Context, o *demoOutcome) error {
	bookings, err := r.daemon.store.Bookings(ctx, r.plan.Start, r.plan.End)
	if err != nil {
		return err
	}
	for _, c := range bookings {
		if c.Kind != reporter.BookingClose {
			continue
		}
		o.WindowsClosed++
		n, err := r.daemon.store.CountWindowEvents(ctx, c.Window)
		if err != nil {
			return err
		}
		o.Stored += n
	}
	o.Duplicates = o.Sent + o.resent - int64(o.Stored)                        //nolint:gosec // counts of one trace
	if o.Sent != r.expected.Events || o.Stored != uint64(r.expected.Events) { //nolint:gosec // a count
		o.differ("the trace has %d rows, %d were acknowledged, %d are stored", r.expected.Events, o.Sent, o.Stored)
	}
	market := o.sumMarketplace(r)
	books, err := r.sumBooks(ctx, o)
	if err != nil {
		return err
	}
	for _, instance := range unionKeys(r.expected.ByInstance, market, books) {
		want, got, ours := r.expected.ByInstance[instance], market[instance], books[instance]
		if !want.Equal(got) || !want.Equal(ours) {
			o.differ("%s: trace %s, our books %s, marketplace %s", instance, want, ours, got)
		}
	}
	if o.RecordsAccepted != r.expected.Records {
		o.differ("%d records expected, %d accepted by the marketplace", r.expected.Records, o.RecordsAccepted)
	}
	report, err := reporter.Verify(ctx, r.daemon.store, reporter.VerifyOptions{
		Meters: r.daemon.meters, Clock: r.clock, Recount: true, From: r.plan.Start, To: r.plan.End, Intake: r.daemon.intake,
	})
	if err != nil {
		return err
	}
	for _, difference := range report.Differences {
		o.differ("%s: %s", difference.Check, difference.What)
	}
	o.Verify = "ok"
	if !o.ok() {
		o.Verify = o.differences
	}
	o.Elapsed = time.Since(r.began).Round(10 * time.Millisecond).String()
	return nil
}

// sumMarketplace sums what the marketplace accepted, by instance.
func (o *demoOutcome) sumMarketplace(r *demoRun) map[string]decimal.Decimal {
	sums := map[string]decimal.Decimal{}
	byMeter := map[string]decimal.Decimal{}
	for _, rec := range r.sandbox.Records() {
		begin, err := time.Parse("20060102T150405Z", rec.BeginTime)
		if err != nil || begin.Before(r.plan.Start) || !begin.Before(r.plan.End) {
			o.differ("%s: the marketplace has a record for another time, %s", rec.MeteringSN, rec.BeginTime)
			continue
		}
		if rec.Code == sandbox.RecordDuplicateSN {
			continue // sent again because an answer was lost: the marketplace has the first one
		}
		if rec.State != sandbox.StateValid && rec.State != sandbox.StateCollected {
			o.differ("%s: the marketplace finds it %s %s", rec.MeteringSN, rec.State, rec.Code)
			continue
		}
		v, err := decimal.NewFromString(rec.UsageValue)
		if err != nil {
			o.differ("%s: usage value %q", rec.MeteringSN, rec.UsageValue)
			continue
		}
		o.RecordsAccepted++
		o.records = append(o.records, rec)
		sums[rec.InstanceID] = sums[rec.InstanceID].Add(v)
		slug := demo.MeterOf(rec.InstanceID)
		byMeter[slug] = byMeter[slug].Add(v)
	}
	o.QuantityByMeter = map[string]string{}
	for slug, q := range byMeter {
		o.QuantityByMeter[slug] = q.String()
	}
	return sums
}

// sumBooks sums the accepted records of our own ledger, by instance.
func (r *demoRun) sumBooks(ctx context.Context, o *demoOutcome) (map[string]decimal.Decimal, error) {
	sums := map[string]decimal.Decimal{}
	f := reporter.RecordFilter{From: r.plan.Start, To: r.plan.End, Limit: 1000}
	for {
		page, err := r.daemon.store.Records(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, rec := range page {
			if rec.Last.State == reporter.StateCarried {
				continue // nothing to bill in that hour
			}
			if rec.Last.State != reporter.StateAccepted {
				o.differ("%s: %s in our books: %s", rec.SN, rec.Last.State, rec.Last.Message)
				continue
			}
			sums[rec.InstanceID] = sums[rec.InstanceID].Add(rec.Billed.Decimal())
		}
		if len(page) < f.Limit {
			return sums, nil
		}
		f.After = reporter.Cursor(page[len(page)-1])
	}
}

func unionKeys(maps ...map[string]decimal.Decimal) []string {
	seen := map[string]bool{}
	for _, m := range maps {
		for k := range m {
			seen[k] = true
		}
	}
	keys := make([]string, 0, len(seen))
	for k := range seen {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// print shows the outcome: one JSON object, or tables for people.
func (o *demoOutcome) print(w io.Writer, asJSON bool, r *demoRun) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(o)
	}
	fmt.Fprintf(w, "\nAccepted by the marketplace (first %d of %d records)\n", min(6, len(o.records)), o.RecordsAccepted)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  metering_sn\tinstance\tbegin\tusage\tstate")
	for _, rec := range o.records[:min(6, len(o.records))] {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", rec.MeteringSN, rec.InstanceID, rec.BeginTime, rec.UsageValue, rec.State)
	}
	fmt.Fprintln(t, "\n  meter\ttrace\tmarketplace")
	for _, slug := range []string{demo.MeterRequests, demo.MeterPrompt, demo.MeterGenerated, demo.MeterLongest} {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", slug, r.expected.ByMeter[slug], o.QuantityByMeter[slug])
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d events sent, %d stored, %d duplicates, %d hours closed, %d records accepted, in %s\n",
		o.Sent+o.resent, o.Stored, o.Duplicates, o.WindowsClosed, o.RecordsAccepted, o.Elapsed)
	if o.ok() {
		fmt.Fprintln(w, "verify: ok, trace = store = our books = the marketplace's, for every instance")
		return nil
	}
	fmt.Fprintf(w, "verify: %d differences\n", len(o.differences))
	for _, d := range o.differences[:min(20, len(o.differences))] {
		fmt.Fprintln(w, "  "+d)
	}
	return nil
}
