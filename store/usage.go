package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var hourlyUsage = newTable("hourly_usage",
	"window_start", "DateTime('UTC')", "window_end", "DateTime('UTC')", "version", "UInt64", "booked_start", "DateTime('UTC')",
	"subject", "String", "meter", "String", "quantity", "Decimal(38, 18)", "events", "UInt64")

func (s *Store) writeUsage(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	return s.insertRows(ctx, hourlyUsage, len(rows.Usage), func(i int, d []columnData) error {
		u := &rows.Usage[i]
		d[2].uint64(b.Version)
		d[4].string(u.Subject)
		d[5].string(u.Meter)
		d[7].uint64(u.Events)
		return errors.Join(d[0].dateTime(u.Window.Start), d[1].dateTime(u.Window.End), d[3].dateTime(b.Window.Start), d[6].decimal(u.Quantity))
	})
}

// BookedUsage returns the usage of an hour as last booked, ordered by subject, then meter; subjects nil means all.
func (s *Store) BookedUsage(ctx context.Context, hour meter.Window, subjects []string) ([]reporter.HourlyUsage, error) {
	within := clauses{"window_start = " + sqlTime(hour.Start)}
	if subjects != nil {
		if len(subjects) == 0 {
			return nil, nil
		}
		within.add("subject IN (" + quoteList(subjects) + ")")
	}
	return s.usage(ctx, within, hour.Start, 0)
}

// Usage returns hourly usage as last booked with window start in [from, to), by window, subject, meter; at most limit rows.
func (s *Store) Usage(ctx context.Context, from, to time.Time, limit int) ([]reporter.HourlyUsage, error) {
	if !from.Before(to) || limit <= 0 {
		return nil, nil
	}
	return s.usage(ctx, rangeWhere(from, to, "window_start"), from, limit)
}

// SubjectUsage returns the hourly usage of the given subjects as last booked with window start in [from, to), by
// window, subject, meter: what a marketplace's query of instances needs. Its cost grows with the hours of the range.
func (s *Store) SubjectUsage(ctx context.Context, subjects []string, from, to time.Time) ([]reporter.HourlyUsage, error) {
	if !from.Before(to) || len(subjects) == 0 {
		return nil, nil
	}
	return s.usage(ctx, append(rangeWhere(from, to, "window_start"), "subject IN ("+quoteList(subjects)+")"), from, 0)
}

// usage reads the latest booked row of each (hour, subject, meter); limit 0 means all. Usage is booked in its own hour or a
// later one, so bookings of hours before from can't have any of it.
func (s *Store) usage(ctx context.Context, where clauses, from time.Time, limit int) ([]reporter.HourlyUsage, error) {
	where = append(where, s.committed(rangeWhere(meter.HourOf(from).Start, time.Time{}, "window_start")...))
	query := "SELECT window_start, subject, meter, argMax(window_end, version), argMax(quantity, version), argMax(events, version), max(version)" +
		" FROM hourly_usage WHERE " + where.String() + " GROUP BY window_start, subject, meter ORDER BY window_start, subject, meter"
	if limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", limit)
	}
	var list []reporter.HourlyUsage
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var u reporter.HourlyUsage
		var quantity decimal.Decimal
		if err := rows.Scan(&u.Window.Start, &u.Subject, &u.Meter, &u.Window.End, &quantity, &u.Events, &u.Version); err != nil {
			return err
		}
		u.Window, u.Quantity = utcWindow(u.Window), meter.QuantityFromDecimal(quantity)
		list = append(list, u)
		return nil
	})
	return list, wrap("read hourly usage", err)
}
