package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var remainders = newTable("remainders",
	"checkpoint", "DateTime('UTC')", "digest", "UInt64", "subject", "String", "meter", "String", "quantity", "Decimal(38, 18)")

var remainderCheckpoints = newTable("remainder_checkpoints",
	"checkpoint", "DateTime('UTC')", "closes", "UInt64", "digest", "UInt64", "rows", "UInt64", "written_at", "DateTime('UTC')")

// checkpointCloses is how many closed windows lie between two checkpoints of remainders.
const checkpointCloses = 24

// closesBefore identifies the set of closes that count before a window.
type closesBefore struct{ closes, digest uint64 }

// Remainders returns the remainders open before w: for each (subject, meter), what the latest bill record of a closed
// window that ends at or before w.Start carried out, if not zero. It starts from the latest checkpoint whose closes are
// still the ones that count, so it reads the bill records of about a day; every [checkpointCloses] windows it writes the
// next checkpoint.
func (s *Store) Remainders(ctx context.Context, w meter.Window) ([]reporter.CarriedRemainder, error) {
	list, err := s.remainders(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("read remainders before %s: %w", w, err)
	}
	return list, nil
}

func (s *Store) remainders(ctx context.Context, w meter.Window) ([]reporter.CarriedRemainder, error) {
	before := clauses{"window_end <= " + sqlTime(w.Start)}
	now, err := s.closesBefore(ctx, before)
	if err != nil || now.closes == 0 {
		return nil, err
	}
	from, at, err := s.latestCheckpoint(ctx, w.Start)
	if err != nil {
		return nil, err
	}
	within := before
	if !from.IsZero() {
		within = append(clauses{"window_start >= " + sqlTime(from)}, before...)
	}
	// Later records win by window, then by revision: both fit one number.
	sources := []string{"SELECT subject, meter, carried_out AS quantity, toUInt64(toUInt32(window_start)) * 4294967296 + revision + 1 AS place" +
		" FROM bill_records WHERE " + within.String() + " AND " + s.counted(within)}
	if !from.IsZero() {
		sources = append(sources, fmt.Sprintf("SELECT subject, meter, quantity, toUInt64(0) AS place FROM remainders WHERE checkpoint = %s AND digest = %s", sqlTime(from), sqlUint(at.digest)))
	}
	query := "SELECT subject, meter, argMax(quantity, place) AS q FROM (" + strings.Join(sources, " UNION ALL ") +
		") GROUP BY subject, meter HAVING q != " + zeroDecimal + " ORDER BY subject, meter"
	var list []reporter.CarriedRemainder
	err = s.each(ctx, query, func(rows driver.Rows) error {
		var r reporter.CarriedRemainder
		var quantity decimal.Decimal
		if err := rows.Scan(&r.Subject, &r.Meter, &quantity); err != nil {
			return err
		}
		r.Quantity = meter.QuantityFromDecimal(quantity)
		list = append(list, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if now.closes >= at.closes+checkpointCloses {
		if err := s.writeCheckpoint(ctx, w.Start, now, list); err != nil {
			// Only the next call's speed depends on it.
			s.logger.Warn("checkpoint of remainders not written", "window_start", w.Start, "err", err)
		}
	}
	return list, nil
}

// closesBefore counts the closes that match and sums the hashes of their windows and versions.
func (s *Store) closesBefore(ctx context.Context, where clauses) (closesBefore, error) {
	var c closesBefore
	query := "SELECT count(), sum(cityHash64(toUInt32(window_start), v)) FROM (SELECT window_start, max(version) AS v FROM window_closes WHERE " +
		where.String() + " GROUP BY window_start)"
	if err := s.conn.QueryRow(ctx, query).Scan(&c.closes, &c.digest); err != nil {
		return c, fmt.Errorf("read closes: %w", err)
	}
	return c, nil
}

// latestCheckpoint returns the latest checkpoint at or before t that still holds; a zero time if there is none.
func (s *Store) latestCheckpoint(ctx context.Context, t time.Time) (time.Time, closesBefore, error) {
	type checkpoint struct {
		at   time.Time
		seen closesBefore
	}
	var candidates []checkpoint
	query := "SELECT checkpoint, closes, digest FROM remainder_checkpoints WHERE checkpoint <= " + sqlTime(t) + " ORDER BY checkpoint DESC, written_at DESC LIMIT 5"
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var c checkpoint
		if err := rows.Scan(&c.at, &c.seen.closes, &c.seen.digest); err != nil {
			return err
		}
		candidates = append(candidates, c)
		return nil
	})
	if err != nil {
		return time.Time{}, closesBefore{}, fmt.Errorf("read checkpoints: %w", err)
	}
	for _, c := range candidates {
		now, err := s.closesBefore(ctx, clauses{"window_end <= " + sqlTime(c.at)})
		if err != nil {
			return time.Time{}, closesBefore{}, err
		}
		if now == c.seen {
			return c.at.UTC(), c.seen, nil
		}
	}
	return time.Time{}, closesBefore{}, nil
}

// writeCheckpoint stores remainders; they count once the checkpoint's own row is there.
func (s *Store) writeCheckpoint(ctx context.Context, at time.Time, seen closesBefore, list []reporter.CarriedRemainder) error {
	err := s.insertRows(ctx, remainders, len(list), func(i int, d []columnData) error {
		d[1].uint64(seen.digest)
		d[2].string(list[i].Subject)
		d[3].string(list[i].Meter)
		return errors.Join(d[0].dateTime(at), d[4].decimal(list[i].Quantity))
	})
	if err != nil {
		return err
	}
	var n uint64
	query := "SELECT count() FROM remainders FINAL WHERE checkpoint = " + sqlTime(at) + " AND digest = " + sqlUint(seen.digest)
	if err := s.conn.QueryRow(ctx, query).Scan(&n); err != nil {
		return fmt.Errorf("count rows written: %w", err)
	}
	if n != uint64(len(list)) {
		return fmt.Errorf("%w: checkpoint has %d rows instead of %d", ErrRowsMissing, n, len(list))
	}
	return s.insertRows(ctx, remainderCheckpoints, 1, func(_ int, d []columnData) error {
		d[1].uint64(seen.closes)
		d[2].uint64(seen.digest)
		d[3].uint64(uint64(len(list)))
		return errors.Join(d[0].dateTime(at), d[4].dateTime(s.cfg.Now()))
	})
}
