package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// A touch says that something about an hour changed after the hour may have been counted. It is written after the change
// is durable and before the change is forgotten elsewhere, so whoever counts an hour after reading its touches counts
// everything that they announce (ADR 9). Touches are found by the time of writing, never by reading history.

var touches = newTable("touches",
	"at", "DateTime('UTC')", "hour", "DateTime('UTC')", "touch", "UInt64", "subjects", "Array(String)", "everybody", "UInt8",
	"reason", "String")

const (
	// touchMargin is how long before its end an hour counts as ended for touches: insert and close may run on machines
	// whose clocks differ, and the grace period adds to it.
	touchMargin = 2 * time.Minute
	// touchSubjects is up to how many subjects a touch names; with more it stands for all of the hour.
	touchSubjects = 1000
	// staleSubjects is the same for a stale hour with all its touches.
	staleSubjects = 10_000
	// touchSlack is how far apart the clocks of processes that write touches may be.
	touchSlack = 2 * time.Hour
	// fullScan is after what time all touches are looked at again, for those written by a clock that was wrong by more.
	fullScan = 24 * time.Hour
	// voidWriteLimit bounds the time in which a void writes its rows; only after it, one without touches was interrupted.
	voidWriteLimit = 15 * time.Minute
	// closedRefresh is how often inserts look at which hour was closed last, and at the server's clock.
	closedRefresh = time.Minute
	// clockBelief is by how much the server's clock may be ahead to be believed. More is no clock that is wrong, but time that
	// is simulated.
	clockBelief = 24 * time.Hour
)

// Reasons of touches.
const (
	touchLate   = "late"   // events of the hour
	touchRetry  = "retry"  // events without a time in an hour before, which may take the place of one here
	touchVoid   = "void"   // events voided
	touchMarker = "voided" // the void's own number: its touches were written
)

// touch is one row.
type touch struct {
	hour     int64 // seconds since 1970
	id       uint64
	subjects []string // ordered
	all      bool
	reason   string
}

// touchState is what a process remembers about touches.
type touchState struct {
	// latest is the latest time that inserts have seen, in nanoseconds: a clock that is set back doesn't bring back an hour.
	latest atomic.Int64
	// closedUpTo is the end of the latest closed hour known here, in seconds.
	closedUpTo atomic.Int64

	refresh   sync.Mutex
	refreshed time.Time // when closedUpTo was last read; zero: never

	scan     sync.Mutex
	mark     time.Time // no uncovered touch was written before it; zero: not known
	nextFull time.Time
}

// raise sets a to v if that is more, and returns the higher one.
func raise(a *atomic.Int64, v int64) int64 {
	for {
		old := a.Load()
		if v <= old {
			return old
		}
		if a.CompareAndSwap(old, v) {
			return v
		}
	}
}

// noteClosed remembers that hours up to end are closed.
func (s *Store) noteClosed(end time.Time) { raise(&s.touch.closedUpTo, end.Unix()) }

// touchNow is the time as far as touches are concerned: it never goes back.
func (s *Store) touchNow() time.Time {
	return time.Unix(0, raise(&s.touch.latest, s.cfg.Now().UnixNano())).UTC()
}

// touchBefore returns the instant before which events are of hours that ended, or end within touchMargin, or are closed.
// The last one matters only when a clock ran ahead, closed hours, and was set back.
func (s *Store) touchBefore(ctx context.Context) time.Time {
	now := s.touchNow()
	edge := now.Add(touchMargin).Truncate(time.Hour)
	if err := s.refreshClosed(ctx); err != nil {
		s.logger.Warn("last closed hour not known: touching the hour that lasts too", "err", err)
		edge = edge.Add(2 * time.Hour)
	} else if latest := time.Unix(0, s.touch.latest.Load()).UTC(); latest.After(now) {
		edge = latest.Add(touchMargin).Truncate(time.Hour)
	}
	if closed := time.Unix(s.touch.closedUpTo.Load(), 0).UTC(); closed.After(edge) {
		return closed
	}
	return edge
}

