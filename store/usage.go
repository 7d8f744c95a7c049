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
	"window_start", "DateTime('UTC')", "window_end", "DateTime('UTC')", "version", "UInt64", "subject", "String",
	"meter", "String", "quantity", "Decimal(38, 18)", "events", "UInt64")

// WriteUsage writes hourly usage of one close. Writing the same (window, subject, meter, version) again changes nothing.
func (s *Store) WriteUsage(ctx context.Context, usage []reporter.HourlyUsage) error {
	err := s.insertRows(ctx, hourlyUsage, len(usage), func(i int, d []columnData) error {
		u := &usage[i]
		d[2].uint64(u.Version)
		d[3].string(u.Subject)
		d[4].string(u.Meter)
		d[6].uint64(u.Events)
		return errors.Join(d[0].dateTime(u.Window.Start), d[1].dateTime(u.Window.End), d[5].decimal(u.Quantity))
	})
	if err != nil {
		return fmt.Errorf("write hourly usage: %w", classify(err))
	}
	return nil
}

// Usage returns the hourly usage of closed windows with window start in [from, to), at most limit rows, ordered by
// window, subject, meter.
func (s *Store) Usage(ctx context.Context, from, to time.Time, limit int) ([]reporter.HourlyUsage, error) {
	if !from.Before(to) || limit <= 0 {
		return nil, nil
	}
	within := rangeWhere(from, to)
	return s.usage(ctx, within, nil, limit)
}

// SubjectUsage returns the hourly usage of the given subjects in closed windows with window start in [from, to), by
// window, subject, meter: what a marketplace's query of instances needs. Its cost grows with the hours of the range.
func (s *Store) SubjectUsage(ctx context.Context, subjects []string, from, to time.Time) ([]reporter.HourlyUsage, error) {
	if !from.Before(to) || len(subjects) == 0 {
		return nil, nil
	}
	return s.usage(ctx, rangeWhere(from, to), clauses{"subject IN (" + quoteList(subjects) + ")"}, 0)
}

// usage reads rows of closed windows; limit 0 means all.
func (s *Store) usage(ctx context.Context, within, more clauses, limit int) ([]reporter.HourlyUsage, error) {
	where := append(append(append(clauses{}, within...), more...), s.counted(within))
	query := "SELECT window_start, window_end, version, subject, meter, quantity, events FROM hourly_usage FINAL WHERE " +
		where.String() + " ORDER BY window_start, subject, meter"
	if limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", limit)
	}
	var list []reporter.HourlyUsage
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var u reporter.HourlyUsage
		var quantity decimal.Decimal
		if err := rows.Scan(&u.Window.Start, &u.Window.End, &u.Version, &u.Subject, &u.Meter, &quantity, &u.Events); err != nil {
			return err
		}
		u.Window = meter.Window{Start: u.Window.Start.UTC(), End: u.Window.End.UTC()}
		u.Quantity = meter.QuantityFromDecimal(quantity)
		list = append(list, u)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read hourly usage: %w", err)
	}
	return list, nil
}
