package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// AggregateWindow computes the usage of every (subject, meter) of the window from the events that count and calls yield
// for each, ordered by subject, then meter. The work is done in the engine, whose memory grows with the number of
// subjects and meters, not of events; of one subject at a time, rows are kept here.
//
// The events are counted before and after: if some arrived in between, the error wraps [ErrWindowChanged] and what was
// yielded is void, as with any other error. A sum that could exceed the decimal range is an error that wraps
// [ErrOverflow]. Values of meters that were declared after their events are computed first if Config.Values is set.
func (s *Store) AggregateWindow(ctx context.Context, w meter.Window, meters []meter.Meter, yield func(reporter.WindowUsage) error) error {
	if err := s.aggregateWindow(ctx, w, meters, yield); err != nil {
		return fmt.Errorf("aggregate %s: %w", w, err)
	}
	return nil
}

func (s *Store) aggregateWindow(ctx context.Context, w meter.Window, meters []meter.Meter, yield func(reporter.WindowUsage) error) error {
	if w != meter.HourOf(w.Start) {
		return fmt.Errorf("usage windows are whole hours (got %s)", w)
	}
	if len(meters) == 0 {
		return nil
	}
	sc := windowScope(w)
	cov, err := s.cover(ctx, sc, meters)
	if err != nil {
		return err
	}
	if len(cov.pending) > 0 && s.cfg.Values != nil {
		var report BackfillReport
		if err := s.backfillPending(ctx, s.cfg.Values, meters, cov, &report); err != nil {
			return fmt.Errorf("backfill: %w", err)
		}
		s.logger.Info("values of newly declared meters computed", "window_start", w.Start, "events", report.Events, "values", report.Values)
		if cov, err = s.cover(ctx, sc, meters); err != nil {
			return err
		}
	}
	if len(cov.pending) > 0 {
		return cov.notBackfilled(meters)
	}
	if cov.events == 0 {
		return nil
	}
	// Only now: what is known of conflicts must not be older than the count of events, or one that arrived in between
	// would count beside the event that it conflicts with.
	e, err := s.probe(ctx, sc)
	if err != nil {
		return err
	}
	a := newAggregation(meters, yield)
	if err := s.each(ctx, a.query(e, cov), a.take); err != nil {
		return err
	}
	if err := a.flush(); err != nil {
		return err
	}
	var after uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM usage_events FINAL WHERE "+sc.where().String()).Scan(&after); err != nil {
		return fmt.Errorf("count events again: %w", err)
	}
	if after != cov.events {
		return fmt.Errorf("%w: %d events before, %d after", ErrWindowChanged, cov.events, after)
	}
	return nil
}

// aggregation turns rows of (subject, fingerprint) into usage of (subject, slug).
type aggregation struct {
	byFingerprint map[uint64][]meter.Meter
	fingerprints  []uint64
	yield         func(reporter.WindowUsage) error

	subject string // of the rows in usage
	usage   []reporter.WindowUsage
}

func newAggregation(meters []meter.Meter, yield func(reporter.WindowUsage) error) *aggregation {
	a := &aggregation{byFingerprint: map[uint64][]meter.Meter{}, yield: yield}
	for _, m := range meters {
		f := m.Fingerprint()
		if a.byFingerprint[f] == nil {
			a.fingerprints = append(a.fingerprints, f)
		}
		a.byFingerprint[f] = append(a.byFingerprint[f], m)
	}
	slices.Sort(a.fingerprints)
	return a
}

// only lists the fingerprints of meters with one of the aggregations.
func (a *aggregation) only(kinds ...meter.Aggregation) []uint64 {
	var list []uint64
	for _, f := range a.fingerprints {
		if slices.ContainsFunc(a.byFingerprint[f], func(m meter.Meter) bool { return slices.Contains(kinds, m.Aggregation) }) {
			list = append(list, f)
		}
	}
	return list
}

// aggregate is an aggregate function over the rows of the meters that need it, or a constant if none does.
func (a *aggregation) aggregate(function, arguments, none string, kinds ...meter.Aggregation) string {
	list := a.only(kinds...)
	switch len(list) {
	case 0:
		return none
	case len(a.fingerprints):
		return function + "(" + arguments + ")"
	}
	return function + "If(" + arguments + ", fingerprint IN (" + sqlUints(list) + "))"
}

// columns are the aggregates that [aggregates.into] scans.
func (a *aggregation) columns() []string {
	return []string{
		"count()",
		a.aggregate("sum", "quantity", zeroDecimal, meter.Sum),
		a.aggregate("sum", "toDecimal128(toInt64(quantity), 0)", "toDecimal128('0', 0)", meter.Sum),
		a.aggregate("max", "quantity", zeroDecimal, meter.Max),
		a.aggregate("min", "quantity", zeroDecimal, meter.Min),
		a.aggregate("argMax", "quantity, (time, bitNot(version), content)", zeroDecimal, meter.Latest),
		a.aggregate("uniqExact", "text", "toUInt64(0)", meter.UniqueCount),
	}
}

