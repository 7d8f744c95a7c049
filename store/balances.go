package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var accountBalances = newTable("account_balances",
	"booked_start", "DateTime('UTC')", "version", "UInt64", "subject", "String", "meter", "String", "quantity", "Decimal(38, 18)")

var checkpointBalances = newTable("checkpoint_balances",
	"number", "UInt64", "subject", "String", "meter", "String", "quantity", "Decimal(38, 18)")

var balanceCheckpoints = newTable("balance_checkpoints",
	"number", "UInt64", "version", "UInt64", "rows", "UInt64", "written_at", "DateTime('UTC')")

// Between two checkpoints of balances there are at least minCheckpoint bookings, and about four times as many rows as the
// checkpoint has, but never more than maxCheckpoint bookings. So reading all balances costs about five times as much as the
// balances themselves, and writing checkpoints about a quarter of writing the balances.
const (
	minCheckpoint   = 24
	maxCheckpoint   = 512
	checkpointRatio = 4
	keptCheckpoints = 3
)

func (s *Store) writeBalances(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	return s.insertRows(ctx, accountBalances, len(rows.Balances), func(i int, d []columnData) error {
		d[1].uint64(b.Version)
		d[2].string(rows.Balances[i].Subject)
		d[3].string(rows.Balances[i].Meter)
		return errors.Join(d[0].dateTime(b.Window.Start), d[4].decimal(rows.Balances[i].Quantity))
	})
}

// Balances returns the balances that are not zero after the last booking, ordered by subject, then meter; subjects nil
// means all. It reads the latest checkpoint and the bookings since, whatever the history; a call for all subjects writes
// the next checkpoint when it is time.
func (s *Store) Balances(ctx context.Context, subjects []string) ([]reporter.Balance, error) {
	if subjects != nil && len(subjects) == 0 {
		return nil, nil
	}
	list, err := s.balances(ctx, subjects)
	return list, wrap("read balances", err)
}

func (s *Store) balances(ctx context.Context, subjects []string) ([]reporter.Balance, error) {
	start, err := s.latestCheckpoint(ctx)
	if err != nil {
		return nil, err
	}
	since, err := s.balancesSince(ctx, start.number)
	if err != nil {
		return nil, err
	}
	list, err := s.readBalances(ctx, start, since, subjects)
	if err != nil || subjects != nil || !since.due(start) {
		return list, err
	}
	if err := s.writeCheckpoint(ctx, since, list); err != nil {
		// Only the next call's speed depends on it.
		s.logger.Warn("checkpoint of balances not written", "booking", since.last, "err", err)
	}
	return list, nil
}

// checkpoint is a place in the log at which all balances are written down; the zero value is the beginning.
type checkpoint struct{ number, version, rows uint64 }

// latestCheckpoint returns the latest checkpoint whose booking is the one that it was made after.
func (s *Store) latestCheckpoint(ctx context.Context) (checkpoint, error) {
	var c checkpoint
	query := "SELECT number, version, rows FROM balance_checkpoints FINAL WHERE (number, version) " + s.global +
		"IN (SELECT number, version FROM bookings) ORDER BY number DESC LIMIT 1"
	err := s.each(ctx, query, func(rows driver.Rows) error { return rows.Scan(&c.number, &c.version, &c.rows) })
	return c, wrap("read checkpoints", err)
}

// balanceChanges are the bookings after a checkpoint.
type balanceChanges struct {
	bookings, rows uint64
	versions       []uint64 // of those that changed balances
	last, version  uint64   // the last booking; 0 if there is none
}

// due reports whether it is time for the next checkpoint.
func (c balanceChanges) due(start checkpoint) bool {
	return c.bookings >= maxCheckpoint || c.bookings >= minCheckpoint && c.rows >= checkpointRatio*start.rows
}

func (s *Store) balancesSince(ctx context.Context, number uint64) (balanceChanges, error) {
	var c balanceChanges
	query := "SELECT number, version, balances FROM bookings FINAL WHERE number > " + sqlUint(number) + " ORDER BY number"
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var balances uint64
		if err := rows.Scan(&c.last, &c.version, &balances); err != nil {
			return err
		}
		c.bookings++
		c.rows += balances
		if balances > 0 {
			c.versions = append(c.versions, c.version)
		}
		return nil
	})
	return c, wrap("read bookings", err)
}

