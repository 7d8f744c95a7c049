package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
)

// The rule of what counts, for every reader of events:
//
//  1. Rows that agree in (hour, subject, event_key, content) are one event. FINAL sees to that at any time; merges only
//     make it cheaper.
//  2. Of several contents under one (hour, subject, event_key), the one received first counts (ties: the smaller
//     content). The others are conflicts.
//  3. An event that came without a time does not count in its hour when the same (subject, event_key) came without a
//     time in one of the hours before, within the lookback: it is a retry across the edge of an hour.
//  4. What was voided under a (hour, subject, event_key) does not count, whatever content the key has or gets. If the voided
//     event had come without a time, neither does one without a time in the hours before, within the lookback: it is the
//     same event, which another collector took earlier and delivered later.
//
// The answer depends on nothing but the stored rows, so an hour may be counted again at any time. Over several hours an
// event counts once: by 3, of rows without a time each of which is a retry of the one before, only the first counts, also
// when that one is a conflict (then the winner of its hour counts) or void (then none does).
//
// Conflicts, stamped retries and voids are rare, so a reader first asks whether there are any, with a GROUP BY over a
// 64-bit hash that takes little memory, and only then adds the conditions for 2, 3 and 4. A collision of that hash
// costs time, never a wrong answer: the conditions compare whole keys.

// scope is a range of hours [from, to), and the subjects of interest; none means all.
type scope struct {
	from, to time.Time
	subjects []string
	// first and last bound the subjects, both included; last is only a bound with bounded.
	first, last string
	bounded     bool
}

func (sc scope) where() clauses {
	c := clauses{"hour >= " + sqlTime(sc.from), "hour < " + sqlTime(sc.to)}
	if len(sc.subjects) > 0 {
		c.add("subject IN (" + quoteList(sc.subjects) + ")")
	}
	if sc.bounded {
		c.add("subject >= " + quote(sc.first))
		c.add("subject <= " + quote(sc.last))
	}
	return c
}

// windowScope covers every hour that w touches.
func windowScope(w meter.Window) scope {
	from := w.Start.UTC().Truncate(time.Hour)
	to := w.End.UTC().Truncate(time.Hour)
	if to.Before(w.End) {
		to = to.Add(time.Hour)
	}
	return scope{from: from, to: to}
}

// exceptions are the rows of a scope that need more than FINAL.
type exceptions struct {
	scope    scope
	lookback time.Duration
	global   string // as in Store
	// Conflicts is the number of keys with several contents, Repeats that of stamped keys seen in several hours (each
	// possibly a little too high, by collisions of a hash).
	conflicts, repeats uint64
	// Voids is the number of void keys in the scope, stampedVoids that of void events without a time in it or in the
	// lookback after it.
	voids, stampedVoids uint64
}

// probeRows bounds how many rows one probe groups.
const probeRows = 16_000_000

// probe looks for exceptions in a scope.
func (s *Store) probe(ctx context.Context, sc scope) (exceptions, error) {
	e := exceptions{scope: sc, lookback: s.cfg.StampedLookback, global: s.global}
	query := "SELECT countIf(hour < " + sqlTime(sc.to) + "), countIf(stamped = 1) FROM event_voids WHERE " + e.voidScope().String()
	if err := s.conn.QueryRow(ctx, query).Scan(&e.voids, &e.stampedVoids); err != nil {
		return e, fmt.Errorf("look for voids: %w", err)
	}
	parts, err := s.split(ctx, sc)
	if err != nil {
		return e, err
	}
	for _, part := range parts {
		var conflicts, stamped uint64
		query := "SELECT countIf(lo != hi), sum(st) FROM (SELECT min(content) AS lo, max(content) AS hi, max(stamped) AS st" +
			" FROM usage_events WHERE " + part.where().String() + " GROUP BY cityHash64(hour, subject, event_key))"
		if err := s.conn.QueryRow(ctx, query).Scan(&conflicts, &stamped); err != nil {
			return e, fmt.Errorf("look for conflicts: %w", err)
		}
		e.conflicts += conflicts
		if stamped == 0 {
			continue
		}
		var repeats uint64
		repeated := exceptions{scope: part, lookback: e.lookback, global: e.global}
		if err := s.conn.QueryRow(ctx, "SELECT count() FROM ("+repeated.repeatedHashes()+")").Scan(&repeats); err != nil {
			return e, fmt.Errorf("look for stamped retries: %w", err)
		}
		e.repeats += repeats
	}
	return e, nil
}