const zeroDecimal = "toDecimal128('0', 18)"

// query reads one row per subject and fingerprint, with every aggregate that some meter needs.
func (a *aggregation) query(e exceptions, cov coverage) string {
	// Columns that no aggregate needs are left out by name: old servers read what a subquery selects.
	columns := []string{"subject", "fingerprint", "quantity"}
	outer := []string{"subject", "meters", "quantities"}
	arrays := "meters AS fingerprint, quantities AS quantity"
	old := []string{"subject", "meter AS fingerprint", "quantity"}
	if len(a.only(meter.UniqueCount)) > 0 {
		columns, outer, old = append(columns, "text"), append(outer, "texts"), append(old, "text")
		arrays += ", texts AS text"
	}
	if len(a.only(meter.Latest)) > 0 {
		for _, name := range []string{"time", "version", "content"} {
			columns, outer, old = append(columns, name), append(outer, name), append(old, name)
		}
	}
	list := strings.Join(columns, ", ")
	source := "SELECT " + list + " FROM (SELECT " + strings.Join(outer, ", ") + " FROM usage_events FINAL WHERE " + e.where().String() +
		") ARRAY JOIN " + arrays + " WHERE fingerprint IN (" + sqlUints(a.fingerprints) + ")"
	if len(cov.runs) > 0 {
		source += " UNION ALL " + cov.backfilled(strings.Join(old, ", "), e.where())
	}
	return "SELECT subject, fingerprint, " + strings.Join(a.columns(), ", ") + " FROM (" + source +
		") GROUP BY subject, fingerprint ORDER BY subject, fingerprint"
}

// aggregates are the results for one group of values.
type aggregates struct {
	count                 uint64
	sum, max, min, latest decimal.Decimal
	whole                 decimal.Decimal // sum without the decimals of each value, in a type that can't overflow
	unique                uint64
}

func (g *aggregates) into() []any {
	return []any{&g.count, &g.sum, &g.whole, &g.max, &g.min, &g.latest, &g.unique}
}

// decimalLimit is the smallest amount that Decimal(38,18) can't hold.
var decimalLimit = decimal.New(1, 20)

// of is the quantity for one aggregation. ClickHouse's sum wraps around silently, so a sum counts only if the sum of the
// whole parts, plus less than one for each value, stays within the range.
func (g *aggregates) of(a meter.Aggregation) (meter.Quantity, error) {
	switch a {
	case meter.Sum:
		if bound := g.whole.Abs().Add(decimal.NewFromUint64(g.count)); bound.GreaterThanOrEqual(decimalLimit) {
			return meter.Quantity{}, fmt.Errorf("%w: the sum of %d values is about %s; use a larger unit", ErrOverflow, g.count, g.whole)
		}
		return meter.QuantityFromDecimal(g.sum), nil
	case meter.Count:
		return meter.QuantityFromDecimal(decimal.NewFromUint64(g.count)), nil
	case meter.Max:
		return meter.QuantityFromDecimal(g.max), nil
	case meter.Min:
		return meter.QuantityFromDecimal(g.min), nil
	case meter.Latest:
		return meter.QuantityFromDecimal(g.latest), nil
	case meter.UniqueCount:
		return meter.QuantityFromDecimal(decimal.NewFromUint64(g.unique)), nil
	}
	return meter.Quantity{}, fmt.Errorf("aggregation %d is unknown to the store", a)
}

// take accepts one row of the query.
func (a *aggregation) take(rows driver.Rows) error {
	var subject string
	var fingerprint uint64
	var g aggregates
	if err := rows.Scan(append([]any{&subject, &fingerprint}, g.into()...)...); err != nil {
		return err
	}
	if subject != a.subject {
		if err := a.flush(); err != nil {
			return err
		}
		a.subject = subject
	}
	for _, m := range a.byFingerprint[fingerprint] {
		q, err := g.of(m.Aggregation)
		if err != nil {
			return fmt.Errorf("subject %q, meter %s: %w", subject, m.Slug, err)
		}
		a.usage = append(a.usage, reporter.WindowUsage{Subject: subject, Meter: m.Slug, Quantity: q, Events: g.count})
	}
	return nil
}

// flush yields the rows of one subject by slug: the query orders them by fingerprint.
func (a *aggregation) flush() error {
	slices.SortFunc(a.usage, func(x, y reporter.WindowUsage) int { return cmp.Compare(x.Meter, y.Meter) })
	for _, u := range a.usage {
		if err := a.yield(u); err != nil {
			return err
		}
	}
	a.usage = a.usage[:0]
	return nil
}
