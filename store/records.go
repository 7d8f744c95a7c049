package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var billRecords = newTable("bill_records",
	"window_start", "DateTime('UTC')", "window_end", "DateTime('UTC')", "version", "UInt64", "sn", "String", "seller", "String",
	"instance_id", "String", "product_id", "String", "subject", "String", "meter", "String", "usage", "Decimal(38, 18)",
	"carried_in", "Decimal(38, 18)", "carried_out", "Decimal(38, 18)", "scale", "Decimal(38, 18)", "billed", "Decimal(38, 18)",
	"record_time", "Int64", "package", "String", "revision", "UInt32", "first_state", "UInt8", "first_at", "Int64",
	"first_message", "String")

var billRecordWindows = newTable("bill_record_windows", "sn", "String", "window_start", "DateTime('UTC')")

var billRecordTransitions = newTable("bill_record_transitions",
	"window_start", "DateTime('UTC')", "window_end", "DateTime('UTC')", "sn", "String", "seq", "UInt32", "state", "UInt8",
	"at", "Int64", "attempt", "UInt32", "endpoint", "String", "code", "String", "message", "String", "request_hash", "String",
	"latency", "Int64", "precedence", "UInt64")

// WriteRecords writes bill records of one close. The first transition is stored in the record's own row, because it
// belongs to the close: a close that was interrupted leaves neither. Writing the same (SN, version) again changes nothing.
func (s *Store) WriteRecords(ctx context.Context, records []reporter.BillRecord) error {
	if err := s.writeRecords(ctx, records); err != nil {
		return fmt.Errorf("write bill records: %w", classify(err))
	}
	return nil
}

func (s *Store) writeRecords(ctx context.Context, records []reporter.BillRecord) error {
	for i := range records {
		if last := &records[i].Last; last.Seq != 1 || last.State == 0 {
			return fmt.Errorf("%w: record %s comes with transition %d to state %d instead of its first one", meter.ErrRefused, records[i].SN, last.Seq, last.State)
		}
	}
	// The way to find a record comes before the record: an orphan of it leads to nothing and does no harm.
	err := s.insertRows(ctx, billRecordWindows, len(records), func(i int, d []columnData) error {
		d[0].string(string(records[i].SN))
		return d[1].dateTime(records[i].Window.Start)
	})
	if err != nil {
		return err
	}
	return s.insertRows(ctx, billRecords, len(records), func(i int, d []columnData) error { return encodeRecord(d, &records[i]) })
}

func encodeRecord(d []columnData, r *reporter.BillRecord) error {
	d[2].uint64(r.Version)
	for i, text := range []string{string(r.SN), r.Seller, r.InstanceID, r.ProductID, r.Subject, r.Meter} {
		d[3+i].string(text)
	}
	d[14].nanos(r.RecordTime)
	d[15].string(r.Package)
	d[16].uint32(r.Revision)
	d[17].uint8(uint8(r.Last.State))
	d[18].nanos(r.Last.At)
	d[19].string(r.Last.Message)
	errs := []error{d[0].dateTime(r.Window.Start), d[1].dateTime(r.Window.End)}
	for i, q := range []meter.Quantity{r.Usage, r.CarriedIn, r.CarriedOut, r.Scale, r.Billed} {
		errs = append(errs, d[9+i].decimal(q))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("record %s: %w", r.SN, err)
	}
	return nil
}

