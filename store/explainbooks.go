package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var _ reporter.ExplainBooks = (*Store)(nil)

// BookingByVersion returns the booking whose rows have the version; ok is false when there is none.
func (s *Store) BookingByVersion(ctx context.Context, version uint64) (b reporter.Booking, ok bool, err error) {
	list, err := s.bookings(ctx, clauses{"version = " + sqlUint(version)}, "")
	if err != nil || len(list) == 0 {
		return reporter.Booking{}, false, wrap(fmt.Sprintf("read the booking of version %d", version), err)
	}
	return list[0], true, nil
}

// RecordBefore returns, with its last transition, the last record of r's account before r, in order of version, then start of
// the window, then SN; ok is false when r is the first. Records that replace another are passed over.
//
// Records are not ordered by account, so bookings are read backwards in growing groups: an account that is billed every hour
// costs one group, the first record of an account all of the history's narrow columns.
func (s *Store) RecordBefore(ctx context.Context, r reporter.BillRecord) (before reporter.BillRecord, ok bool, err error) {
	before, ok, err = s.recordBefore(ctx, r)
	return before, ok, wrap("read the record before "+string(r.SN), err)
}

func (s *Store) recordBefore(ctx context.Context, r reporter.BillRecord) (before reporter.BillRecord, ok bool, err error) {
	const firstGroup, largestGroup = 32, 8192
	var list []bookedHour
	query := "SELECT DISTINCT toUInt32(window_start), version FROM bookings WHERE records > 0 AND version <= " + sqlUint(r.Version) + " ORDER BY version DESC"
	err = s.each(ctx, query, func(rows driver.Rows) error {
		var h bookedHour
		var start uint32
		err := rows.Scan(&start, &h.version)
		h.start = int64(start)
		list = append(list, h)
		return err
	})
	if err != nil {
		return before, false, fmt.Errorf("read bookings: %w", err)
	}
	account := clauses{
		"subject = " + quote(r.Subject), "meter = " + quote(r.Meter), "replaces = ''",
		fmt.Sprintf("(version < %s OR window_start < %s OR window_start = %[2]s AND sn < %s)", sqlUint(r.Version), sqlTime(r.Window.Start), quote(string(r.SN))),
	}
	for size := firstGroup; len(list) > 0; size = min(4*size, largestGroup) {
		n := min(size, len(list))
		group := list[:n]
		list = list[n:]
		literals, found := make([]string, n), make([]uint64, n)
		for i, h := range group {
			literals[i], found[i] = sqlTime(time.Unix(h.start, 0)), h.version
		}
		where := append(clauses{"booked_start IN (" + joinUnique(literals) + ")", "version IN (" + sqlUints(found) + ")"}, account...)
		keys, err := scalars[string](ctx, s.conn, "SELECT sn FROM bill_records WHERE "+where.String()+" ORDER BY version DESC, window_start DESC, sn DESC LIMIT 1")
		if err != nil {
			return before, false, err
		}
		if len(keys) == 0 {
			continue
		}
		records, err := s.recordsBySN(ctx, []reporter.MeteringSN{reporter.MeteringSN(keys[0])})
		if err != nil || len(records) == 0 {
			return before, false, err
		}
		return records[0], true, nil
	}
	return before, false, nil
}

// ReplacedBy returns the record that reports sn again; ok is false when there is none. Only bookings of people who had records
// sent again are looked at, which are few.
func (s *Store) ReplacedBy(ctx context.Context, sn reporter.MeteringSN) (r reporter.BillRecord, ok bool, err error) {
	r, ok, err = s.replacedBy(ctx, sn)
	return r, ok, wrap("read the record that replaces "+string(sn), err)
}

func (s *Store) replacedBy(ctx context.Context, sn reporter.MeteringSN) (r reporter.BillRecord, ok bool, err error) {
	const chunk = 1000 // of bookings in one query
	resends, err := s.bookings(ctx, clauses{fmt.Sprintf("kind = %d", reporter.BookingResend)}, "")
	if err != nil {
		return r, false, err
	}
	for part := range slices.Chunk(resends, chunk) {
		list, err := s.readRecords(ctx, clauses{
			"booked_start IN (" + hours(part) + ")", "version IN (" + sqlUints(versions(part)) + ")", "replaces = " + quote(string(sn)),
		})
		if err != nil {
			return r, false, err
		}
		if len(list) > 0 {
			return list[0], true, s.addLast(ctx, list[:1], nil)
		}
	}
	return r, false, nil
}

// UsageHistory returns every row of hourly usage of one account with window start in [from, to), replaced ones included, by
// window, then version. A zero from means from the beginning.
func (s *Store) UsageHistory(ctx context.Context, a reporter.Account, from, to time.Time) ([]reporter.HourlyUsage, error) {
	if !from.Before(to) {
		return nil, nil
	}
	where := append(rangeWhere(from, to, "window_start"), "subject = "+quote(a.Subject), "meter = "+quote(a.Meter))
	var booked time.Time
	if !from.IsZero() {
		booked = meter.HourOf(from).Start
	}
	where = append(where, s.committed(rangeWhere(booked, time.Time{}, "window_start")...))
	var list []reporter.HourlyUsage
	query := "SELECT window_start, version, any(window_end), any(quantity), any(events) FROM hourly_usage WHERE " + where.String() +
		" GROUP BY window_start, version ORDER BY window_start, version"
	err := s.each(ctx, query, func(rows driver.Rows) error {
		u := reporter.HourlyUsage{Subject: a.Subject, Meter: a.Meter}
		var quantity decimal.Decimal
		if err := rows.Scan(&u.Window.Start, &u.Version, &u.Window.End, &quantity, &u.Events); err != nil {
			return err
		}
		u.Window, u.Quantity = utcWindow(u.Window), meter.QuantityFromDecimal(quantity)
		list = append(list, u)
		return nil
	})
	return list, wrap("read the history of hourly usage of "+a.String(), err)
}
