package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// window_closes and window_settlements have one row per closed hour, 8,766 a year: reading them whole takes
// milliseconds after decades, and nothing else is ever read without naming windows.

var windowCloses = newTable("window_closes",
	"window_start", "DateTime('UTC')", "window_end", "DateTime('UTC')", "version", "UInt64", "closed_at", "Int64",
	"events", "UInt64", "usages", "UInt64", "records", "UInt64")

var windowSettlements = newTable("window_settlements",
	"window_start", "DateTime('UTC')", "version", "UInt64", "settled_at", "Int64", "place", "UInt64")

// WriteClose makes the window closed. Usage and records of this version were written before, each insert durable when
// it returned; here their numbers are compared with c.Usages and c.Records, and a difference is an error that wraps
// [ErrRowsMissing]: then the window stays open.
func (s *Store) WriteClose(ctx context.Context, c reporter.WindowClose) error {
	if err := s.writeClose(ctx, c); err != nil {
		return fmt.Errorf("write close of %s: %w", c.Window, err)
	}
	return nil
}

func (s *Store) writeClose(ctx context.Context, c reporter.WindowClose) error {
	where := " FINAL WHERE window_start = " + sqlTime(c.Window.Start) + " AND version = " + sqlUint(c.Version)
	for _, part := range []struct {
		table string
		want  uint64
	}{{"hourly_usage", c.Usages}, {"bill_records", c.Records}} {
		var n uint64
		if err := s.conn.QueryRow(ctx, "SELECT count() FROM "+part.table+where).Scan(&n); err != nil {
			return fmt.Errorf("count %s: %w", part.table, err)
		}
		if n != part.want {
			return fmt.Errorf("%w: %s has %d rows of version %d instead of %d", ErrRowsMissing, part.table, n, c.Version, part.want)
		}
	}
	return s.insertRows(ctx, windowCloses, 1, func(_ int, d []columnData) error {
		d[2].uint64(c.Version)
		d[3].nanos(c.ClosedAt)
		d[4].uint64(c.Events)
		d[5].uint64(c.Usages)
		d[6].uint64(c.Records)
		return errors.Join(d[0].dateTime(c.Window.Start), d[1].dateTime(c.Window.End))
	})
}

// SettleWindow records that nothing of the window is due any more. If something became due in the same moment, the window
// stays unsettled.
func (s *Store) SettleWindow(ctx context.Context, c reporter.WindowClose) error {
	err := s.settle(ctx, c, s.cfg.Now())
	if err == nil {
		var n uint64
		if n, err = s.countDue(ctx, c); err == nil && n > 0 {
			err = s.settle(ctx, c, time.Time{})
		}
	}
	if err != nil {
		return fmt.Errorf("settle window %s: %w", c.Window, err)
	}
	return nil
}

// reopenWindow makes a settled window unsettled.
func (s *Store) reopenWindow(ctx context.Context, w meter.Window) error {
	list, err := s.closes(ctx, "window_start = "+sqlTime(w.Start), "", "")
	if err != nil || len(list) == 0 || list[0].SettledAt.IsZero() {
		return err
	}
	return s.settle(ctx, list[0], time.Time{})
}

// settle appends the time of settlement, or the zero time for none; the latest row counts.
func (s *Store) settle(ctx context.Context, c reporter.WindowClose, at time.Time) error {
	return s.insertRows(ctx, windowSettlements, 1, func(_ int, d []columnData) error {
		d[1].uint64(c.Version)
		d[2].nanos(at)
		d[3].uint64(uint64(s.cfg.Now().UnixNano())) // not before 1970
		return d[0].dateTime(c.Window.Start)
	})
}