// AppendTransitions appends rows and returns once they are durable. Writing the same (SN, seq) again changes nothing; of
// two different rows under one (SN, seq), which two daemons on one seller could write, the earlier in time stays.
func (s *Store) AppendTransitions(ctx context.Context, ts []reporter.Transition) error {
	err := s.insertRows(ctx, billRecordTransitions, len(ts), func(i int, d []columnData) error {
		t := &ts[i]
		if t.Seq < 2 {
			return fmt.Errorf("record %s: transition %d: the first one comes with the record", t.SN, t.Seq)
		}
		d[2].string(string(t.SN))
		d[3].uint32(t.Seq)
		d[4].uint8(uint8(t.State))
		d[5].nanos(t.At)
		d[6].uint32(t.Attempt)
		for j, text := range []string{t.Endpoint, t.Code, t.Message, t.RequestHash} {
			d[7+j].string(text)
		}
		d[11].int64(int64(t.Latency))
		d[12].uint64(version(max(t.At.UnixNano(), 0)))
		return errors.Join(d[0].dateTime(t.Window.Start), d[1].dateTime(t.Window.End))
	})
	if err != nil {
		return fmt.Errorf("append transitions: %w", classify(err))
	}
	// A record that becomes pending again (released by a person, say) makes its window one with due records again.
	reopened := map[meter.Window]bool{}
	for _, t := range ts {
		if t.State == reporter.StatePending && !reopened[t.Window] {
			reopened[t.Window] = true
			if err := s.reopenWindow(ctx, t.Window); err != nil {
				return fmt.Errorf("append transitions: %w", err)
			}
		}
	}
	return nil
}

func stateList(states []reporter.State) string {
	list := make([]string, len(states))
	for i, state := range states {
		list[i] = strconv.Itoa(int(state))
	}
	return strings.Join(list, ", ")
}

func dueStates() []reporter.State {
	return slices.DeleteFunc(reporter.States(), func(st reporter.State) bool { return !st.Due() })
}

// inStates is the condition of records, within the given range of the tables' common columns, whose last transition is
// to one of the states. Records without rows in bill_record_transitions stand at their first state.
func (s *Store) inStates(states []reporter.State, within clauses) string {
	list := stateList(states)
	moved := "SELECT window_start, sn FROM bill_record_transitions WHERE " + within.String() + " GROUP BY window_start, sn"
	return "((window_start, sn) " + s.global + "IN (" + moved + " HAVING argMax(state, (seq, precedence)) IN (" + list + "))" +
		" OR (first_state IN (" + list + ") AND (window_start, sn) " + s.global + "NOT IN (" + moved + ")))"
}

// DueRecords returns up to limit due records of a closed window in order of SN, after the given SN.
//
// A page is found by narrow columns of this one window, then its records are read by key, so a page costs the same
// whatever the history.
func (s *Store) DueRecords(ctx context.Context, c reporter.WindowClose, after reporter.MeteringSN, limit int) ([]reporter.BillRecord, error) {
	within := clauses{"window_start = " + sqlTime(c.Window.Start), "sn > " + quote(string(after))}
	where := append(clauses{"version = " + sqlUint(c.Version)}, within...)
	where.add(s.inStates(dueStates(), within))
	list, err := s.records(ctx, where, nil, limit)
	if err != nil {
		return nil, fmt.Errorf("read due records of %s: %w", c.Window, err)
	}
	return list, nil
}

