package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// subjectChunk is how many subjects one query names.
const subjectChunk = 2000

// AggregateWindow computes the usage of every (subject, meter) in the scope from the events that count and calls yield
// for each, ordered by subject, then meter. The work is done in the engine, whose memory grows with the number of
// subjects and meters, not of events; of one subject at a time, rows are kept here. A sum that could exceed the decimal
// range is yielded as such. Values of meters that were declared after their events are computed first if Config.Values
// is set; otherwise the error wraps [ErrNotBackfilled].
//
// Events may arrive while it reads, and may then be counted or not, or even beside an event that they conflict with. That
// needs no care here: whoever inserts them touches the hour once they are stored, so it becomes stale and is
// counted again, and the difference is booked (ADR 9).
func (s *Store) AggregateWindow(ctx context.Context, sc reporter.Scope, meters []meter.Meter, yield func(reporter.WindowUsage) error) error {
	if err := s.aggregateWindow(ctx, sc, meters, yield); err != nil {
		return fmt.Errorf("aggregate %s: %w", sc.Hour, err)
	}
	return nil
}

func (s *Store) aggregateWindow(ctx context.Context, sc reporter.Scope, meters []meter.Meter, yield func(reporter.WindowUsage) error) error {
	if sc.Hour != meter.HourOf(sc.Hour.Start) {
		return fmt.Errorf("usage windows are whole hours (got %s)", sc.Hour)
	}
	if len(meters) == 0 || sc.Subjects != nil && len(sc.Subjects) == 0 {
		return nil
	}
	var more clauses
	if !sc.Before.IsZero() && sc.Before.Before(sc.Hour.End) {
		// What is a duplicate, conflict or retry is still judged by all of the hour.
		more.add(fmt.Sprintf("time < %d", max(sc.Before.UnixNano(), 0)))
	}
	take := func(_ time.Time, u reporter.WindowUsage) error { return yield(u) }
	hour := windowScope(sc.Hour)
	if sc.Subjects == nil {
		return s.aggregateScope(ctx, hour, meters, more, take)
	}
	for chunk := range slices.Chunk(slices.Compact(slices.Sorted(slices.Values(sc.Subjects))), subjectChunk) {
		hour.subjects = chunk
		if err := s.aggregateScope(ctx, hour, meters, more, take); err != nil {
			return err
		}
	}
	return nil
}

// aggregateScope computes the usage of every hour of a scope. With more than one hour, rows are ordered by hour first.
func (s *Store) aggregateScope(ctx context.Context, sc scope, meters []meter.Meter, more clauses, yield func(time.Time, reporter.WindowUsage) error) error {
	cov, err := s.coverOrCompute(ctx, sc, meters)
	if err != nil || cov.events == 0 {
		return err
	}
	e, err := s.probe(ctx, sc)
	if err != nil {
		return err
	}
	a := newAggregation(meters, yield)
	if err := s.each(ctx, a.query(e, cov, more), a.take); err != nil {
		return err
	}
	return a.flush()
}

// coverOrCompute is cover, after computing what is pending.
func (s *Store) coverOrCompute(ctx context.Context, sc scope, meters []meter.Meter) (coverage, error) {
	cov, err := s.cover(ctx, sc, meters)
	if err != nil {
		return cov, err
	}
	if len(cov.pending) > 0 && s.cfg.Values != nil {
		var report BackfillReport
		if err := s.backfillPending(ctx, s.cfg.Values, meters, cov, &report); err != nil {
			return cov, fmt.Errorf("backfill: %w", err)
		}
		s.logger.Info("values of newly declared meters computed", "from", sc.from, "to", sc.to, "events", report.Events, "values", report.Values)
		if cov, err = s.cover(ctx, sc, meters); err != nil {
			return cov, err
		}
	}
	if len(cov.pending) > 0 {
		return cov, cov.notBackfilled(meters)
	}
	return cov, nil
}

// aggregation turns rows of (subject, fingerprint) into usage of (subject, slug).
type aggregation struct {
	byFingerprint map[uint64][]meter.Meter
	fingerprints  []uint64
	yield         func(hour time.Time, u reporter.WindowUsage) error

	hour    time.Time // of the rows in usage
	subject string    // as well
	usage   []reporter.WindowUsage
}

func newAggregation(meters []meter.Meter, yield func(time.Time, reporter.WindowUsage) error) *aggregation {
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

// query reads one row per hour, subject and fingerprint, with every aggregate that some meter needs, from the events that
// meet more conditions.
func (a *aggregation) query(e exceptions, cov coverage, more clauses) string {
	// Columns that no aggregate needs are left out by name: old servers read what a subquery selects.
	columns := []string{"subject", "fingerprint", "quantity"}
	outer := []string{"subject", "meters", "quantities"}
	arrays := "meters AS fingerprint, quantities AS quantity"
	old := []string{"subject", "meter AS fingerprint", "quantity"}
	hour, keys := sqlTime(e.scope.from)+" AS the_hour", "subject, fingerprint"
	if e.scope.to.Sub(e.scope.from) > time.Hour {
		columns, outer, old = append(columns, "hour"), append(outer, "hour"), append(old, "hour")
		hour, keys = "hour", "hour, "+keys
	}
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
	where := append(e.where(), more...)
	source := "SELECT " + list + " FROM (SELECT " + strings.Join(outer, ", ") + " FROM usage_events FINAL WHERE " + where.String() +
		") ARRAY JOIN " + arrays + " WHERE fingerprint IN (" + sqlUints(a.fingerprints) + ")"
	if len(cov.runs) > 0 {
		source += " UNION ALL " + cov.backfilled(strings.Join(old, ", "), where)
	}
	return "SELECT " + hour + ", subject, fingerprint, " + strings.Join(a.columns(), ", ") + " FROM (" + source +
		") GROUP BY " + keys + " ORDER BY " + keys
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
	var hour time.Time
	var subject string
	var fingerprint uint64
	var g aggregates
	if err := rows.Scan(append([]any{&hour, &subject, &fingerprint}, g.into()...)...); err != nil {
		return err
	}
	if subject != a.subject || !hour.Equal(a.hour) {
		if err := a.flush(); err != nil {
			return err
		}
		a.hour, a.subject = hour.UTC(), subject
	}
	for _, m := range a.byFingerprint[fingerprint] {
		q, err := g.of(m.Aggregation)
		if err != nil && !errors.Is(err, ErrOverflow) {
			return fmt.Errorf("subject %q, meter %s: %w", subject, m.Slug, err)
		}
		a.usage = append(a.usage, reporter.WindowUsage{Subject: subject, Meter: m.Slug, Quantity: q, Events: g.count, Overflow: err != nil})
	}
	return nil
}

// flush yields the rows of one subject by slug: the query orders them by fingerprint.
func (a *aggregation) flush() error {
	slices.SortFunc(a.usage, func(x, y reporter.WindowUsage) int { return cmp.Compare(x.Meter, y.Meter) })
	for _, u := range a.usage {
		if err := a.yield(a.hour, u); err != nil {
			return err
		}
	}
	a.usage = a.usage[:0]
	return nil
}