// refreshClosed asks for the last closed hour and the server's time once in a while, by a clock that may be set: by the time
// that never goes back, nothing would be asked until a clock that was set back has caught up, and another daemon closes
// hours meanwhile.
func (s *Store) refreshClosed(ctx context.Context) error {
	s.touch.refresh.Lock()
	defer s.touch.refresh.Unlock()
	now := s.cfg.Now()
	if since := now.Sub(s.touch.refreshed); !s.touch.refreshed.IsZero() && since >= 0 && since < closedRefresh {
		return nil
	}
	if err := s.compareClocks(ctx, now); err != nil {
		return err
	}
	b, ok, err := s.LastClosed(ctx)
	if err != nil {
		return err
	}
	if ok {
		s.noteClosed(b.Window.End)
	}
	s.touch.refreshed = now
	return nil
}

// compareClocks takes the server's time for the time of touches if it is ahead. All daemons share the server, so one whose
// own clock is behind still knows which hours the others may be counting, before they have closed them.
func (s *Store) compareClocks(ctx context.Context, now time.Time) error {
	var server uint32
	if err := s.conn.QueryRow(ctx, "SELECT toUInt32(now())").Scan(&server); err != nil {
		return fmt.Errorf("ask for the server's time: %w", err)
	}
	if at := time.Unix(int64(server), 0); at.After(now) && at.Sub(now) <= clockBelief {
		raise(&s.touch.latest, at.UnixNano())
	}
	return nil
}

// touchInserted writes the touches of rows that are durable. Rows of the current hour cost one comparison each.
func (s *Store) touchInserted(ctx context.Context, rows *meter.EventRows) error {
	before := s.touchBefore(ctx)
	list := touchesOf(rows, before, s.cfg.StampedLookback)
	if len(list) == 0 {
		return nil
	}
	if err := s.writeTouches(ctx, list); err != nil {
		return fmt.Errorf("touch %d hours: %w", len(list), err)
	}
	return nil
}

// touchesOf returns the touches that rows of hours ending at or before an instant need.
func touchesOf(rows *meter.EventRows, before time.Time, lookback time.Duration) []touch {
	edge := before.UnixNano()
	var late, stamped map[int64]subjectSet
	for i, at := range rows.Time {
		if at >= edge {
			continue
		}
		if late == nil {
			late, stamped = map[int64]subjectSet{}, map[int64]subjectSet{}
		}
		hour := eventHour(at).Unix()
		addSubject(late, hour, rows.Subject[i])
		if rows.Stamped[i] {
			addSubject(stamped, hour, rows.Subject[i])
		}
	}
	// A stamped event also decides about the same one in the hours that follow.
	following := map[int64]subjectSet{}
	for hour, subjects := range stamped {
		for n := int64(1); n <= int64(lookback/time.Hour); n++ {
			next := hour + n*3600
			if time.Unix(next, 0).Add(time.Hour).After(before) {
				break
			}
			for subject := range subjects {
				addSubject(following, next, []byte(subject))
			}
		}
	}
	return append(newTouches(late, touchLate), newTouches(following, touchRetry)...)
}

type subjectSet map[string]struct{}

// addSubject adds a subject to the set of an hour; one more than a touch may name is enough to know that there are too many.
func addSubject(sets map[int64]subjectSet, hour int64, subject []byte) {
	set := sets[hour]
	if set == nil {
		set = subjectSet{}
		sets[hour] = set
	}
	if _, known := set[string(subject)]; !known && len(set) <= touchSubjects {
		set[string(subject)] = struct{}{}
	}
}

// newTouches makes a touch for each hour.
func newTouches(sets map[int64]subjectSet, reason string) []touch {
	list := make([]touch, 0, len(sets))
	for _, hour := range slices.Sorted(maps.Keys(sets)) {
		list = append(list, newTouch(hour, slices.Sorted(maps.Keys(sets[hour])), reason))
	}
	return list
}

func newTouch(hour int64, subjects []string, reason string) touch {
	t := touch{hour: hour, id: rand.Uint64(), subjects: subjects, reason: reason} //nolint:gosec // a name, not a secret
	if len(subjects) > touchSubjects {
		t.subjects, t.all = nil, true
	}
	return t
}

