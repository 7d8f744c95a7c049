package reportertest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/meterd/meterd/meter"
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
	err = b.do(ctx, "Records", 0, func(int) {
		for _, r := range b.counted() {
			if selects(f, r) && placeOf(r).compare(after) > 0 {
				page = append(page, r)
			}
		}
		slices.SortFunc(page, inOrder)
		if f.Limit == 0 {
			f.Limit = 100
		}
		page = page[:min(f.Limit, 10_000, len(page))]
	})
	return page, err
}

// place is a record's place in the order of reading: by window start, then number. The zero place is before all.
type place struct {
	start time.Time
	sn    reporter.MeteringSN
}

func placeOf(r reporter.BillRecord) place { return place{r.Window.Start, r.SN} }

func (p place) compare(other place) int {
	return cmp.Or(p.start.Compare(other.start), cmp.Compare(p.sn, other.sn))
}

func inOrder(x, y reporter.BillRecord) int { return placeOf(x).compare(placeOf(y)) }

func selects(f reporter.RecordFilter, r reporter.BillRecord) bool {
	switch {
	case f.SN != "" && r.SN != f.SN, f.InstanceID != "" && r.InstanceID != f.InstanceID,
		f.Subject != "" && r.Subject != f.Subject, f.Meter != "" && r.Meter != f.Meter,
		len(f.States) > 0 && !slices.Contains(f.States, r.Last.State),
		!f.From.IsZero() && r.Window.Start.Before(f.From), !f.To.IsZero() && !r.Window.Start.Before(f.To):
		return false
	}
	return true
}

// Transitions implements [reporter.RecordReader].
func (b *Books) Transitions(ctx context.Context, sn reporter.MeteringSN) (life []reporter.Transition, err error) {
	var missing error
	err = b.do(ctx, "Transitions", 0, func(int) {
		r, ok := b.find(sn)
		if !ok {
			missing = fmt.Errorf("record %s: %w", sn, errNoRecord)
			return
		}
		life = append(life, b.first[recordKey{r.SN, r.Version}])
		for _, t := range b.transitions[sn] {
			life = append(life, t)
		}
		slices.SortFunc(life, func(x, y reporter.Transition) int { return cmp.Compare(x.Seq, y.Seq) })
	})
	return life, cmp.Or(err, missing)
}

// Windows implements [reporter.RecordReader].
func (b *Books) Windows(ctx context.Context, from, to time.Time) (closes []reporter.WindowClose, err error) {
	err = b.do(ctx, "Windows", 0, func(int) {
		for _, c := range b.sortedCloses() {
			if !c.Window.Start.Before(from) && c.Window.Start.Before(to) {
				closes = append(closes, c)
			}
		}
	})
	return closes, err
}

// Usage implements [reporter.RecordReader].
func (b *Books) Usage(ctx context.Context, from, to time.Time, limit int) (rows []reporter.HourlyUsage, err error) {
	err = b.do(ctx, "Usage", 0, func(int) {
		for key, u := range b.usage {
			c, closed := b.closes[u.Window.Start.Unix()]
			if closed && c.Version == key.version && !u.Window.Start.Before(from) && u.Window.Start.Before(to) {
				rows = append(rows, u)
			}
		}
		slices.SortFunc(rows, func(x, y reporter.HourlyUsage) int {
			return cmp.Or(x.Window.Start.Compare(y.Window.Start), cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Meter, y.Meter))
		})
		rows = rows[:min(limit, len(rows))]
	})
	return rows, err
}

// All returns every record that counts, with its last transition, ordered by window start, then number. It is never
// subject to faults.
func (b *Books) All() []reporter.BillRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.counted()
	slices.SortFunc(all, inOrder)
	return all
}

// State returns the state in which the books hold the record now; 0 if it is not in the books or its window is not closed.
func (b *Books) State(sn reporter.MeteringSN) reporter.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.find(sn)
	if !ok {
		return 0
	}
	return b.last(r).State
}

// CheckConservation recomputes the usage of every closed window from its events and compares, for each subject and billed
// meter, the sum with what the books say became of it: Σ usage = Σ billed × scale + the open remainder. It returns
// what does not add up. Only meters that make a sum over time of their windows can be checked, which is all of them:
// each window's usage counts once.
func (b *Books) CheckConservation(meters []meter.Meter) (faults []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	usage, booked := map[reporter.SubjectMeter]meter.Quantity{}, map[reporter.SubjectMeter]meter.Quantity{}
	latest := map[reporter.SubjectMeter]reporter.BillRecord{}
	billed := map[string]bool{}
	for _, m := range meters {
		billed[m.Slug] = m.Billed
	}
	for _, c := range b.sortedCloses() {
		for _, row := range b.aggregate(c.Window, meters) {
			pair := reporter.SubjectMeter{Subject: row.Subject, Meter: row.Meter}
			if billed[row.Meter] {
				usage[pair] = usage[pair].Add(row.Quantity)
			}
		}
	}
	seen := map[string]reporter.MeteringSN{}
	for _, r := range b.counted() {
		pair := reporter.SubjectMeter{Subject: r.Subject, Meter: r.Meter}
		booked[pair] = booked[pair].Add(r.Billed.Mul(r.Scale))
		if old, ok := latest[pair]; !ok || old.Window.Start.Before(r.Window.Start) {
			latest[pair] = r
		}
		if r.InstanceID == "" {
			continue
		}
		key := r.InstanceID + " " + r.Window.String()
		if other, twice := seen[key]; twice {
			faults = append(faults, fmt.Sprintf("%s: records %s and %s", key, other, r.SN))
		}
		seen[key] = r.SN
	}
	for pair, r := range latest {
		booked[pair] = booked[pair].Add(r.CarriedOut)
		if _, ok := usage[pair]; !ok {
			usage[pair] = meter.Quantity{}
		}
	}
	for pair, q := range usage {
		if !q.Equal(booked[pair]) {
			faults = append(faults, fmt.Sprintf("%s: usage %s, in the books %s", pair, q, booked[pair]))
		}
	}
	slices.Sort(faults)
	return faults
}
