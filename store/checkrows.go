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

// CheckRows returns contradictions within the rows themselves, each as a sentence, at most limit: gaps in the log, windows
// closed twice, rows missing of a committed booking, two records of one (instance, window), records whose amounts don't add
// up, transitions that the table of states forbids, due records that delivery doesn't look for. It reads all of the books.
func (s *Store) CheckRows(ctx context.Context, limit int) ([]string, error) {
	c := &rowCheck{store: s, limit: limit}
	for _, check := range []func(context.Context) error{c.log, c.closes, c.counts, c.twins, c.amounts, c.states, c.forgotten} {
		if c.full() {
			break
		}
		if err := check(ctx); err != nil {
			return nil, fmt.Errorf("check rows: %w", err)
		}
	}
	return c.found, nil
}

// rowCheck collects contradictions.
type rowCheck struct {
	store *Store
	limit int
	found []string
}

func (c *rowCheck) full() bool { return len(c.found) >= c.limit }

func (c *rowCheck) add(format string, args ...any) {
	if !c.full() {
		c.found = append(c.found, fmt.Sprintf(format, args...))
	}
}

// log looks for numbers that are missing or taken twice.
func (c *rowCheck) log(ctx context.Context) error {
	expected := uint64(1)
	query := "SELECT number, uniqExact(version) FROM bookings GROUP BY number ORDER BY number"
	return c.store.each(ctx, query, func(rows driver.Rows) error {
		var number, versions uint64
		if err := rows.Scan(&number, &versions); err != nil {
			return err
		}
		if number != expected {
			c.add("the log lacks bookings %d to %d", expected, number-1)
		}
		if versions > 1 {
			c.add("booking %d has %d versions", number, versions)
		}
		expected = number + 1
		return nil
	})
}

// closes looks for hours closed more than once.
func (c *rowCheck) closes(ctx context.Context) error {
	query := fmt.Sprintf("SELECT window_start, uniqExact(number) AS n, min(number), max(number) FROM bookings WHERE kind = %d GROUP BY window_start HAVING n > 1 ORDER BY window_start LIMIT %d",
		reporter.BookingClose, c.limit)
	return c.store.each(ctx, query, func(rows driver.Rows) error {
		var start time.Time
		var n, first, last uint64
		if err := rows.Scan(&start, &n, &first, &last); err != nil {
			return err
		}
		c.add("the hour %s was closed %d times, by bookings %d to %d", start.UTC().Format(time.RFC3339), n, first, last)
		return nil
	})
}

// counts compares the rows of each booking with the numbers it committed.
func (c *rowCheck) counts(ctx context.Context) error {
	list, err := c.store.Bookings(ctx, time.Time{}, time.Time{})
	if err != nil {
		return err
	}
	tables := []struct {
		name string
		want func(reporter.Booking) uint64
	}{
		{"hourly_usage", func(b reporter.Booking) uint64 { return b.Usages }},
		{"bill_records", func(b reporter.Booking) uint64 { return b.Records }},
		{"adjustments", func(b reporter.Booking) uint64 { return b.Adjustments }},
		{"account_balances", func(b reporter.Booking) uint64 { return b.Balances }},
		{"covers", func(b reporter.Booking) uint64 { return b.Covers }},
	}
	for _, table := range tables {
		rowsOf := map[uint64]uint64{}
		err := c.store.each(ctx, "SELECT version, count() FROM "+table.name+" FINAL WHERE "+c.store.committed()+" GROUP BY version", func(rows driver.Rows) error {
			var version, n uint64
			if err := rows.Scan(&version, &n); err != nil {
				return err
			}
			rowsOf[version] = n
			return nil
		})
		if err != nil {
			return fmt.Errorf("count rows of %s: %w", table.name, err)
		}
		for _, b := range list {
			if n := rowsOf[b.Version]; n != table.want(b) {
				c.add("booking %d has %d rows in %s instead of %d", b.Number, n, table.name, table.want(b))
			}
		}
	}
	return nil
}

// twins looks for two records of one instance and window neither of which another one replaces.
func (c *rowCheck) twins(ctx context.Context) error {
	s := c.store
	where := clauses{s.committed(), "sn " + s.global + "NOT IN (" + s.replaced() + ")"}
	spans, err := s.spans(ctx, "bill_records", "window_start", where)
	if err != nil {
		return err
	}
	for _, span := range spans {
		// Without an instance a record's number depends on subject and meter instead.
		query := "SELECT instance_id, window_start, window_end, count() AS n, min(sn), max(sn) FROM bill_records FINAL WHERE " + append(span, where...).String() +
			" GROUP BY seller, instance_id, if(instance_id = '', subject, ''), if(instance_id = '', meter, ''), window_start, window_end" +
			fmt.Sprintf(" HAVING n > 1 ORDER BY window_start, instance_id LIMIT %d", c.limit)
		err := s.each(ctx, query, func(rows driver.Rows) error {
			var instance, first, last string
			var w meter.Window
			var n uint64
			if err := rows.Scan(&instance, &w.Start, &w.End, &n, &first, &last); err != nil {
				return err
			}
			c.add("instance %q has %d records of %s: %s and %s", instance, n, w, first, last)
			return nil
		})
		if err != nil {
			return fmt.Errorf("look for records of one window: %w", err)
		}
	}
	return nil
}