// writeTouches returns once the touches are durable.
func (s *Store) writeTouches(ctx context.Context, list []touch) error {
	at := s.touchNow()
	var names columnData
	offset := uint64(0)
	ids := make([]uint64, len(list))
	err := s.insertRows(ctx, touches, len(list), func(i int, d []columnData) error {
		t := &list[i]
		ids[i] = t.id
		d[2].uint64(t.id)
		offset += uint64(len(t.subjects))
		d[3].uint64(offset)
		for _, subject := range t.subjects {
			names.string(subject)
		}
		if i == len(list)-1 {
			d[3].fixed(names.buf) // in the native format the elements follow all offsets
		}
		d[4].bool(t.all)
		d[5].string(t.reason)
		return errors.Join(d[0].dateTime(at), d[1].dateTime(time.Unix(t.hour, 0)))
	})
	if err != nil {
		return err
	}
	var stored uint64
	query := "SELECT uniqExact(hour, touch) FROM touches WHERE at = " + sqlTime(at) + " AND touch IN (" + sqlUints(ids) + ")"
	if err := s.conn.QueryRow(ctx, query).Scan(&stored); err != nil {
		return fmt.Errorf("count touches written: %w", err)
	}
	if stored < uint64(len(list)) {
		return fmt.Errorf("%w: %d of %d touches", ErrRowsMissing, stored, len(list))
	}
	return nil
}

// covered selects (hour, touch) of what committed bookings covered, of hours from one on that a condition names. Covers are
// kept under the hour or a later one.
func (s *Store) covered(first time.Time, hours string) string {
	return "SELECT hour, touch FROM covers WHERE booked_start >= " + sqlTime(first) + " AND " + hours + " AND " + s.committed()
}

// Touches returns the touches of an hour that no committed booking covers, to be covered by the booking that counts the hour
// after this call.
func (s *Store) Touches(ctx context.Context, hour meter.Window) ([]uint64, error) {
	at := "hour = " + sqlTime(hour.Start)
	// No touch of an hour is written long before it.
	query := "SELECT DISTINCT touch FROM touches WHERE at >= " + sqlTime(hour.Start.Add(-24*time.Hour)) + " AND " + at +
		" AND (hour, touch) " + s.global + "NOT IN (" + s.covered(hour.Start, at) + ") ORDER BY touch"
	list, err := scalars[uint64](ctx, s.conn, query)
	if err != nil {
		return nil, fmt.Errorf("read touches of %s: %w", hour, err)
	}
	return list, nil
}

// StaleHours returns up to limit hours that ended at or before the given time and have touches that no committed booking
// covers, oldest first. The first call of a process, and one a day, looks at all touches; others only at those written
// since the oldest uncovered one, or the last call.
func (s *Store) StaleHours(ctx context.Context, before time.Time, limit int) ([]reporter.StaleHour, error) {
	list, err := s.staleHours(ctx, before, limit)
	if err != nil {
		return nil, fmt.Errorf("look for stale hours: %w", err)
	}
	return list, nil
}

