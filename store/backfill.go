package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
)

// Events that were loaded before a meter was declared carry no value of it. They are found by looking at the rows
// themselves, not at a record of what was known when: an event lacks a meter if it has the meter's type and not its
// fingerprint. A backfill run computes the values of the lacking events of one (meter, hour) and notes their number and
// the sum of their hashes; it counts as long as both still hold. So whatever a collector with an older configuration
// stores afterwards is noticed, and nothing is counted from both places.

var backfilledValues = newTable("backfilled_values",
	"meter", "UInt64", "hour", "DateTime('UTC')", "run", "UInt64", "subject", "String", "event_key", "FixedString(16)",
	"content", "UInt64", "version", "UInt64", "time", "Int64", "stamped", "UInt8", "quantity", "Decimal(38, 18)",
	"text", "String", "dimensions", "Array(String)")

var backfills = newTable("backfills",
	"meter", "UInt64", "hour", "DateTime('UTC')", "run", "UInt64", "events", "UInt64", "digest", "UInt64",
	"finished_at", "DateTime('UTC')")

// lacking is the condition of events that lack a meter.
func lacking(m meter.Meter) string {
	return "(type = " + quote(m.EventType) + " AND NOT has(meters, " + sqlUint(m.Fingerprint()) + "))"
}

// lackSet is a set of lacking events of one (meter, hour).
type lackSet struct{ events, digest uint64 }

// meterHour is one hour of one meter.
type meterHour struct {
	fingerprint uint64
	hour        int64
}

// coverage is how the meters of a query get the values of a scope.
type coverage struct {
	events  uint64               // distinct events of the scope, conflicts included
	runs    map[meterHour]uint64 // backfill runs that count
	pending map[meterHour]bool   // lacking events that no run covers
}

// cover finds out which events of the scope lack which meters, and whether backfill runs make up for it.
func (s *Store) cover(ctx context.Context, sc scope, meters []meter.Meter) (coverage, error) {
	cov := coverage{runs: map[meterHour]uint64{}, pending: map[meterHour]bool{}}
	events, lacks, err := s.lacks(ctx, sc, meters)
	if err != nil {
		return cov, err
	}
	cov.events = events
	if len(lacks) == 0 {
		return cov, nil
	}
	if len(sc.subjects) > 0 { // runs are for whole hours
		sc.subjects = nil
		if _, lacks, err = s.lacks(ctx, sc, meters); err != nil {
			return cov, err
		}
	}
	runs, err := s.runs(ctx, sc, meters)
	if err != nil {
		return cov, err
	}
	for at, lack := range lacks {
		if r, found := runs[at]; found && r.lackSet == lack {
			cov.runs[at] = r.run
		} else {
			cov.pending[at] = true
		}
	}
	return cov, nil
}

// examine asks both questions that come before a query of events, at the same time. A conflict that arrives between their
// answers may count in that query; whatever is booked is counted again then (see AggregateWindow).
func (s *Store) examine(ctx context.Context, sc scope, meters []meter.Meter) (coverage, exceptions, error) {
	var cov coverage
	var coverErr error
	var group sync.WaitGroup
	group.Go(func() { cov, coverErr = s.cover(ctx, sc, meters) })
	e, err := s.probe(ctx, sc)
	group.Wait()
	return cov, e, errors.Join(coverErr, err)
}

