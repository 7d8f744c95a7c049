package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var billRecords = newTable("bill_records",
	"booked_start", "DateTime('UTC')", "booked_end", "DateTime('UTC')", "version", "UInt64", "sn", "String",
	"window_start", "DateTime('UTC')", "window_end", "DateTime('UTC')", "seller", "String", "instance_id", "String",
	"product_id", "String", "subject", "String", "meter", "String", "mode", "UInt8", "usage", "Decimal(38, 18)",
	"carried_in", "Decimal(38, 18)", "carried_out", "Decimal(38, 18)", "scale", "Decimal(38, 18)", "billed", "Decimal(38, 18)",
	"record_time", "Int64", "package", "String", "revision", "UInt32", "replaces", "String", "first_state", "UInt8",
	"first_at", "Int64", "first_message", "String", "first_detail", "String", "first_actor", "String")

var billRecordHours = newTable("bill_record_hours", "sn", "String", "booked_start", "DateTime('UTC')")

// writeRecords writes the bill records of a booking. The first transition is stored in the record's own row, because it
// belongs to the booking: one that was interrupted leaves neither.
func (s *Store) writeRecords(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	records := rows.Records
	// The ways to find a record come before the record: an orphan of them leads to nothing and does no harm.
	err := s.insertRows(ctx, billRecordHours, len(records), func(i int, d []columnData) error {
		d[0].string(string(records[i].SN))
		return d[1].dateTime(b.Window.Start)
	})
	if err != nil {
		return err
	}
	err = s.mark(ctx, len(records), func(i int) (reporter.State, time.Time) { return records[i].Last.State, b.Window.Start })
	if err != nil {
		return err
	}
	return s.insertRows(ctx, billRecords, len(records), func(i int, d []columnData) error { return encodeRecord(d, b, &records[i]) })
}

func encodeRecord(d []columnData, b reporter.Booking, r *reporter.BillRecord) error {
	d[2].uint64(b.Version)
	d[3].string(string(r.SN))
	for i, text := range []string{r.Seller, r.InstanceID, r.ProductID, r.Subject, r.Meter} {
		d[6+i].string(text)
	}
	d[11].uint8(uint8(r.Mode))
	d[17].nanos(r.RecordTime)
	d[18].string(r.Package)
	d[19].uint32(r.Revision)
	d[20].string(string(r.Replaces))
	d[21].uint8(uint8(r.Last.State))
	d[22].nanos(r.Last.At)
	for i, text := range []string{r.Last.Message, r.Last.Detail, r.Last.Actor} {
		d[23+i].string(text)
	}
	errs := []error{
		d[0].dateTime(b.Window.Start), d[1].dateTime(b.Window.End), d[4].dateTime(r.Window.Start), d[5].dateTime(r.Window.End),
	}
	for i, q := range []meter.Quantity{r.Usage, r.CarriedIn, r.CarriedOut, r.Scale, r.Billed} {
		errs = append(errs, d[12+i].decimal(q))
	}
	return wrap("record "+string(r.SN), errors.Join(errs...))
}

// readRecords reads whole records, by the hour they were booked in, then number, with their first transitions.
func (s *Store) readRecords(ctx context.Context, where clauses) ([]reporter.BillRecord, error) {
	var list []reporter.BillRecord
	query := "SELECT " + billRecords.names() + " FROM bill_records FINAL" + whereText(where) + " ORDER BY booked_start, sn"
	err := s.each(ctx, query, func(rows driver.Rows) error {
		r, err := scanRecord(rows)
		list = append(list, r)
		return err
	})
	return list, err
}

func scanRecord(rows driver.Rows) (reporter.BillRecord, error) {
	var r reporter.BillRecord
	var amounts [5]decimal.Decimal
	var sn, replaces string
	var recordTime, firstAt int64
	var state, mode uint8
	err := rows.Scan(&r.Booked.Start, &r.Booked.End, &r.Version, &sn, &r.Window.Start, &r.Window.End, &r.Seller, &r.InstanceID,
		&r.ProductID, &r.Subject, &r.Meter, &mode, &amounts[0], &amounts[1], &amounts[2], &amounts[3], &amounts[4], &recordTime,
		&r.Package, &r.Revision, &replaces, &state, &firstAt, &r.Last.Message, &r.Last.Detail, &r.Last.Actor)
	if err != nil {
		return r, err
	}
	r.SN, r.Replaces, r.Mode = reporter.MeteringSN(sn), reporter.MeteringSN(replaces), reporter.Mode(mode)
	r.Window, r.Booked = utcWindow(r.Window), utcWindow(r.Booked)
	for i, q := range []*meter.Quantity{&r.Usage, &r.CarriedIn, &r.CarriedOut, &r.Scale, &r.Billed} {
		*q = meter.QuantityFromDecimal(amounts[i])
	}
	r.RecordTime = fromNanos(recordTime)
	r.Last.SN, r.Last.Booked, r.Last.Seq, r.Last.State, r.Last.At = r.SN, r.Booked, 1, reporter.State(state), fromNanos(firstAt)
	return r, nil
}

// recordHours lists the hours under which records of these numbers were ever written, as literals.
func (s *Store) recordHours(ctx context.Context, sns []reporter.MeteringSN) (string, error) {
	starts, err := scalars[time.Time](ctx, s.conn, "SELECT DISTINCT booked_start FROM bill_record_hours WHERE sn IN ("+quoteList(sns)+")")
	literals := make([]string, len(starts))
	for i, start := range starts {
		literals[i] = sqlTime(start)
	}
	return joinUnique(literals), wrap("find hours of records", err)
}