func (s *Store) staleHours(ctx context.Context, before time.Time, limit int) ([]reporter.StaleHour, error) {
	s.touch.scan.Lock()
	defer s.touch.scan.Unlock()
	now := s.touchNow()
	parts := []string{"at >= " + sqlTime(s.touch.mark.Add(-touchSlack))}
	full := s.touch.mark.IsZero() || !now.Before(s.touch.nextFull)
	next := now.Add(fullScan)
	if full {
		young, err := s.repairVoids(ctx, now)
		if err != nil {
			return nil, err
		}
		if young {
			next = now.Add(voidWriteLimit)
		}
		if parts, err = s.allTouches(ctx); err != nil {
			return nil, err
		}
	}
	mark := now
	var hours []time.Time
	for _, since := range parts {
		uncovered, err := s.uncovered(ctx, since)
		if err != nil {
			return nil, err
		}
		err = s.each(ctx, "SELECT hour, min(at) FROM touches WHERE "+uncovered+" GROUP BY hour ORDER BY hour", func(rows driver.Rows) error {
			var hour, oldest time.Time
			if err := rows.Scan(&hour, &oldest); err != nil {
				return err
			}
			if oldest.Before(mark) {
				mark = oldest
			}
			if len(hours) < limit && !hour.Add(time.Hour).After(before) {
				hours = append(hours, hour.UTC())
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	since := parts
	if full {
		since = nil
	}
	list, err := s.readStale(ctx, since, hours)
	if err != nil {
		return nil, err
	}
	s.touch.mark = mark
	if full {
		s.touch.nextFull = next
	}
	return list, nil
}

// allTouches cuts all touches into ranges of hours, in order, so that the engine never compares more than some of them at once:
// they are as many as there were ever inserts of late events.
func (s *Store) allTouches(ctx context.Context) ([]string, error) {
	spans, err := s.spans(ctx, touches.name, "hour", nil)
	parts := make([]string, len(spans))
	for i, span := range spans {
		parts[i] = span.String()
	}
	return parts, err
}

// uncovered is the condition of touches that match another one and that no committed booking covers.
func (s *Store) uncovered(ctx context.Context, since string) (string, error) {
	var n uint64
	var first time.Time
	if err := s.conn.QueryRow(ctx, "SELECT count(), min(hour) FROM touches WHERE "+since).Scan(&n, &first); err != nil {
		return "", fmt.Errorf("read touches: %w", err)
	}
	if n == 0 {
		return "0", nil
	}
	hours := "hour " + s.global + "IN (SELECT hour FROM touches WHERE " + since + ")"
	return since + " AND (hour, touch) " + s.global + "NOT IN (" + s.covered(first, hours) + ")", nil
}

// readStale reads the uncovered touches of hours, which are in order, that match more conditions.
func (s *Store) readStale(ctx context.Context, more []string, hours []time.Time) ([]reporter.StaleHour, error) {
	if len(hours) == 0 {
		return nil, nil
	}
	literals := make([]string, len(hours))
	for i, hour := range hours {
		literals[i] = sqlTime(hour)
	}
	uncovered, err := s.uncovered(ctx, append(clauses{"hour IN (" + strings.Join(literals, ", ") + ")"}, more...).String())
	if err != nil {
		return nil, err
	}
	var list []reporter.StaleHour
	subjects, all, last := subjectSet{}, false, uint64(0)
	finish := func() {
		if n := len(list); n > 0 && !all {
			list[n-1].Subjects = slices.Sorted(maps.Keys(subjects))
		}
		subjects, all, last = subjectSet{}, false, 0
	}
	query := "SELECT hour, touch, subjects, everybody FROM touches WHERE " + uncovered + " ORDER BY hour, touch"
	err = s.each(ctx, query, func(rows driver.Rows) error {
		var hour time.Time
		var id uint64
		var names []string
		var everybody uint8
		if err := rows.Scan(&hour, &id, &names, &everybody); err != nil {
			return err
		}
		if w := meter.HourOf(hour); len(list) == 0 || list[len(list)-1].Hour != w {
			finish()
			list = append(list, reporter.StaleHour{Hour: w})
		}
		h := &list[len(list)-1]
		if len(h.Touches) == 0 || id != last { // an insert that was repeated by the network
			h.Touches = append(h.Touches, id)
		}
		last = id
		for _, name := range names {
			subjects[name] = struct{}{}
		}
		all = all || everybody == 1 || len(subjects) > staleSubjects
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read touches: %w", err)
	}
	finish()
	return list, nil
}

// repairVoids writes the touches of voids that were interrupted between their rows and their touches. young says that
// there are some of which that can't be said yet.
func (s *Store) repairVoids(ctx context.Context, now time.Time) (young bool, err error) {
	var list []touch
	query := "SELECT hour, void, subject, max(at) FROM event_voids WHERE (hour, void) " + s.global +
		"NOT IN (SELECT hour, touch FROM touches WHERE reason = " + quote(touchMarker) + ") GROUP BY hour, void, subject"
	err = s.each(ctx, query, func(rows driver.Rows) error {
		var hour, at time.Time
		var void uint64
		var subject string
		if err := rows.Scan(&hour, &void, &subject, &at); err != nil {
			return err
		}
		if at.Add(voidWriteLimit).After(now) {
			young = true
			return nil
		}
		list = append(list, newTouch(hour.Unix(), []string{subject}, touchVoid), touch{hour: hour.Unix(), id: void, subjects: []string{subject}, reason: touchMarker})
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("look for voids without touches: %w", err)
	}
	if len(list) == 0 {
		return young, nil
	}
	if err := s.writeTouches(ctx, list); err != nil {
		return false, fmt.Errorf("write touches of voids: %w", err)
	}
	s.logger.Warn("touches of interrupted voids written", "touches", len(list))
	return young, nil
}