// lacks counts the distinct events of the scope and finds those that lack a meter.
func (s *Store) lacks(ctx context.Context, sc scope, meters []meter.Meter) (events uint64, lacks map[meterHour]lackSet, err error) {
	columns := make([]string, 0, 2*len(meters))
	for _, m := range meters {
		columns = append(columns, "countIf("+lacking(m)+")", "sumIf(cityHash64(subject, event_key, content), "+lacking(m)+")")
	}
	lacks = map[meterHour]lackSet{}
	query := "SELECT hour, count(), " + strings.Join(columns, ", ") + " FROM usage_events FINAL WHERE " + sc.where().String() + " GROUP BY hour"
	if len(meters) == 0 {
		query = strings.Replace(query, "count(), ", "count()", 1)
	}
	sets := make([]lackSet, len(meters))
	var hour time.Time
	var n uint64
	into := []any{&hour, &n}
	for i := range sets {
		into = append(into, &sets[i].events, &sets[i].digest)
	}
	err = s.each(ctx, query, func(rows driver.Rows) error {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		events += n
		for i, m := range meters {
			if sets[i].events > 0 {
				lacks[meterHour{m.Fingerprint(), hour.Unix()}] = sets[i]
			}
		}
		return nil
	})
	if err != nil {
		return 0, nil, fmt.Errorf("look for events without values: %w", err)
	}
	return events, lacks, nil
}

type backfillRun struct {
	lackSet
	run uint64
}

func (s *Store) runs(ctx context.Context, sc scope, meters []meter.Meter) (map[meterHour]backfillRun, error) {
	fingerprints := make([]uint64, len(meters))
	for i, m := range meters {
		fingerprints[i] = m.Fingerprint()
	}
	runs := map[meterHour]backfillRun{}
	query := "SELECT meter, hour, run, events, digest FROM backfills FINAL WHERE meter IN (" + sqlUints(fingerprints) + ") AND " + sc.where().String()
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var at meterHour
		var hour time.Time
		var r backfillRun
		if err := rows.Scan(&at.fingerprint, &hour, &r.run, &r.events, &r.digest); err != nil {
			return err
		}
		at.hour = hour.Unix()
		runs[at] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read backfills: %w", err)
	}
	return runs, nil
}

// backfilled selects the given columns from the values that count.
func (c coverage) backfilled(columns string, conditions clauses) string {
	terms := make([]string, 0, len(c.runs))
	for at, run := range c.runs {
		terms = append(terms, fmt.Sprintf("(%s, %s, %s)", sqlUint(at.fingerprint), sqlTime(time.Unix(at.hour, 0)), sqlUint(run)))
	}
	slices.Sort(terms)
	where := append(clauses{"(meter, hour, run) IN (" + strings.Join(terms, ", ") + ")"}, conditions...)
	return "SELECT " + columns + " FROM backfilled_values WHERE " + where.String()
}

// notBackfilled names the hours that lack values.
func (c coverage) notBackfilled(meters []meter.Meter) error {
	var gaps []string
	for _, m := range meters {
		n, first := 0, int64(0)
		for at := range c.pending {
			if at.fingerprint == m.Fingerprint() {
				if n == 0 || at.hour < first {
					first = at.hour
				}
				n++
			}
		}
		if n > 0 {
			gaps = append(gaps, fmt.Sprintf("meter %s: %d hours from %s on", m.Slug, n, time.Unix(first, 0).UTC().Format(time.RFC3339)))
		}
	}
	return fmt.Errorf("%w: %s", ErrNotBackfilled, strings.Join(gaps, "; "))
}

// BackfillReport tells what BackfillMeters did.
type BackfillReport struct {
	Hours    int    // hours that needed values
	Events   uint64 // raw events read
	Values   uint64 // values written
	NoValue  uint64 // events that have no valid value for a meter of their type; they don't count in it
	Complete bool   // nothing in the range is pending any more
}

