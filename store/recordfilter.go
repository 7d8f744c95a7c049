package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Bounds of RecordFilter.Limit.
const (
	defaultRecords = 100
	maxRecords     = 10_000
)

// longestWindow is by how much a close can be booked later than its records' windows began: a day of 25 hours.
const longestWindow = 26 * time.Hour

// Records returns records of committed bookings with their last transition, ordered by the hour they were booked in, then
// SN.
//
// Bookings that may hold records of the filter are found first, then read in growing groups until the page is full. So a page
// costs what its own hours cost, and a filter that selects little what all hours of its period cost together. By number,
// and by states that are due or rare (held, rejected …), only the hours in question are read, also without a period.
func (s *Store) Records(ctx context.Context, f reporter.RecordFilter) ([]reporter.BillRecord, error) {
	list, err := s.filterRecords(ctx, f)
	return list, wrap("read bill records", err)
}

func (s *Store) filterRecords(ctx context.Context, f reporter.RecordFilter) ([]reporter.BillRecord, error) {
	limit := f.Limit
	switch {
	case limit == 0:
		limit = defaultRecords
	case limit < 0 || limit > maxRecords:
		return nil, fmt.Errorf("%w: limit must be from 1 to %d (got %d)", ErrBadQuery, maxRecords, limit)
	}
	from, after, err := cursorWhere(f.After)
	if err != nil {
		return nil, err
	}
	within := after
	if f.SN != "" {
		hours, err := s.recordHours(ctx, []reporter.MeteringSN{f.SN})
		if err != nil || hours == "" {
			return nil, err
		}
		within = append(clauses{"booked_start IN (" + hours + ")", "sn = " + quote(string(f.SN))}, after...)
	}
	candidates, err := s.candidates(ctx, f, from)
	if err != nil {
		return nil, err
	}
	where := rangeWhere(f.From, f.To, "window_start")
	for _, column := range []struct{ name, value string }{{"instance_id", f.InstanceID}, {"subject", f.Subject}, {"meter", f.Meter}} {
		if column.value != "" {
			where.add(column.name + " = " + quote(column.value))
		}
	}
	return s.collect(ctx, candidates, f.States, within, where, limit)
}

// collect reads bookings in groups, each four times as large as the one before, until it has enough records.
func (s *Store) collect(ctx context.Context, list []bookedHour, states []reporter.State, within, where clauses, limit int) ([]reporter.BillRecord, error) {
	const firstGroup, largestGroup = 32, 8192
	var page []reporter.BillRecord
	for size := firstGroup; len(list) > 0 && len(page) < limit; size = min(4*size, largestGroup) {
		n := min(size, len(list))
		for n < len(list) && list[n].start == list[n-1].start { // the bookings of one hour are ordered together
			n++
		}
		versions, literals := make([]uint64, n), make([]string, n)
		for i, h := range list[:n] {
			versions[i], literals[i] = h.version, sqlTime(time.Unix(h.start, 0))
		}
		list = list[n:]
		group := append(clauses{"booked_start IN (" + joinUnique(literals) + ")"}, within...)
		match := append(append(clauses{"version IN (" + sqlUints(versions) + ")"}, group...), where...)
		if len(states) > 0 {
			match.add(s.inStates(states, group))
		}
		more, err := s.recordPage(ctx, match, limit-len(page))
		if err != nil {
			return nil, err
		}
		page = append(page, more...)
	}
	return page, s.addLast(ctx, page, nil)
}

// bookedHour is a booking with records.
type bookedHour struct {
	start   int64
	version uint64
}

// candidates lists the bookings that may hold records of the filter, by hour, from the given hour on.
func (s *Store) candidates(ctx context.Context, f reporter.RecordFilter, from time.Time) ([]bookedHour, error) {
	where := clauses{"records > 0"}
	// A record is booked in the hour in which its window begins or a later one.
	if earliest := meter.HourOf(f.From).Start; !f.From.IsZero() && earliest.After(from) {
		from = earliest
	}
	where = append(where, rangeWhere(from, time.Time{}, "window_start")...)
	if !f.To.IsZero() {
		// Releases and resends may be booked much later than their records' windows; they are few.
		where.add(fmt.Sprintf("(kind NOT IN (%d, %d) OR %s)", reporter.BookingClose, reporter.BookingRecount,
			rangeWhere(time.Time{}, f.To.Add(longestWindow), "window_start")))
	}
	only, err := s.hoursWithStates(ctx, f.States)
	if err != nil {
		return nil, err
	}
	var list []bookedHour
	err = s.each(ctx, "SELECT DISTINCT toUInt32(window_start), version FROM bookings WHERE "+where.String(), func(rows driver.Rows) error {
		var h bookedHour
		var start uint32
		if err := rows.Scan(&start, &h.version); err != nil {
			return err
		}
		h.start = int64(start)
		if only == nil || only[h.start] {
			list = append(list, h)
		}
		return nil
	})
	slices.SortFunc(list, func(x, y bookedHour) int {
		return cmp.Or(cmp.Compare(x.start, y.start), cmp.Compare(x.version, y.version))
	})
	return list, wrap("read bookings", err)
}

// hoursWithStates returns the hours in which records of these states can be; nil means any hour.
func (s *Store) hoursWithStates(ctx context.Context, states []reporter.State) (map[int64]bool, error) {
	marked := markedStates()
	due := false
	for _, state := range states {
		due = due || state.Due()
		if !state.Due() && !slices.Contains(marked, state) {
			return nil, nil
		}
	}
	if len(states) == 0 {
		return nil, nil
	}
	hours, err := s.markedHours(ctx, states)
	if err != nil || !due {
		return hours, err
	}
	unsettled, err := s.UnsettledBookings(ctx)
	for _, b := range unsettled {
		hours[b.Window.Start.Unix()] = true
	}
	return hours, err
}

// cursorWhere is what comes after a cursor, and the hour from which on it can be.
func cursorWhere(cursor string) (from time.Time, where clauses, err error) {
	if cursor == "" {
		return time.Time{}, nil, nil
	}
	start, sn, err := reporter.ParseCursor(cursor)
	if err != nil || start.Unix() > maxSeconds {
		return time.Time{}, nil, fmt.Errorf("%w: cursor %.60q is not one that a page of records came with", ErrBadQuery, cursor)
	}
	at := sqlTime(start)
	return start, clauses{"booked_start >= " + at, "(booked_start > " + at + " OR sn > " + quote(string(sn)) + ")"}, nil
}
