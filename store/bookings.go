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

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// bookings has one row per booking: a close an hour and some more, ten to a hundred thousand a year. Reading its narrow
// columns whole takes milliseconds after decades; everything that is written per account or record is only ever read
// by the hours and versions found here.

var bookings = newTable("bookings",
	"number", "UInt64", "version", "UInt64", "kind", "UInt8", "window_start", "DateTime('UTC')", "window_end", "DateTime('UTC')",
	"at", "Int64", "events", "UInt64", "usages", "UInt64", "records", "UInt64", "adjustments", "UInt64", "balances", "UInt64",
	"covers", "UInt64", "instance_id", "String", "actor", "String", "reason", "String", "meters", "String")

var bookingSettlements = newTable("booking_settlements", "number", "UInt64", "settled_at", "Int64", "place", "UInt64")

// committed limits a table with booked_start and version to the bookings that match; no condition means all of them.
func (s *Store) committed(where ...string) string {
	return "version " + s.global + "IN (SELECT version FROM bookings" + whereText(where) + ")"
}

func whereText(where clauses) string {
	if len(where) == 0 {
		return ""
	}
	return " WHERE " + where.String()
}

// LastBooking returns the booking with the highest number, after completing one that was committed by a process that
// ended before it could write it down; ok is false when nothing was booked yet.
func (s *Store) LastBooking(ctx context.Context) (b reporter.Booking, ok bool, err error) {
	number, _, err := s.completeLog(ctx)
	if err != nil || number == 0 {
		return reporter.Booking{}, false, wrap("read last booking", err)
	}
	list, err := s.bookings(ctx, clauses{"number = " + sqlUint(number)}, "")
	if err != nil || len(list) == 0 {
		return reporter.Booking{}, false, wrap("read last booking", errors.Join(err, missingRow(list, number)))
	}
	return list[0], true, nil
}

func missingRow(list []reporter.Booking, number uint64) error {
	if len(list) > 0 {
		return nil
	}
	return fmt.Errorf("%w: booking %d has no row", ErrRowsMissing, number)
}

// wrap adds the operation to an error; nil stays nil.
func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", operation, err)
}

// completeLog returns the highest number booked, after writing the rows of bookings that have only their view, and the
// numbers that have views.
func (s *Store) completeLog(ctx context.Context) (last uint64, views []uint64, err error) {
	query := "SELECT toUInt8(0) AS is_view, toString(max(number)) AS found FROM bookings UNION ALL SELECT toUInt8(1), name FROM (" + s.viewQuery(bookingPrefix) + ")"
	err = s.each(ctx, query, func(rows driver.Rows) error {
		var isView uint8
		var found string
		err := rows.Scan(&isView, &found)
		if err != nil {
			return err
		}
		number, err := strconv.ParseUint(strings.TrimPrefix(found, bookingPrefix), 10, 64)
		if isView == 0 {
			last = number
		} else {
			views = append(views, number)
		}
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("read log: %w", err)
	}
	for slices.Contains(views, last+1) {
		if _, err := s.completeBooking(ctx, last+1); err != nil {
			return 0, nil, err
		}
		last++
	}
	return last, views, nil
}

// LastClosed returns the close (BookingClose) with the latest window; ok is false when no window was closed yet.
func (s *Store) LastClosed(ctx context.Context) (b reporter.Booking, ok bool, err error) {
	// The number first, by narrow columns: the row is then read by its key, and not every close there ever was.
	latest := fmt.Sprintf("number %sIN (SELECT argMax(number, window_start) FROM bookings WHERE kind = %d)", s.global, reporter.BookingClose)
	list, err := s.bookings(ctx, clauses{latest}, " ORDER BY window_start DESC, number DESC LIMIT 1")
	if err != nil || len(list) == 0 {
		return reporter.Booking{}, false, wrap("read last close", err)
	}
	return list[0], true, nil
}

// UnsettledBookings returns committed bookings with records that are not settled, by number.
func (s *Store) UnsettledBookings(ctx context.Context) ([]reporter.Booking, error) {
	list, err := s.bookings(ctx, clauses{"records > 0", "number " + s.global + "NOT IN (SELECT number FROM booking_settlements" +
		" GROUP BY number HAVING argMax(settled_at, place) != 0)"}, "")
	return list, wrap("read unsettled bookings", err)
}

// Bookings returns committed bookings by window start in [from, to), by number. A zero time is no bound.
func (s *Store) Bookings(ctx context.Context, from, to time.Time) ([]reporter.Booking, error) {
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return nil, nil
	}
	list, err := s.bookings(ctx, rangeWhere(from, to, "window_start"), "")
	return list, wrap("read bookings", err)
}

