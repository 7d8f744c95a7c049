package store

import (
	"context"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/reporter"
)

var collectors = newTable("collectors",
	"name", "String", "beat", "UInt64", "at", "Int64", "unconfirmed", "UInt64", "lag", "Int64", "stopped", "UInt8")

var _ reporter.CollectorBooks = (*Store)(nil)

// WriteCollector replaces what is known of a collector, unless something with a higher beat is.
func (s *Store) WriteCollector(ctx context.Context, c reporter.Collector) error {
	err := s.insertRows(ctx, collectors, 1, func(_ int, d []columnData) error {
		d[0].string(c.Name)
		d[1].uint64(c.Beat)
		d[2].nanos(c.At)
		d[3].uint64(c.Unconfirmed)
		d[4].int64(int64(c.Lag))
		d[5].bool(c.Stopped)
		return nil
	})
	return wrap("write collector", classify(err))
}

// Collectors returns the last state of every collector, by name.
func (s *Store) Collectors(ctx context.Context) ([]reporter.Collector, error) {
	var list []reporter.Collector
	query := "SELECT name, max(beat), argMax(at, beat), argMax(unconfirmed, beat), argMax(lag, beat), argMax(stopped, beat)" +
		" FROM collectors GROUP BY name ORDER BY name"
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var c reporter.Collector
		var at, lag int64
		var stopped uint8
		if err := rows.Scan(&c.Name, &c.Beat, &at, &c.Unconfirmed, &lag, &stopped); err != nil {
			return err
		}
		c.At, c.Lag, c.Stopped = fromNanos(at), time.Duration(lag), stopped == 1
		list = append(list, c)
		return nil
	})
	return list, wrap("read collectors", err)
}

// WriteCollector implements [reporter.CollectorBooks].
func (l *Late) WriteCollector(ctx context.Context, c reporter.Collector) error {
	return l.do(func(s *Store) error { return s.WriteCollector(ctx, c) })
}

// Collectors implements [reporter.CollectorBooks].
func (l *Late) Collectors(ctx context.Context) ([]reporter.Collector, error) {
	return ask(l, func(s *Store) ([]reporter.Collector, error) { return s.Collectors(ctx) })
}