// amounts looks for records with Usage + CarriedIn != Billed × Scale + CarriedOut. The engine sorts out those that agree when
// multiplied with few decimals, as nearly all do; the others are multiplied exactly here.
func (c *rowCheck) amounts(ctx context.Context) error {
	query := "SELECT sn, usage, carried_in, carried_out, scale, billed FROM bill_records FINAL WHERE " + c.store.committed() +
		" AND NOT (billed = toDecimal128(billed, 4) AND scale = toDecimal128(scale, 14)" +
		" AND usage + carried_in = carried_out + toDecimal128(billed, 4) * toDecimal128(scale, 14)) ORDER BY booked_start, sn"
	err := c.store.each(ctx, query, func(rows driver.Rows) error {
		var sn string
		var usage, in, out, scale, billed decimal.Decimal
		if err := rows.Scan(&sn, &usage, &in, &out, &scale, &billed); err != nil {
			return err
		}
		if !usage.Add(in).Equal(billed.Mul(scale).Add(out)) {
			c.add("record %s does not add up: usage %s + carried in %s is not billed %s × scale %s + carried out %s", sn, usage, in, billed, scale, out)
		}
		return nil
	})
	return wrap("look for amounts that don't add up", err)
}

// states looks for transitions that are not in the table of states, and for gaps in a record's life.
func (c *rowCheck) states(ctx context.Context) error {
	s := c.store
	spans, err := s.spans(ctx, "bill_records", "booked_start", clauses{s.committed()})
	if err != nil {
		return err
	}
	for _, span := range spans {
		source := "SELECT booked_start, sn, toUInt32(1) AS seq, first_state AS state FROM bill_records FINAL WHERE " + append(slices.Clone(span), s.committed()).String() +
			" UNION ALL SELECT booked_start, sn, seq, state FROM bill_record_transitions FINAL WHERE " + span.String()
		lives := "SELECT sn, arraySort(groupArray((seq, state))) AS life, max(seq) AS latest FROM (" + source + ") GROUP BY booked_start, sn HAVING min(seq) = 1"
		if err := c.steps(ctx, lives); err != nil {
			return fmt.Errorf("check transitions: %w", err)
		}
		query := fmt.Sprintf("SELECT sn, toUInt64(length(life)), latest FROM (%s) WHERE length(life) != latest ORDER BY sn LIMIT %d", lives, c.limit)
		err := s.each(ctx, query, func(rows driver.Rows) error {
			var sn string
			var n uint64
			var latest uint32
			if err := rows.Scan(&sn, &n, &latest); err != nil {
				return err
			}
			c.add("record %s has %d transitions, and the last one has number %d", sn, n, latest)
			return nil
		})
		if err != nil {
			return fmt.Errorf("check transitions: %w", err)
		}
	}
	return nil
}

// raced reports whether two processes that delivered the same record at the same moment leave the step: one of them took up
// what the other was about to settle, and sent it again, with the same number and the same bytes. The marketplace counts the
// first (ADR 9). With the lease it happens around a takeover at most.
func raced(from, to reporter.State) bool {
	switch from {
	case reporter.StateAccepted, reporter.StateRejected, reporter.StateExpired, reporter.StateShadowed:
		return to == reporter.StateSending
	default:
		return false
	}
}

// steps checks every kind of step once: they are few, whatever the number of records.
func (c *rowCheck) steps(ctx context.Context, lives string) error {
	states := "arrayMap(x -> tupleElement(x, 2), life)"
	query := "SELECT one, other, count(), min(sn) FROM (SELECT sn, arrayPushFront(arrayPopBack(" + states + "), toUInt8(0)) AS before, " + states + " AS after FROM (" + lives +
		")) ARRAY JOIN before AS one, after AS other GROUP BY one, other ORDER BY one, other"
	return c.store.each(ctx, query, func(rows driver.Rows) error {
		var from, to uint8
		var n uint64
		var sn string
		if err := rows.Scan(&from, &to, &n, &sn); err != nil {
			return err
		}
		if from, to := reporter.State(from), reporter.State(to); !from.CanBecome(to) && !raced(from, to) {
			c.add("%d records went from state %q to %q, which may not be, for example %s", n, from, to, sn)
		}
		return nil
	})
}

// forgotten looks for due records of bookings that are settled: nobody would send them.
func (c *rowCheck) forgotten(ctx context.Context) error {
	s := c.store
	settled := clauses{"version " + s.global + "IN (SELECT version FROM bookings WHERE number " + s.global +
		"IN (SELECT number FROM booking_settlements GROUP BY number HAVING argMax(settled_at, place) != 0))"}
	spans, err := s.spans(ctx, "bill_records", "booked_start", settled)
	if err != nil {
		return err
	}
	for _, span := range spans {
		where := append(append(slices.Clone(span), settled...), s.inStates(dueStates(), span))
		query := "SELECT booked_start, count(), min(sn) FROM bill_records FINAL WHERE " + where.String() + " GROUP BY booked_start ORDER BY booked_start"
		err := s.each(ctx, query, func(rows driver.Rows) error {
			var start time.Time
			var n uint64
			var sn string
			if err := rows.Scan(&start, &n, &sn); err != nil {
				return err
			}
			c.add("%d due records booked under %s are of settled bookings, so nobody sends them, for example %s", n, start.UTC().Format(time.RFC3339), sn)
			return nil
		})
		if err != nil {
			return fmt.Errorf("look for due records of settled bookings: %w", err)
		}
	}
	return nil
}