// closes reads the closes that count, by window start.
func (s *Store) closes(ctx context.Context, where, having, order string) ([]reporter.WindowClose, error) {
	type key struct {
		start   int64
		version uint64
	}
	var list []reporter.WindowClose
	query := "SELECT window_start, max(version) AS v, argMax(window_end, version), argMax(closed_at, version)," +
		" argMax(events, version), argMax(usages, version), argMax(records, version) FROM window_closes WHERE " + where +
		" GROUP BY window_start" + having + " ORDER BY window_start" + order
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var c reporter.WindowClose
		var at int64
		if err := rows.Scan(&c.Window.Start, &c.Version, &c.Window.End, &at, &c.Events, &c.Usages, &c.Records); err != nil {
			return err
		}
		c.Window = meter.Window{Start: c.Window.Start.UTC(), End: c.Window.End.UTC()}
		c.ClosedAt = fromNanos(at)
		list = append(list, c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read closes: %w", err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	settled := map[key]time.Time{}
	query = "SELECT window_start, version, argMax(settled_at, place) FROM window_settlements WHERE window_start >= " + sqlTime(earliest(list)) +
		" AND window_start <= " + sqlTime(latest(list)) + " GROUP BY window_start, version"
	err = s.each(ctx, query, func(rows driver.Rows) error {
		var start time.Time
		var k key
		var at int64
		if err := rows.Scan(&start, &k.version, &at); err != nil {
			return err
		}
		k.start = start.Unix()
		settled[k] = fromNanos(at)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read settlements: %w", err)
	}
	for i := range list {
		list[i].SettledAt = settled[key{list[i].Window.Start.Unix(), list[i].Version}]
	}
	return list, nil
}

func earliest(list []reporter.WindowClose) time.Time {
	first := list[0].Window.Start
	for _, c := range list {
		if c.Window.Start.Before(first) {
			first = c.Window.Start
		}
	}
	return first
}

func latest(list []reporter.WindowClose) time.Time {
	last := list[0].Window.Start
	for _, c := range list {
		if c.Window.Start.After(last) {
			last = c.Window.Start
		}
	}
	return last
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// LastClosed returns the close with the latest window; ok is false when no window was closed yet.
func (s *Store) LastClosed(ctx context.Context) (c reporter.WindowClose, ok bool, err error) {
	list, err := s.closes(ctx, "1", "", " DESC LIMIT 1")
	if err != nil || len(list) == 0 {
		return reporter.WindowClose{}, false, err
	}
	return list[0], true, nil
}

// UnsettledWindows returns closed windows that are not settled, oldest first.
func (s *Store) UnsettledWindows(ctx context.Context) ([]reporter.WindowClose, error) {
	return s.closes(ctx, "1", " HAVING (window_start, max(version)) "+s.global+"NOT IN (SELECT window_start, version FROM window_settlements"+
		" GROUP BY window_start, version HAVING argMax(settled_at, place) != 0)", "")
}

// Windows returns closes by window start in [from, to), oldest first.
func (s *Store) Windows(ctx context.Context, from, to time.Time) ([]reporter.WindowClose, error) {
	if !from.Before(to) {
		return nil, nil
	}
	return s.closes(ctx, rangeWhere(from, to).String(), "", "")
}

// rangeWhere is the condition of window starts in [from, to); zero times are no bound.
func rangeWhere(from, to time.Time) clauses {
	c := clauses{"1"}
	if !from.IsZero() {
		c.add("window_start >= " + sqlTime(ceilSecond(from)))
	}
	if !to.IsZero() {
		c.add("window_start < " + sqlTime(ceilSecond(to)))
	}
	return c
}

// ceilSecond rounds up: a window that starts on a second is before t if and only if it is before ceilSecond(t).
func ceilSecond(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second)
	}
	return t
}

// counted limits a table with window_start and version to the closes that count.
func (s *Store) counted(where clauses) string {
	return "(window_start, version) " + s.global + "IN (SELECT window_start, max(version) FROM window_closes WHERE " + where.String() + " GROUP BY window_start)"
}

// HighestVersion returns the highest version under which usage or records of w were written, closed or not; 0 when
// there are none.
func (s *Store) HighestVersion(ctx context.Context, w meter.Window) (uint64, error) {
	var parts []string
	for _, table := range []string{"hourly_usage", "bill_records", "window_closes"} {
		parts = append(parts, "SELECT version FROM "+table+" WHERE window_start = "+sqlTime(w.Start))
	}
	var highest uint64
	if err := s.conn.QueryRow(ctx, "SELECT max(version) FROM ("+strings.Join(parts, " UNION ALL ")+")").Scan(&highest); err != nil {
		return 0, fmt.Errorf("find highest version of %s: %w", w, err)
	}
	return highest, nil
}
