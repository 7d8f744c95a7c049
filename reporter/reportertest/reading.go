package reportertest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/meterd/meterd/reporter"
)

// Records implements [reporter.RecordReader].
func (b *Books) Records(ctx context.Context, f reporter.RecordFilter) (page []reporter.BillRecord, err error) {
	after := place{}
	if f.After != "" {
		start, sn, err := reporter.ParseCursor(f.After)
		if err != nil {
			return nil, fmt.Errorf("after: %w", err)
		}
		after = place{start, sn}
	}
	err = b.do(ctx, "Records", func(bool) {
		wanted := func(s reporter.State) bool { return len(f.States) == 0 || slices.Contains(f.States, s) }
		for _, c := range b.log {
			for _, r := range b.recordsWhere(c, wanted) {
				if selects(f, r) && placeOf(r).compare(after) > 0 {
					page = append(page, r)
				}
			}
		}
		slices.SortFunc(page, inOrder)
		page = page[:min(cmp.Or(f.Limit, 100), 10_000, len(page))]
	})
	return page, err
}

// place is a record's place in the order of reading: by the hour it was booked in, then number. The zero place is before all.
type place struct {
	start time.Time
	sn    reporter.MeteringSN
}

func placeOf(r reporter.BillRecord) place { return place{r.Booked.Start, r.SN} }

func (p place) compare(other place) int {
	return cmp.Or(p.start.Compare(other.start), cmp.Compare(p.sn, other.sn))
}

func inOrder(x, y reporter.BillRecord) int { return placeOf(x).compare(placeOf(y)) }

func selects(f reporter.RecordFilter, r reporter.BillRecord) bool {
	switch {
	case f.SN != "" && r.SN != f.SN, f.InstanceID != "" && r.InstanceID != f.InstanceID,
		f.Subject != "" && r.Subject != f.Subject, f.Meter != "" && r.Meter != f.Meter,
		len(f.States) > 0 && !slices.Contains(f.States, r.Last.State), !within(r.Window.Start, f.From, f.To):
		return false
	}
	return true
}

// Transitions implements [reporter.RecordReader].
func (b *Books) Transitions(ctx context.Context, sn reporter.MeteringSN) (life []reporter.Transition, err error) {
	err = b.do(ctx, "Transitions", func(bool) {
		version, ok := b.bookedIn[sn]
		if !ok {
			return
		}
		life = append(life, b.at(version).records[sn].Last)
		for _, t := range b.transitions[sn] {
			life = append(life, t)
		}
		slices.SortFunc(life, func(x, y reporter.Transition) int { return cmp.Compare(x.Seq, y.Seq) })
	})
	return life, err
}

// Bookings implements [reporter.RecordReader].
func (b *Books) Bookings(ctx context.Context, from, to time.Time) (found []reporter.Booking, err error) {
	err = b.do(ctx, "Bookings", func(bool) {
		for i, c := range b.log {
			if within(c.Window.Start, from, to) {
				found = append(found, b.booking(i))
			}
		}
	})
	return found, err
}

// Usage implements [reporter.RecordReader].
func (b *Books) Usage(ctx context.Context, from, to time.Time, limit int) (rows []reporter.HourlyUsage, err error) {
	err = b.do(ctx, "Usage", func(bool) {
		rows = b.latestUsage(from, to, len(b.log))
		rows = rows[:min(limit, len(rows))]
	})
	return rows, err
}

// Adjustments implements [reporter.RecordReader].
func (b *Books) Adjustments(ctx context.Context, f reporter.AdjustmentFilter) (found []reporter.Adjustment, err error) {
	err = b.do(ctx, "Adjustments", func(bool) {
		for _, a := range b.adjustments() {
			if adjustmentSelected(f, a) {
				found = append(found, a)
			}
		}
		found = found[:min(cmp.Or(f.Limit, 1000), len(found))]
	})
	return found, err
}

func adjustmentSelected(f reporter.AdjustmentFilter, a reporter.Adjustment) bool {
	switch {
	case f.Subject != "" && a.Subject != f.Subject, f.Meter != "" && a.Meter != f.Meter, f.Into != 0 && a.Into != f.Into,
		!within(a.Hour.Start, f.Hours.Start, f.Hours.End), a.Booking < f.FromBooking,
		f.ToBooking != 0 && a.Booking > f.ToBooking:
		return false
	}
	return true
}

// All returns every record that counts, with its last transition, by hour of booking, then number. It is never subject to
// faults.
func (b *Books) All() []reporter.BillRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counted()
}

// Log returns every committed booking. It is never subject to faults.
func (b *Books) Log() []reporter.Booking {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]reporter.Booking, len(b.log))
	for i := range b.log {
		all[i] = b.booking(i)
	}
	return all
}

// RowsOf returns what was written under a version, whether it counts or not, in no order. It is never subject to faults.
func (b *Books) RowsOf(version uint64) (rows reporter.Rows) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.at(version)
	for _, u := range w.usage {
		rows.Usage = append(rows.Usage, u)
	}
	for _, r := range w.records {
		rows.Records = append(rows.Records, r)
	}
	for _, a := range w.adjustments {
		rows.Adjustments = append(rows.Adjustments, a)
	}
	for _, row := range w.balances {
		rows.Balances = append(rows.Balances, row)
	}
	for _, c := range w.covers {
		rows.Covers = append(rows.Covers, c)
	}
	return rows
}

// State returns the state in which the books hold the record now; 0 if it is not in the books or its booking is not
// committed.
func (b *Books) State(sn reporter.MeteringSN) reporter.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, _ := b.find(sn)
	return r.Last.State
}
