package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var instanceChanges = newTable("instance_changes",
	"instance_id", "String", "at", "Int64", "kind", "UInt8", "recorded_at", "Int64", "actor", "String", "reason", "String", "precedence", "UInt64")

// AppendLife appends changes and returns once they are durable. The same (instance, kind, At) again changes nothing: the row
// recorded first stays.
func (s *Store) AppendLife(ctx context.Context, changes []reporter.LifeChange) error {
	for _, c := range changes {
		if c.InstanceID == "" || c.Kind.String() == "" || c.At.IsZero() || c.At.Unix() < 0 {
			return fmt.Errorf("append life: %w: instance, kind and a time from 1970 on are required (got %q, %d, %s)", meter.ErrRefused, c.InstanceID, c.Kind, c.At)
		}
	}
	err := s.insertRows(ctx, instanceChanges, len(changes), func(i int, d []columnData) error {
		c := &changes[i]
		d[0].string(c.InstanceID)
		d[1].nanos(c.At)
		d[2].uint8(uint8(c.Kind))
		d[3].nanos(c.RecordedAt)
		d[4].string(c.Actor)
		d[5].string(c.Reason)
		d[6].uint64(version(max(c.RecordedAt.UnixNano(), 0)))
		return nil
	})
	return wrap("append life", classify(err))
}

// LifeOf returns the changes of one instance in order of time.
func (s *Store) LifeOf(ctx context.Context, instanceID string) ([]reporter.LifeChange, error) {
	list, err := s.lifeChanges(ctx, clauses{"instance_id = " + quote(instanceID)}, "")
	return list, wrap("read life of "+instanceID, err)
}

const lifeColumns = "instance_id, kind, at, recorded_at, actor, reason"

func (s *Store) lifeChanges(ctx context.Context, where clauses, tail string) ([]reporter.LifeChange, error) {
	if tail == "" {
		tail = " ORDER BY instance_id, at, kind"
	}
	var list []reporter.LifeChange
	err := s.each(ctx, "SELECT "+lifeColumns+" FROM instance_changes FINAL"+whereText(where)+tail, func(rows driver.Rows) error {
		c, err := scanLifeChange(rows)
		list = append(list, c)
		return err
	})
	return list, err
}

func scanLifeChange(rows driver.Rows) (reporter.LifeChange, error) {
	var c reporter.LifeChange
	var kind uint8
	var at, recorded int64
	err := rows.Scan(&c.InstanceID, &kind, &at, &recorded, &c.Actor, &c.Reason)
	c.Kind, c.At, c.RecordedAt = reporter.LifeChangeKind(kind), fromNanos(at), fromNanos(recorded)
	return c, err
}

// Lives returns what is known of instances that were not simply open during the whole window: opened after its start,
// released or frozen before its end. Instances without any row are not returned. Only the given ones are looked at, by the
// table's key; nil means all: then what was ever released is read.
func (s *Store) Lives(ctx context.Context, w meter.Window, instances []string) ([]reporter.Life, error) {
	if instances != nil && len(instances) == 0 {
		return nil, nil
	}
	start, end := strconv.FormatInt(w.Start.UnixNano(), 10), strconv.FormatInt(w.End.UnixNano(), 10)
	// More than needed: who was frozen and unfrozen before is left out below.
	where := clauses{"instance_id " + s.global + "IN (SELECT instance_id FROM instance_changes WHERE" +
		fmt.Sprintf(" kind = %d AND at > %s OR kind IN (%d, %d) AND at < %s)", reporter.LifeOpened, start, reporter.LifeFrozen, reporter.LifeReleased, end)}
	if instances != nil {
		where = clauses{"instance_id IN (" + quoteList(instances) + ")"}
	}
	changes, err := s.lifeChanges(ctx, where, "")
	if err != nil {
		return nil, fmt.Errorf("read lives: %w", err)
	}
	var lives []reporter.Life
	for len(changes) > 0 {
		n := 1
		for n < len(changes) && changes[n].InstanceID == changes[0].InstanceID {
			n++
		}
		if life := lifeFrom(changes[:n]); !openDuring(life, w) {
			lives = append(lives, life)
		}
		changes = changes[n:]
	}
	return lives, nil
}

// lifeFrom puts the changes of one instance, in order of time, together. The first opening and the first release count: an
// instance that is released doesn't come back.
func lifeFrom(changes []reporter.LifeChange) reporter.Life {
	life := reporter.Life{InstanceID: changes[0].InstanceID}
	frozen := false
	for _, c := range changes {
		switch c.Kind {
		case reporter.LifeOpened:
			if life.Opened.IsZero() {
				life.Opened = c.At
			}
		case reporter.LifeReleased:
			if life.Released.IsZero() {
				life.Released = c.At
			}
		case reporter.LifeFrozen:
			if !frozen {
				life.Frozen = append(life.Frozen, meter.Window{Start: c.At})
			}
			frozen = true
		case reporter.LifeUnfrozen:
			if frozen {
				life.Frozen[len(life.Frozen)-1].End = c.At
			}
			frozen = false
		}
	}
	// Frozen and unfrozen in the same instant is not frozen.
	life.Frozen = slices.DeleteFunc(life.Frozen, func(w meter.Window) bool { return w.Start.Equal(w.End) })
	if len(life.Frozen) == 0 {
		life.Frozen = nil
	}
	return life
}

// openDuring reports whether the instance was simply open during the whole window.
func openDuring(l reporter.Life, w meter.Window) bool {
	if l.Opened.After(w.Start) || before(l.Released, w.End) {
		return false
	}
	return !slices.ContainsFunc(l.Frozen, func(f meter.Window) bool {
		return f.Start.Before(w.End) && (f.End.IsZero() || f.End.After(w.Start))
	})
}

// before reports whether something happened before t; a zero time says that it did not happen.
func before(at, t time.Time) bool { return !at.IsZero() && at.Before(t) }

// ReleasedWithoutFinal returns releases and freezes that no booking of kind release or freeze has dealt with yet, oldest
// first. A booking deals with every change of its instance that was recorded by then; a release also with freezes.
func (s *Store) ReleasedWithoutFinal(ctx context.Context, limit int) ([]reporter.LifeChange, error) {
	if limit <= 0 {
		return nil, nil
	}
	done := fmt.Sprintf("SELECT instance_id, max(if(kind = %d, at, toInt64(0))) AS release_done, max(at) AS freeze_done FROM bookings"+
		" WHERE kind IN (%[1]d, %d) GROUP BY instance_id", reporter.BookingRelease, reporter.BookingFreeze)
	changes := fmt.Sprintf("SELECT %s FROM instance_changes FINAL WHERE kind IN (%d, %d)", lifeColumns, reporter.LifeFrozen, reporter.LifeReleased)
	query := "SELECT " + lifeColumns + " FROM (" + changes + ") AS changes " + s.global + "ANY LEFT JOIN (" + done + ") AS done USING instance_id" +
		fmt.Sprintf(" WHERE recorded_at > if(kind = %d, release_done, freeze_done) ORDER BY at, instance_id, kind LIMIT %d", reporter.LifeReleased, limit)
	var list []reporter.LifeChange
	err := s.each(ctx, query, func(rows driver.Rows) error {
		c, err := scanLifeChange(rows)
		list = append(list, c)
		return err
	})
	return list, wrap("read releases without a final record", err)
}