// split cuts a long scope into parts of about probeRows rows, at hours.
func (s *Store) split(ctx context.Context, sc scope) ([]scope, error) {
	if sc.to.Sub(sc.from) <= time.Hour {
		return []scope{sc}, nil
	}
	var parts []scope
	sum := uint64(0)
	err := s.each(ctx, "SELECT hour, count() FROM usage_events WHERE "+sc.where().String()+" GROUP BY hour ORDER BY hour", func(rows driver.Rows) error {
		var hour time.Time
		var n uint64
		if err := rows.Scan(&hour, &n); err != nil {
			return err
		}
		if len(parts) == 0 || sum+n > probeRows {
			part := sc
			part.from = hour
			parts, sum = append(parts, part), 0
		}
		sum += n
		parts[len(parts)-1].to = hour.Add(time.Hour)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count rows by hour: %w", err)
	}
	return parts, nil
}

// stampedScope reaches back by the lookback.
func (e exceptions) stampedScope() clauses {
	sc := e.scope
	sc.from = sc.from.Add(-e.lookback)
	return append(sc.where(), "stamped = 1")
}

// repeatedHashes selects hashes of stamped keys of the scope that occur in several hours of scope and lookback.
func (e exceptions) repeatedHashes() string {
	return "SELECT cityHash64(subject, event_key) AS h FROM usage_events WHERE " + e.stampedScope().String() +
		" AND cityHash64(subject, event_key) " + e.global + "IN (SELECT cityHash64(subject, event_key) FROM usage_events WHERE " +
		e.scope.where().String() + " AND stamped = 1) GROUP BY h HAVING min(hour) != max(hour)"
}

// losers selects the rows that lost against an earlier content of their key.
func (e exceptions) losers() string {
	where := e.scope.where().String()
	return "SELECT hour, subject, event_key, loser FROM (SELECT hour, subject, event_key," +
		" argMin(content, (bitNot(version), content)) AS winner, groupUniqArray(content) AS contents FROM usage_events WHERE " + where +
		" AND cityHash64(hour, subject, event_key) " + e.global + "IN (SELECT cityHash64(hour, subject, event_key) AS h FROM usage_events WHERE " + where +
		" GROUP BY h HAVING min(content) != max(content)) GROUP BY hour, subject, event_key) ARRAY JOIN contents AS loser WHERE loser != winner"
}

// retries selects (hour, subject, event_key) of stamped rows that have an earlier one within the lookback.
func (e exceptions) retries() string {
	return fmt.Sprintf("SELECT retry_hour, subject, event_key FROM (SELECT subject, event_key, hours,"+
		" arrayMap((x, i) -> i > 1 AND toUInt32(x) - toUInt32(hours[i - 1]) <= %d, hours, arrayEnumerate(hours)) AS marks"+
		" FROM (SELECT subject, event_key, arraySort(groupUniqArray(hour)) AS hours FROM usage_events WHERE %s"+
		" AND cityHash64(subject, event_key) %sIN (%s) GROUP BY subject, event_key)) ARRAY JOIN hours AS retry_hour, marks AS mark WHERE mark = 1",
		int64(e.lookback/time.Second), e.stampedScope(), e.global, e.repeatedHashes())
}

// voidScope reaches forward by the lookback.
func (e exceptions) voidScope() clauses {
	sc := e.scope
	sc.to = sc.to.Add(e.lookback)
	return sc.where()
}

// voidConditions are those for what is not void.
func (e exceptions) voidConditions() clauses {
	var c clauses
	if e.voids > 0 {
		c.add("(hour, subject, event_key) " + e.global + "NOT IN (SELECT hour, subject, event_key FROM event_voids WHERE " + e.scope.where().String() + ")")
	}
	if e.stampedVoids > 0 {
		c.add(fmt.Sprintf("NOT (stamped = 1 AND (toUInt32(hour), subject, event_key) %sIN (SELECT toUInt32(toUInt32(hour) - 3600 * before), subject, event_key"+
			" FROM event_voids ARRAY JOIN range(%d) AS before WHERE stamped = 1 AND %s))", e.global, int64(e.lookback/time.Hour)+1, e.voidScope()))
	}
	return c
}

// beforeVoids are the exceptions as if nothing had been voided.
func (e exceptions) beforeVoids() exceptions {
	e.voids, e.stampedVoids = 0, 0
	return e
}

// conditions are what a reader of usage_events FINAL (or of backfilled_values) within the scope must add.
func (e exceptions) conditions() clauses {
	c := e.voidConditions()
	if e.conflicts > 0 {
		c.add("(hour, subject, event_key, content) " + e.global + "NOT IN (" + e.losers() + ")")
	}
	if e.repeats > 0 {
		c.add("NOT (stamped = 1 AND (hour, subject, event_key) " + e.global + "IN (" + e.retries() + "))")
	}
	return c
}

// where are the conditions of the scope and of its exceptions.
func (e exceptions) where() clauses { return append(e.scope.where(), e.conditions()...) }

// CountWindowEvents returns the number of events of the window that count, of whatever type.
func (s *Store) CountWindowEvents(ctx context.Context, w meter.Window) (uint64, error) {
	e, err := s.probe(ctx, windowScope(w))
	if err != nil {
		return 0, fmt.Errorf("count events of %s: %w", w, err)
	}
	var n uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM usage_events FINAL WHERE "+e.where().String()).Scan(&n); err != nil {
		return 0, fmt.Errorf("count events of %s: %w", w, err)
	}
	return n, nil
}