// CountDue returns the number of due records of closed windows that are not settled.
func (s *Store) CountDue(ctx context.Context) (uint64, error) {
	windows, err := s.UnsettledWindows(ctx)
	if err != nil {
		return 0, fmt.Errorf("count due records: %w", err)
	}
	var total uint64
	for _, c := range windows {
		n, err := s.countDue(ctx, c)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func (s *Store) countDue(ctx context.Context, c reporter.WindowClose) (n uint64, err error) {
	within := clauses{"window_start = " + sqlTime(c.Window.Start)}
	where := append(clauses{"version = " + sqlUint(c.Version)}, within...)
	where.add(s.inStates(dueStates(), within))
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM bill_records FINAL WHERE "+where.String()).Scan(&n); err != nil {
		return 0, fmt.Errorf("count due records of %s: %w", c.Window, err)
	}
	return n, nil
}

// Bounds of RecordFilter.Limit.
const (
	defaultRecords = 100
	maxRecords     = 10_000
)

// Records returns records of closed windows with their last transition, ordered by window start, then SN.
func (s *Store) Records(ctx context.Context, f reporter.RecordFilter) ([]reporter.BillRecord, error) {
	list, err := s.filterRecords(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("read bill records: %w", err)
	}
	return list, nil
}

func (s *Store) filterRecords(ctx context.Context, f reporter.RecordFilter) ([]reporter.BillRecord, error) {
	limit := f.Limit
	switch {
	case limit == 0:
		limit = defaultRecords
	case limit < 0 || limit > maxRecords:
		return nil, fmt.Errorf("%w: limit must be from 1 to %d (got %d)", ErrBadQuery, maxRecords, limit)
	}
	within := rangeWhere(f.From, f.To)
	after, err := cursorWhere(f.After)
	if err != nil {
		return nil, err
	}
	if f.SN != "" {
		windows, err := s.recordWindows(ctx, f.SN)
		if err != nil || len(windows) == 0 {
			return nil, err
		}
		within.add("window_start IN (" + strings.Join(windows, ", ") + ") AND sn = " + quote(string(f.SN)))
	}
	where := append(append(clauses{}, within...), after...)
	for column, value := range map[string]string{"instance_id": f.InstanceID, "subject": f.Subject, "meter": f.Meter} {
		if value != "" {
			where.add(column + " = " + quote(value))
		}
	}
	slices.Sort(where)
	if len(f.States) > 0 {
		where.add(s.inStates(f.States, append(append(clauses{}, within...), after...)))
	}
	return s.records(ctx, where, rangeWhere(f.From, f.To), limit)
}

// recordWindows lists the windows of a record as literals.
func (s *Store) recordWindows(ctx context.Context, sn reporter.MeteringSN) ([]string, error) {
	starts, err := scalars[time.Time](ctx, s.conn, "SELECT DISTINCT window_start FROM bill_record_windows WHERE sn = "+quote(string(sn)))
	if err != nil {
		return nil, fmt.Errorf("find window of record: %w", err)
	}
	list := make([]string, len(starts))
	for i, start := range starts {
		list[i] = sqlTime(start)
	}
	return list, nil
}

func cursorWhere(cursor string) (clauses, error) {
	if cursor == "" {
		return nil, nil
	}
	start, sn, err := reporter.ParseCursor(cursor)
	if err != nil || start.Unix() > maxSeconds {
		return nil, fmt.Errorf("%w: cursor %.60q is not one that a page of records came with", ErrBadQuery, cursor)
	}
	at := sqlTime(start)
	return clauses{"window_start >= " + at, "(window_start > " + at + " OR sn > " + quote(string(sn)) + ")"}, nil
}

// records reads records that match, in order of window and SN, of the closes that count within the given range; a nil
// range means that the conditions name the version.
func (s *Store) records(ctx context.Context, where, closes clauses, limit int) ([]reporter.BillRecord, error) {
	if limit <= 0 {
		return nil, nil
	}
	if closes != nil {
		where = append(where, s.counted(closes))
	}
	type key struct {
		start   int64
		version uint64
		sn      string
	}
	page := map[key]bool{}
	var sns []string
	var versions []uint64
	var first, last time.Time
	query := fmt.Sprintf("SELECT window_start, version, sn FROM bill_records FINAL WHERE %s ORDER BY window_start, sn LIMIT %d", where, limit)
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var k key
		if err := rows.Scan(&last, &k.version, &k.sn); err != nil {
			return err
		}
		if len(sns) == 0 {
			first = last
		}
		k.start = last.Unix()
		page[k] = true
		sns = append(sns, k.sn)
		if !slices.Contains(versions, k.version) {
			versions = append(versions, k.version)
		}
		return nil
	})
	if err != nil || len(sns) == 0 {
		return nil, err
	}
	// Plain strings are the one kind of long IN list that servers parse quickly; the versions are compared here.
	within := clauses{
		"window_start >= " + sqlTime(first), "window_start <= " + sqlTime(last),
		"sn >= " + quote(slices.Min(sns)), "sn <= " + quote(slices.Max(sns)), "sn IN (" + quoteList(sns) + ")",
	}
	// The version stands between window and number in the key: without it the index finds only the window.
	list, err := s.readRecords(ctx, append(clauses{"version IN (" + sqlUints(versions) + ")"}, within...))
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(r reporter.BillRecord) bool {
		return !page[key{r.Window.Start.Unix(), r.Version, string(r.SN)}]
	})
	return list, s.addLast(ctx, list, within)
}