// BackfillMeters computes the values of meters for events in [from, to) that were stored before the meters were
// declared. It works hour by hour, oldest first, in bounded memory, and may be stopped and started again at any time:
// what is finished stays. Hourly usage of closed windows is not touched. Zero times mean "from the first" and "to the
// last event".
func (s *Store) BackfillMeters(ctx context.Context, values ValueReader, meters []meter.Meter, from, to time.Time) (BackfillReport, error) {
	var report BackfillReport
	first, ok, err := s.FirstEventHour(ctx)
	if err != nil || !ok || len(meters) == 0 {
		report.Complete = err == nil
		return report, err
	}
	if from.Before(first.Start) {
		from = first.Start
	}
	if to.IsZero() {
		if err := s.conn.QueryRow(ctx, "SELECT max(hour) FROM usage_events").Scan(&to); err != nil {
			return report, fmt.Errorf("backfill meters: find the last event: %w", err)
		}
		to = to.Add(time.Hour)
	}
	const step = 24 * time.Hour
	for start := from.UTC().Truncate(time.Hour); start.Before(to); start = start.Add(step) {
		end := start.Add(step)
		if end.After(to) {
			end = to
		}
		cov, err := s.cover(ctx, windowScope(meter.Window{Start: start, End: end}), meters)
		if err != nil {
			return report, fmt.Errorf("backfill meters: %w", err)
		}
		if err := s.backfillPending(ctx, values, meters, cov, &report); err != nil {
			return report, fmt.Errorf("backfill meters: %w", err)
		}
	}
	report.Complete = true
	return report, nil
}

// backfillPending computes all pending values of a coverage.
func (s *Store) backfillPending(ctx context.Context, values ValueReader, meters []meter.Meter, cov coverage, report *BackfillReport) error {
	byHour := map[int64][]meter.Meter{}
	for _, m := range meters {
		for at := range cov.pending {
			if at.fingerprint == m.Fingerprint() {
				byHour[at.hour] = append(byHour[at.hour], m)
			}
		}
	}
	hours := make([]int64, 0, len(byHour))
	for hour := range byHour {
		hours = append(hours, hour)
	}
	slices.Sort(hours)
	for _, hour := range hours {
		b := backfill{store: s, values: values, hour: time.Unix(hour, 0).UTC(), report: report, wanted: map[uint64]*lackSet{}}
		for _, m := range byHour[hour] {
			if b.wanted[m.Fingerprint()] != nil {
				continue // meters of one fingerprint share their values
			}
			b.conditions = append(b.conditions, lacking(m))
			b.types = append(b.types, m.EventType)
			b.fingerprints = append(b.fingerprints, m.Fingerprint())
			b.wanted[m.Fingerprint()] = &lackSet{}
		}
		if err := b.run(ctx); err != nil {
			return fmt.Errorf("hour %s: %w", b.hour.Format(time.RFC3339), err)
		}
		report.Hours++
	}
	return nil
}

// backfill is one run over one hour.
type backfill struct {
	store        *Store
	values       ValueReader
	hour         time.Time
	conditions   []string
	types        []string // event types, by meter
	fingerprints []uint64
	wanted       map[uint64]*lackSet // seen so far, by fingerprint
	id           uint64
	report       *BackfillReport

	data    []columnData
	rows    int    // in data
	written uint64 // by this run
}

// backfillChunk is how many values one insert writes.
const backfillChunk = 50_000

func (b *backfill) run(ctx context.Context) error {
	b.id = uint64(b.store.cfg.Now().UnixNano())&^0xffff | uint64(rand.Uint32()&0xffff) //nolint:gosec // a name, not a secret
	where := "hour = " + sqlTime(b.hour) + " AND (" + strings.Join(b.conditions, " OR ") + ")"
	// The answer is streamed on every engine, so an hour of any size takes the memory of a few blocks.
	query := "SELECT subject, event_key, content, version, time, stamped, source, id, type, data, extensions, meters," +
		" cityHash64(subject, event_key, content) FROM usage_events FINAL WHERE " + where
	if err := b.store.each(ctx, query, func(rows driver.Rows) error { return b.take(ctx, rows) }); err != nil {
		return fmt.Errorf("read raw events: %w", err)
	}
	if err := b.flush(ctx); err != nil {
		return err
	}
	var stored uint64
	query = "SELECT count() FROM backfilled_values WHERE meter IN (" + sqlUints(b.fingerprints) + ") AND hour = " + sqlTime(b.hour) + " AND run = " + sqlUint(b.id)
	if err := b.store.conn.QueryRow(ctx, query).Scan(&stored); err != nil {
		return fmt.Errorf("count values written: %w", err)
	}
	if stored != b.written {
		return fmt.Errorf("%w: run has %d values instead of %d", ErrRowsMissing, stored, b.written)
	}
	return b.finish(ctx)
}