// FirstEventHour returns the window of the earliest stored event; ok is false when there is none.
func (s *Store) FirstEventHour(ctx context.Context) (w meter.Window, ok bool, err error) {
	var n uint64
	var first time.Time
	if err := s.conn.QueryRow(ctx, "SELECT count(), min(hour) FROM usage_events").Scan(&n, &first); err != nil {
		return meter.Window{}, false, fmt.Errorf("find the first event: %w", err)
	}
	if n == 0 {
		return meter.Window{}, false, nil
	}
	return meter.HourOf(first), true, nil
}

// Conflict is one event that does not count because another event has its identity.
type Conflict struct {
	Hour    meter.Window
	Subject string
	Source  string
	ID      string
	// Kind says which rule: "content" (same identity and hour, other content, received later) or "retry" (came without
	// a time again, in a later hour).
	Kind       string
	ReceivedAt time.Time
	Data       string // as sent
}

// Conflicts lists events of [from, to) that don't count, by hour, subject, source, id and time of receipt, at most limit.
func (s *Store) Conflicts(ctx context.Context, from, to time.Time, limit int) ([]Conflict, error) {
	e, err := s.probe(ctx, windowScope(meter.Window{Start: from, End: to}))
	if err != nil {
		return nil, fmt.Errorf("list conflicts: %w", err)
	}
	var kinds []string
	columns := "hour, subject, source, id, '%s' AS kind, toInt64(bitNot(version)) AS at, data FROM usage_events FINAL WHERE "
	if e.conflicts > 0 {
		kinds = append(kinds, "SELECT "+fmt.Sprintf(columns, "content")+e.scope.where().String()+" AND (hour, subject, event_key, content) "+e.global+"IN ("+e.losers()+")")
	}
	if e.repeats > 0 {
		kinds = append(kinds, "SELECT "+fmt.Sprintf(columns, "retry")+e.scope.where().String()+" AND stamped = 1 AND (hour, subject, event_key) "+e.global+"IN ("+e.retries()+")")
	}
	if len(kinds) == 0 {
		return nil, nil
	}
	var found []Conflict
	query := fmt.Sprintf("SELECT hour, subject, source, id, kind, at, data FROM (%s) ORDER BY hour, subject, source, id, at, kind LIMIT %d", strings.Join(kinds, " UNION ALL "), limit)
	err = s.each(ctx, query, func(rows driver.Rows) error {
		var c Conflict
		var hour time.Time
		var at int64
		if err := rows.Scan(&hour, &c.Subject, &c.Source, &c.ID, &c.Kind, &at, &c.Data); err != nil {
			return err
		}
		c.Hour, c.ReceivedAt = meter.HourOf(hour), time.Unix(0, at).UTC()
		found = append(found, c)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list conflicts: %w", err)
	}
	return found, nil
}

// EventCounts are the numbers behind the metrics of a range of hours.
type EventCounts struct {
	Rows      uint64 // stored now, duplicates that were not merged yet included
	Distinct  uint64 // after rule 1: duplicates removed
	Counted   uint64 // that count
	Conflicts uint64 // that lost against an earlier content of their key
	Retries   uint64 // that came without a time again, in a later hour
	Voids     uint64 // that would count if they had not been voided
}

// CountEvents counts the events of the hours that [from, to) touches.
func (s *Store) CountEvents(ctx context.Context, from, to time.Time) (EventCounts, error) {
	e, err := s.probe(ctx, windowScope(meter.Window{Start: from, End: to}))
	if err != nil {
		return EventCounts{}, fmt.Errorf("count events: %w", err)
	}
	var n EventCounts
	where := e.scope.where().String()
	ask := func(into *uint64, query string) {
		if err == nil {
			err = s.conn.QueryRow(ctx, query).Scan(into)
		}
	}
	ask(&n.Rows, "SELECT count() FROM usage_events WHERE "+where)
	ask(&n.Distinct, "SELECT count() FROM usage_events FINAL WHERE "+where)
	if e.conflicts > 0 {
		ask(&n.Conflicts, "SELECT count() FROM usage_events FINAL WHERE "+where+" AND (hour, subject, event_key, content) "+e.global+"IN ("+e.losers()+")")
	}
	valid := n.Distinct
	if e.conflicts+e.repeats > 0 {
		ask(&valid, "SELECT count() FROM usage_events FINAL WHERE "+e.beforeVoids().where().String())
		n.Retries = n.Distinct - valid - n.Conflicts
	}
	n.Counted = valid
	if e.voids+e.stampedVoids > 0 {
		ask(&n.Counted, "SELECT count() FROM usage_events FINAL WHERE "+e.where().String())
		n.Voids = valid - n.Counted
	}
	if err != nil {
		return EventCounts{}, fmt.Errorf("count events: %w", err)
	}
	return n, nil
}

// RepeatedID is an id that its sender used in several hours, which makes them different events.
type RepeatedID struct {
	Subject, Source, ID string
	Hours               uint64
	First, Last         time.Time
}

// RepeatedIDs lists ids with explicit times seen in several hours of [from, to): most often a sender that gives a retry
// a new time, which makes it count twice. It reads the whole range and is meant for a periodic audit.
func (s *Store) RepeatedIDs(ctx context.Context, from, to time.Time, limit int) ([]RepeatedID, error) {
	where := windowScope(meter.Window{Start: from, End: to}).where().String() + " AND stamped = 0"
	query := fmt.Sprintf("SELECT subject, any(source), any(id), uniqExact(hour) AS hours, min(hour), max(hour) FROM usage_events WHERE %s"+
		" AND cityHash64(subject, event_key) %sIN (SELECT cityHash64(subject, event_key) AS h FROM usage_events WHERE %s GROUP BY h HAVING min(hour) != max(hour))"+
		" GROUP BY subject, event_key HAVING hours > 1 ORDER BY subject, event_key LIMIT %d", where, s.global, where, limit)
	var found []RepeatedID
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var r RepeatedID
		if err := rows.Scan(&r.Subject, &r.Source, &r.ID, &r.Hours, &r.First, &r.Last); err != nil {
			return err
		}
		r.First, r.Last = r.First.UTC(), r.Last.UTC()
		found = append(found, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list repeated ids: %w", err)
	}
	return found, nil
}
