package store

import (
	"context"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var auditLog = newTable("audit_log",
	"at", "Int64", "actor", "String", "action", "String", "target", "String", "reason", "String", "detail", "String", "digest", "UInt64")

// AppendAudit appends entries and returns once they are durable. The same entry again changes nothing.
func (s *Store) AppendAudit(ctx context.Context, entries []reporter.AuditEntry) error {
	for _, e := range entries {
		if e.At.IsZero() || e.At.Unix() < 0 || e.Actor == "" || e.Action == "" {
			return fmt.Errorf("append to audit log: %w: time, actor and action are required (got %s, %q, %q)", meter.ErrRefused, e.At, e.Actor, e.Action)
		}
	}
	err := s.insertRows(ctx, auditLog, len(entries), func(i int, d []columnData) error {
		e := &entries[i]
		d[0].nanos(e.At)
		digest := fnv.New64a()
		for j, text := range []string{e.Actor, e.Action, e.Target, e.Reason, e.Detail} {
			d[1+j].string(text)
			_, _ = fmt.Fprintf(digest, "%d:%s", len(text), text) // a hash takes everything
		}
		d[6].uint64(digest.Sum64())
		return nil
	})
	return wrap("append to audit log", classify(err))
}

// Audit returns entries of [from, to), newest first, at most limit. A zero time is no bound.
func (s *Store) Audit(ctx context.Context, from, to time.Time, limit int) ([]reporter.AuditEntry, error) {
	if limit <= 0 {
		return nil, nil
	}
	var where clauses
	if !from.IsZero() {
		where.add("at >= " + strconv.FormatInt(from.UnixNano(), 10))
	}
	if !to.IsZero() {
		where.add("at < " + strconv.FormatInt(to.UnixNano(), 10))
	}
	var list []reporter.AuditEntry
	query := "SELECT at, actor, action, target, reason, detail FROM audit_log FINAL" + whereText(where) +
		" ORDER BY at DESC, digest LIMIT " + strconv.Itoa(limit)
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var e reporter.AuditEntry
		var at int64
		err := rows.Scan(&at, &e.Actor, &e.Action, &e.Target, &e.Reason, &e.Detail)
		e.At = fromNanos(at)
		list = append(list, e)
		return err
	})
	return list, wrap("read audit log", err)
}