func (s *Store) readBalances(ctx context.Context, start checkpoint, since balanceChanges, subjects []string) ([]reporter.Balance, error) {
	var of string
	if subjects != nil {
		of = " AND subject IN (" + quoteList(subjects) + ")"
	}
	var sources []string
	if start.rows > 0 {
		sources = append(sources, "SELECT subject, meter, quantity, toUInt64(0) AS v FROM checkpoint_balances WHERE number = "+sqlUint(start.number)+of)
	}
	if len(since.versions) > 0 {
		sources = append(sources, "SELECT subject, meter, quantity, version AS v FROM account_balances WHERE version IN ("+sqlUints(since.versions)+")"+of)
	}
	if len(sources) == 0 {
		return nil, nil
	}
	query := "SELECT subject, meter, argMax(quantity, v) AS q FROM (" + strings.Join(sources, " UNION ALL ") +
		") GROUP BY subject, meter HAVING q != " + zeroDecimal + " ORDER BY subject, meter"
	var list []reporter.Balance
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var b reporter.Balance
		var quantity decimal.Decimal
		if err := rows.Scan(&b.Subject, &b.Meter, &quantity); err != nil {
			return err
		}
		b.Quantity = meter.QuantityFromDecimal(quantity)
		list = append(list, b)
		return nil
	})
	return list, err
}

// writeCheckpoint stores balances; they count once the checkpoint's own row is there. Two processes that do it at once write
// the same rows.
func (s *Store) writeCheckpoint(ctx context.Context, at balanceChanges, list []reporter.Balance) error {
	const chunk = 50_000
	for from := 0; from < len(list); from += chunk {
		part := list[from:min(from+chunk, len(list))]
		err := s.insertRows(ctx, checkpointBalances, len(part), func(i int, d []columnData) error {
			d[0].uint64(at.last)
			d[1].string(part[i].Subject)
			d[2].string(part[i].Meter)
			return d[3].decimal(part[i].Quantity)
		})
		if err != nil {
			return err
		}
	}
	var n uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM checkpoint_balances FINAL WHERE number = "+sqlUint(at.last)).Scan(&n); err != nil {
		return fmt.Errorf("count rows written: %w", err)
	}
	if n != uint64(len(list)) {
		return fmt.Errorf("%w: checkpoint has %d rows instead of %d", ErrRowsMissing, n, len(list))
	}
	err := s.insertRows(ctx, balanceCheckpoints, 1, func(_ int, d []columnData) error {
		d[0].uint64(at.last)
		d[1].uint64(at.version)
		d[2].uint64(n)
		return d[3].dateTime(s.cfg.Now())
	})
	if err != nil {
		return err
	}
	return s.dropCheckpoints(ctx)
}

// dropCheckpoints drops the rows of all but the newest checkpoints. A reader that still used one is so far behind that its
// booking's number is taken.
func (s *Store) dropCheckpoints(ctx context.Context) error {
	query := fmt.Sprintf("SELECT DISTINCT number FROM balance_checkpoints ORDER BY number DESC LIMIT %d", keptCheckpoints)
	newest, err := scalars[uint64](ctx, s.conn, query)
	if err != nil || len(newest) < keptCheckpoints {
		return wrap("read checkpoints", err)
	}
	oldest := newest[len(newest)-1]
	numbers, err := scalars[uint64](ctx, s.conn, "SELECT DISTINCT number FROM checkpoint_balances WHERE number < "+sqlUint(oldest))
	if err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	name := checkpointBalances.name
	if s.cfg.Cluster != "" {
		name += "_local"
	}
	for _, number := range numbers {
		if err := s.conn.Exec(ctx, fmt.Sprintf("ALTER TABLE %s%s DROP PARTITION %d", name, s.onCluster(), number)); err != nil {
			return fmt.Errorf("drop checkpoint %d: %w", number, err)
		}
	}
	return nil
}
