package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var adjustments = newTable("adjustments",
	"destination", "UInt8", "booked_start", "DateTime('UTC')", "booked_end", "DateTime('UTC')", "version", "UInt64", "id", "String",
	"booking", "UInt64", "hour_start", "DateTime('UTC')", "hour_end", "DateTime('UTC')", "subject", "String", "meter", "String",
	"instance_id", "String", "quantity", "Decimal(38, 18)", "decides", "String", "record_sn", "String", "reason", "String",
	"actor", "String", "at", "Int64")

// defaultAdjustments is the limit of an AdjustmentFilter without one.
const defaultAdjustments = 1000

func (s *Store) writeAdjustments(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	return s.insertRows(ctx, adjustments, len(rows.Adjustments), func(i int, d []columnData) error {
		a := &rows.Adjustments[i]
		d[0].uint8(uint8(a.Into))
		d[3].uint64(b.Version)
		d[4].string(string(a.ID))
		d[5].uint64(b.Number)
		for j, text := range []string{a.Subject, a.Meter, a.InstanceID} {
			d[8+j].string(text)
		}
		for j, text := range []string{string(a.Of), string(a.Record), a.Reason, a.Actor} {
			d[12+j].string(text)
		}
		d[16].nanos(a.At)
		return errors.Join(d[1].dateTime(b.Window.Start), d[2].dateTime(b.Window.End), d[6].dateTime(a.Hour.Start),
			d[7].dateTime(a.Hour.End), d[11].decimal(a.Quantity))
	})
}

// Adjustments returns adjustments that match the filter, by booking, then ID.
func (s *Store) Adjustments(ctx context.Context, f reporter.AdjustmentFilter) ([]reporter.Adjustment, error) {
	limit := f.Limit
	switch {
	case limit == 0:
		limit = defaultAdjustments
	case limit < 0:
		return nil, fmt.Errorf("read adjustments: %w: limit must not be negative (got %d)", ErrBadQuery, limit)
	}
	where := clauses{s.committed()}
	if f.Into != 0 {
		where.add(fmt.Sprintf("destination = %d", f.Into))
	}
	if f.Subject != "" {
		where.add("subject = " + quote(f.Subject))
	}
	if f.Meter != "" {
		where.add("meter = " + quote(f.Meter))
	}
	// What concerns an hour is booked in that hour or a later one.
	where = append(where, rangeWhere(f.Hours.Start, f.Hours.End, "hour_start")...)
	if !f.Hours.Start.IsZero() {
		where = append(where, rangeWhere(meter.HourOf(f.Hours.Start).Start, f.Hours.Start, "booked_start")[:1]...)
	}
	if f.FromBooking > 0 {
		where.add("booking >= " + sqlUint(f.FromBooking))
	}
	if f.ToBooking > 0 {
		where.add("booking <= " + sqlUint(f.ToBooking))
	}
	if f.FromBooking > 0 || f.ToBooking > 0 {
		hours, err := s.bookedHours(ctx, f.FromBooking, f.ToBooking)
		if err != nil {
			return nil, fmt.Errorf("read adjustments: %w", err)
		}
		where = append(where, hours...)
	}
	list, err := s.adjustments(ctx, where, " ORDER BY booking, id, destination LIMIT "+strconv.Itoa(limit))
	return list, wrap("read adjustments", err)
}

// bookedHours is the condition of the hours in which bookings of a range of numbers were booked: the tables are ordered by
// these hours.
func (s *Store) bookedHours(ctx context.Context, from, to uint64) (clauses, error) {
	where := clauses{"number >= " + sqlUint(from)}
	if to > 0 {
		where.add("number <= " + sqlUint(to))
	}
	var n uint64
	var first, last uint32
	query := "SELECT count(), toUInt32(min(window_start)), toUInt32(max(window_start)) FROM bookings WHERE " + where.String()
	if err := s.conn.QueryRow(ctx, query).Scan(&n, &first, &last); err != nil {
		return nil, fmt.Errorf("read bookings: %w", err)
	}
	if n == 0 {
		return clauses{"0"}, nil
	}
	return clauses{fmt.Sprintf("booked_start >= toDateTime(%d, 'UTC')", first), fmt.Sprintf("booked_start <= toDateTime(%d, 'UTC')", last)}, nil
}