// rawEvent is a row of usage_events.
type rawEvent struct {
	subject, key                           string
	content, version, digest               uint64
	time                                   int64
	stamped                                uint8
	source, id, eventType, json, extension string
	meters                                 []uint64
}

// take computes the values of one raw event.
func (b *backfill) take(ctx context.Context, rows driver.Rows) error {
	var r rawEvent
	err := rows.Scan(&r.subject, &r.key, &r.content, &r.version, &r.time, &r.stamped, &r.source, &r.id, &r.eventType, &r.json, &r.extension, &r.meters, &r.digest)
	if err != nil {
		return err
	}
	b.report.Events++
	values, _ := b.values.Values(&meter.Event{
		ID: []byte(r.id), Source: []byte(r.source), Type: []byte(r.eventType), Subject: []byte(r.subject),
		Time: r.time, Stamped: r.stamped == 1, Data: []byte(r.json), Extensions: []byte(r.extension),
	})
	for i, fingerprint := range b.fingerprints {
		if b.types[i] != r.eventType || slices.Contains(r.meters, fingerprint) {
			continue
		}
		b.wanted[fingerprint].events++
		b.wanted[fingerprint].digest += r.digest
		at := slices.IndexFunc(values, func(v meter.EventValue) bool { return v.Meter == fingerprint })
		if at < 0 {
			b.report.NoValue++
			continue
		}
		if err := b.add(&r, &values[at]); err != nil {
			return err
		}
	}
	if b.rows >= backfillChunk {
		return b.flush(ctx)
	}
	return nil
}

func (b *backfill) add(r *rawEvent, v *meter.EventValue) error {
	if b.data == nil {
		b.data = make([]columnData, len(backfilledValues.columns)+1) // the last: elements of dimensions
	}
	d := b.data
	d[0].uint64(v.Meter)
	if err := d[1].dateTime(b.hour); err != nil {
		return err
	}
	d[2].uint64(b.id)
	d[3].string(r.subject)
	d[4].fixed([]byte(r.key))
	d[5].uint64(r.content)
	d[6].uint64(r.version)
	d[7].int64(r.time)
	d[8].uint8(r.stamped)
	if err := d[9].decimal(v.Quantity); err != nil {
		return fmt.Errorf("event %q of %q: %w", r.id, r.subject, err)
	}
	d[10].bytes(v.Text)
	offset := uint64(len(v.Dimensions))
	if n := len(d[11].buf); n > 0 {
		offset += lastUint64(d[11].buf)
	}
	d[11].uint64(offset)
	for _, dimension := range v.Dimensions {
		d[12].bytes(dimension)
	}
	b.rows++
	return nil
}

func (b *backfill) flush(ctx context.Context) error {
	if b.rows == 0 {
		return nil
	}
	last := len(b.data) - 1
	b.data[last-1].buf = append(b.data[last-1].buf, b.data[last].buf...)
	if _, _, err := b.store.insert(ctx, backfilledValues, b.rows, rowColumns(b.data[:last])); err != nil {
		return err
	}
	b.written += uint64(b.rows)       //nolint:gosec // not negative
	b.report.Values += uint64(b.rows) //nolint:gosec // as above
	b.rows, b.data = 0, nil
	return nil
}

// finish makes the run count.
func (b *backfill) finish(ctx context.Context) error {
	return b.store.insertRows(ctx, backfills, len(b.fingerprints), func(i int, d []columnData) error {
		set := b.wanted[b.fingerprints[i]]
		d[0].uint64(b.fingerprints[i])
		d[2].uint64(b.id)
		d[3].uint64(set.events)
		d[4].uint64(set.digest)
		return errors.Join(d[1].dateTime(b.hour), d[5].dateTime(b.store.cfg.Now()))
	})
}