// bookings reads bookings with their settlements; by number unless an order is given.
func (s *Store) bookings(ctx context.Context, where clauses, order string) ([]reporter.Booking, error) {
	if order == "" {
		order = " ORDER BY number"
	}
	var list []reporter.Booking
	err := s.each(ctx, "SELECT "+bookings.names()+" FROM bookings FINAL"+whereText(where)+order, func(rows driver.Rows) error {
		b, err := scanBooking(rows)
		list = append(list, b)
		return err
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list, s.addSettlements(ctx, list)
}

func scanBooking(rows driver.Rows) (reporter.Booking, error) {
	var b reporter.Booking
	var kind uint8
	var at int64
	err := rows.Scan(&b.Number, &b.Version, &kind, &b.Window.Start, &b.Window.End, &at, &b.Events, &b.Usages, &b.Records,
		&b.Adjustments, &b.Balances, &b.Covers, &b.InstanceID, &b.Actor, &b.Reason, &b.Meters)
	b.Kind, b.At, b.Window = reporter.BookingKind(kind), fromNanos(at), utcWindow(b.Window)
	return b, err
}

func utcWindow(w meter.Window) meter.Window {
	return meter.Window{Start: w.Start.UTC(), End: w.End.UTC()}
}

func (s *Store) addSettlements(ctx context.Context, list []reporter.Booking) error {
	low, high := list[0].Number, list[0].Number
	for _, b := range list {
		low, high = min(low, b.Number), max(high, b.Number)
	}
	settled := map[uint64]time.Time{}
	query := "SELECT number, argMax(settled_at, place) FROM booking_settlements WHERE number >= " + sqlUint(low) +
		" AND number <= " + sqlUint(high) + " GROUP BY number"
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var number uint64
		var at int64
		if err := rows.Scan(&number, &at); err != nil {
			return err
		}
		settled[number] = fromNanos(at)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read settlements: %w", err)
	}
	for i := range list {
		list[i].SettledAt = settled[list[i].Number]
	}
	return nil
}

// SettleBooking records that nothing of the booking is due any more since b.SettledAt, or now if that is zero. If something
// became due in the same moment, the booking stays unsettled.
func (s *Store) SettleBooking(ctx context.Context, b reporter.Booking) error {
	at := b.SettledAt
	if at.IsZero() {
		at = s.cfg.Now()
	}
	err := s.settle(ctx, b.Number, at)
	if err == nil {
		var n uint64
		if n, err = s.countDue(ctx, []reporter.Booking{b}); err == nil && n > 0 {
			err = s.settle(ctx, b.Number, time.Time{})
		}
	}
	return wrap(fmt.Sprintf("settle booking %d", b.Number), err)
}

// settle appends the time of settlement, or the zero time for none. Its place is behind the rows that are there; of two rows
// written at the same time the one that unsettles counts.
func (s *Store) settle(ctx context.Context, number uint64, at time.Time) error {
	var last uint64
	if err := s.conn.QueryRow(ctx, "SELECT max(place) FROM booking_settlements WHERE number = "+sqlUint(number)).Scan(&last); err != nil {
		return fmt.Errorf("read settlements: %w", err)
	}
	place := (last/2 + 1) * 2
	if at.IsZero() {
		place++
	}
	return s.insertRows(ctx, bookingSettlements, 1, func(_ int, d []columnData) error {
		d[0].uint64(number)
		d[1].nanos(at)
		d[2].uint64(place)
		return nil
	})
}

// reopen makes settled bookings that hold one of the records unsettled.
func (s *Store) reopen(ctx context.Context, booked meter.Window, sns []reporter.MeteringSN) error {
	hour := sqlTime(booked.Start)
	versions, err := scalars[uint64](ctx, s.conn, "SELECT DISTINCT version FROM bill_records WHERE booked_start = "+hour+
		" AND "+s.committed("window_start = "+hour)+" AND sn IN ("+quoteList(sns)+")")
	if err != nil || len(versions) == 0 {
		return err
	}
	list, err := s.bookings(ctx, clauses{"window_start = " + hour, "version IN (" + sqlUints(versions) + ")"}, "")
	if err != nil {
		return err
	}
	for _, b := range list {
		if b.SettledAt.IsZero() {
			continue
		}
		if err := s.settle(ctx, b.Number, time.Time{}); err != nil {
			return err
		}
	}
	return nil
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// rangeWhere is the condition of times in [from, to); zero times are no bound. It is never empty.
func rangeWhere(from, to time.Time, column string) clauses {
	var c clauses
	if !from.IsZero() {
		c.add(column + " >= " + sqlTime(clampTime(ceilSecond(from))))
	}
	if !to.IsZero() {
		c.add(column + " < " + sqlTime(clampTime(ceilSecond(to))))
	}
	return c
}

// clampTime brings a bound into the range of DateTime: there is nothing beyond.
func clampTime(t time.Time) time.Time {
	return time.Unix(min(max(t.Unix(), 0), maxSeconds), 0)
}

// ceilSecond rounds up: a window that starts on a second is before t if and only if it is before ceilSecond(t).
func ceilSecond(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second)
	}
	return t
}

// names lists a table's columns for SQL.
func (t table) names() string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.Name
	}
	return strings.Join(names, ", ")
}

// hours lists the distinct starts of the bookings' windows as literals.
func hours(list []reporter.Booking) string {
	var literals []string
	for _, b := range list {
		literals = append(literals, sqlTime(b.Window.Start))
	}
	slices.Sort(literals)
	return strings.Join(slices.Compact(literals), ", ")
}

// versions lists the bookings' versions.
func versions(list []reporter.Booking) []uint64 {
	numbers := make([]uint64, len(list))
	for i, b := range list {
		numbers[i] = b.Version
	}
	return numbers
}