// RecordsBySN returns those of the records that count, whatever their state, with their last transition, by number.
func (s *Store) RecordsBySN(ctx context.Context, sns []reporter.MeteringSN) ([]reporter.BillRecord, error) {
	const chunk = 1000 // of numbers in one query
	var all []reporter.BillRecord
	for part := range slices.Chunk(slices.Compact(slices.Sorted(slices.Values(sns))), chunk) {
		list, err := s.recordsBySN(ctx, part)
		if err != nil {
			return nil, fmt.Errorf("read bill records: %w", err)
		}
		slices.SortFunc(list, func(x, y reporter.BillRecord) int { return cmp.Compare(x.SN, y.SN) })
		all = append(all, list...)
	}
	return all, nil
}

func (s *Store) recordsBySN(ctx context.Context, sns []reporter.MeteringSN) ([]reporter.BillRecord, error) {
	hours, err := s.recordHours(ctx, sns)
	if err != nil || hours == "" {
		return nil, err
	}
	within := clauses{"booked_start IN (" + hours + ")", "sn IN (" + quoteList(sns) + ")"}
	// The version stands between hour and number in the key: without a list of versions the index finds only the hours.
	committed, err := s.bookedVersions(ctx, "window_start IN ("+hours+")")
	if err != nil || len(committed) == 0 {
		return nil, err
	}
	list, err := s.readRecords(ctx, append(clauses{"version IN (" + sqlUints(committed) + ")"}, within...))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list, s.addLast(ctx, list, within)
}

// bookedVersions lists the versions of bookings with records that match.
func (s *Store) bookedVersions(ctx context.Context, where string) ([]uint64, error) {
	list, err := scalars[uint64](ctx, s.conn, "SELECT DISTINCT version FROM bookings WHERE records > 0 AND "+where)
	return list, wrap("read bookings", err)
}

// DueRecords returns up to limit due records of a booking in order of SN, after the given SN.
//
// A page is found by narrow columns of this one hour, then its records are read by key, so a page costs the same
// whatever the history.
func (s *Store) DueRecords(ctx context.Context, b reporter.Booking, after reporter.MeteringSN, limit int) ([]reporter.BillRecord, error) {
	within := clauses{"booked_start = " + sqlTime(b.Window.Start), "sn > " + quote(string(after))}
	where := append(clauses{"version = " + sqlUint(b.Version), s.committed("version = " + sqlUint(b.Version))}, within...)
	where.add(s.inStates(dueStates(), within))
	list, err := s.recordPage(ctx, where, limit)
	if err == nil {
		err = s.addLast(ctx, list, nil)
	}
	return list, wrap(fmt.Sprintf("read due records of booking %d", b.Number), err)
}

// CountDue returns the number of due records of bookings that are not settled.
func (s *Store) CountDue(ctx context.Context) (uint64, error) {
	list, err := s.UnsettledBookings(ctx)
	if err != nil {
		return 0, fmt.Errorf("count due records: %w", err)
	}
	return s.countDue(ctx, list)
}

func (s *Store) countDue(ctx context.Context, list []reporter.Booking) (n uint64, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	within := clauses{"booked_start IN (" + hours(list) + ")"}
	where := append(clauses{"version IN (" + sqlUints(versions(list)) + ")"}, within...)
	where.add(s.inStates(dueStates(), within))
	err = s.conn.QueryRow(ctx, "SELECT count() FROM bill_records FINAL WHERE "+where.String()).Scan(&n)
	return n, wrap("count due records", err)
}

// recordPage reads the first records that match, by the hour they were booked in, then number, with their first transitions:
// their keys first, then whole rows by key.
func (s *Store) recordPage(ctx context.Context, where clauses, limit int) ([]reporter.BillRecord, error) {
	if limit <= 0 {
		return nil, nil
	}
	type key struct {
		start   int64
		version uint64
		sn      reporter.MeteringSN
	}
	page := map[key]bool{}
	var sns []string
	var found []uint64
	var first, last time.Time
	query := fmt.Sprintf("SELECT booked_start, version, sn FROM bill_records FINAL WHERE %s ORDER BY booked_start, sn LIMIT %d", where, limit)
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var version uint64
		var sn string
		if err := rows.Scan(&last, &version, &sn); err != nil {
			return err
		}
		if len(sns) == 0 {
			first = last
		}
		page[key{last.Unix(), version, reporter.MeteringSN(sn)}] = true
		sns = append(sns, sn)
		if !slices.Contains(found, version) {
			found = append(found, version)
		}
		return nil
	})
	if err != nil || len(sns) == 0 {
		return nil, err
	}
	// Plain strings are the one kind of long IN list that servers parse quickly; the keys are compared here.
	list, err := s.readRecords(ctx, clauses{
		"booked_start >= " + sqlTime(first), "booked_start <= " + sqlTime(last), "version IN (" + sqlUints(found) + ")",
		"sn >= " + quote(slices.Min(sns)), "sn <= " + quote(slices.Max(sns)), "sn IN (" + quoteList(sns) + ")",
	})
	return slices.DeleteFunc(list, func(r reporter.BillRecord) bool { return !page[key{r.Booked.Start.Unix(), r.Version, r.SN}] }), err
}