// adjustments reads rows that match.
func (s *Store) adjustments(ctx context.Context, where clauses, order string) ([]reporter.Adjustment, error) {
	var list []reporter.Adjustment
	err := s.each(ctx, "SELECT "+adjustments.names()+" FROM adjustments FINAL"+whereText(where)+order, func(rows driver.Rows) error {
		var a reporter.Adjustment
		var into uint8
		var id, of, record string
		var quantity decimal.Decimal
		var at int64
		err := rows.Scan(&into, &a.Booked.Start, &a.Booked.End, &a.Version, &id, &a.Booking, &a.Hour.Start, &a.Hour.End, &a.Subject,
			&a.Meter, &a.InstanceID, &quantity, &of, &record, &a.Reason, &a.Actor, &at)
		if err != nil {
			return err
		}
		a.Into, a.ID, a.Of, a.Record = reporter.Destination(into), reporter.AdjustmentID(id), reporter.AdjustmentID(of), reporter.MeteringSN(record)
		a.Booked, a.Hour, a.At = utcWindow(a.Booked), utcWindow(a.Hour), fromNanos(at)
		a.Quantity = meter.QuantityFromDecimal(quantity)
		list = append(list, a)
		return nil
	})
	return list, err
}

// HeldUsage returns held usage that is not decided about, oldest booking first; at most limit, after the given ID. With
// ids, only those. It reads what was ever held and decided, and nothing else: destination is the first column of the key.
func (s *Store) HeldUsage(ctx context.Context, ids []reporter.AdjustmentID, after reporter.AdjustmentID, limit int) ([]reporter.HeldUsage, error) {
	if limit <= 0 || ids != nil && len(ids) == 0 {
		return nil, nil
	}
	list, err := s.heldUsage(ctx, ids, after, limit)
	return list, wrap("read held usage", err)
}

func (s *Store) heldUsage(ctx context.Context, ids []reporter.AdjustmentID, after reporter.AdjustmentID, limit int) ([]reporter.HeldUsage, error) {
	where := clauses{fmt.Sprintf("destination = %d", reporter.IntoHeld), s.committed()}
	if ids != nil {
		list := quoteList(ids)
		where.add("(id IN (" + list + ") OR decides IN (" + list + "))")
	}
	// The booking of the adjustment itself is the place of the whole group.
	having := "open != " + zeroDecimal + " AND place > 0"
	if after != "" {
		var place uint64
		query := "SELECT max(booking) FROM adjustments WHERE " + clauses{where[0], where[1], "id = " + quote(string(after))}.String()
		if err := s.conn.QueryRow(ctx, query).Scan(&place); err != nil {
			return nil, fmt.Errorf("find place: %w", err)
		}
		having += fmt.Sprintf(" AND (place > %d OR place = %[1]d AND root > %s)", place, quote(string(after)))
	}
	query := "SELECT if(decides = '', id, decides) AS root, sum(quantity) AS open, max(if(decides = '', booking, toUInt64(0))) AS place," +
		" max(if(decides = '', toUInt32(booked_start), toUInt32(0))) AS hour" +
		" FROM adjustments FINAL WHERE " + where.String() + " GROUP BY root HAVING " + having + " ORDER BY place, root LIMIT " + strconv.Itoa(limit)
	open := map[reporter.AdjustmentID]meter.Quantity{}
	var roots, hours []string
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var root string
		var quantity decimal.Decimal
		var place uint64
		var hour uint32
		if err := rows.Scan(&root, &quantity, &place, &hour); err != nil {
			return err
		}
		open[reporter.AdjustmentID(root)] = meter.QuantityFromDecimal(quantity)
		roots = append(roots, root)
		hours = append(hours, fmt.Sprintf("toDateTime(%d, 'UTC')", hour))
		return nil
	})
	if err != nil || len(roots) == 0 {
		return nil, err
	}
	where = clauses{where[0], "booked_start IN (" + joinUnique(hours) + ")", s.committed(), "id IN (" + quoteList(roots) + ")"}
	list, err := s.adjustments(ctx, where, " ORDER BY booking, id")
	held := make([]reporter.HeldUsage, len(list))
	for i, a := range list {
		held[i] = reporter.HeldUsage{Adjustment: a, Open: open[a.ID]}
	}
	return held, err
}