func (s *Store) readRecords(ctx context.Context, where clauses) ([]reporter.BillRecord, error) {
	var list []reporter.BillRecord
	names := make([]string, len(billRecords.columns))
	for i, c := range billRecords.columns {
		names[i] = c.Name
	}
	query := "SELECT " + strings.Join(names, ", ") + " FROM bill_records FINAL WHERE " + where.String() + " ORDER BY window_start, sn"
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var r reporter.BillRecord
		var amounts [5]decimal.Decimal
		var sn string
		var recordTime, firstAt int64
		var state uint8
		err := rows.Scan(&r.Window.Start, &r.Window.End, &r.Version, &sn, &r.Seller, &r.InstanceID, &r.ProductID, &r.Subject, &r.Meter,
			&amounts[0], &amounts[1], &amounts[2], &amounts[3], &amounts[4], &recordTime, &r.Package, &r.Revision, &state, &firstAt, &r.Last.Message)
		if err != nil {
			return err
		}
		r.SN = reporter.MeteringSN(sn)
		r.Window = meter.Window{Start: r.Window.Start.UTC(), End: r.Window.End.UTC()}
		for i, q := range []*meter.Quantity{&r.Usage, &r.CarriedIn, &r.CarriedOut, &r.Scale, &r.Billed} {
			*q = meter.QuantityFromDecimal(amounts[i])
		}
		r.RecordTime = fromNanos(recordTime)
		r.Last.SN, r.Last.Window, r.Last.Seq, r.Last.State, r.Last.At = r.SN, r.Window, 1, reporter.State(state), fromNanos(firstAt)
		list = append(list, r)
		return nil
	})
	return list, err
}

// addLast replaces the first transition by the last one where there are more.
func (s *Store) addLast(ctx context.Context, list []reporter.BillRecord, where clauses) error {
	type key struct {
		start int64
		sn    reporter.MeteringSN
	}
	places := make(map[key]*reporter.Transition, len(list))
	for i := range list {
		places[key{list[i].Window.Start.Unix(), list[i].SN}] = &list[i].Last
	}
	return s.transitions(ctx, where, func(t reporter.Transition) {
		if last := places[key{t.Window.Start.Unix(), t.SN}]; last != nil && t.Seq > last.Seq {
			*last = t
		}
	})
}

// transitions reads stored transitions in order of window, SN and seq.
func (s *Store) transitions(ctx context.Context, where clauses, yield func(reporter.Transition)) error {
	query := "SELECT window_start, window_end, sn, seq, state, at, attempt, endpoint, code, message, request_hash, latency" +
		" FROM bill_record_transitions FINAL WHERE " + where.String() + " ORDER BY window_start, sn, seq"
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var t reporter.Transition
		var sn string
		var state uint8
		var at, latency int64
		err := rows.Scan(&t.Window.Start, &t.Window.End, &sn, &t.Seq, &state, &at, &t.Attempt, &t.Endpoint, &t.Code, &t.Message, &t.RequestHash, &latency)
		if err != nil {
			return err
		}
		t.SN, t.State, t.At, t.Latency = reporter.MeteringSN(sn), reporter.State(state), fromNanos(at), time.Duration(latency)
		t.Window = meter.Window{Start: t.Window.Start.UTC(), End: t.Window.End.UTC()}
		yield(t)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read transitions: %w", err)
	}
	return nil
}

// Transitions returns the whole life of one record of a closed window, by seq; none for an unknown SN.
func (s *Store) Transitions(ctx context.Context, sn reporter.MeteringSN) ([]reporter.Transition, error) {
	windows, err := s.recordWindows(ctx, sn)
	if err != nil || len(windows) == 0 {
		return nil, err
	}
	within := clauses{"window_start IN (" + strings.Join(windows, ", ") + ")", "sn = " + quote(string(sn))}
	records, err := s.readRecords(ctx, append(clauses{s.counted(within[:1])}, within...))
	if err != nil {
		return nil, fmt.Errorf("read transitions of %s: %w", sn, err)
	}
	var list []reporter.Transition
	for _, r := range records {
		list = append(list, r.Last)
		if err := s.transitions(ctx, append(clauses{"window_start = " + sqlTime(r.Window.Start)}, within[1]), func(t reporter.Transition) { list = append(list, t) }); err != nil {
			return nil, fmt.Errorf("read transitions of %s: %w", sn, err)
		}
	}
	return list, nil
}
