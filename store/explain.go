package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
)

// UsageEvents returns the stored events of one hour and subject that have the meter's type, by time, with the value that
// the meter takes from each and whether it counts: what stands behind a quantity. At most limit (1 to 10000), after the
// cursor of the page before, which is "" for the first; next is "" on the last page. Values of a meter that was declared
// after the events are computed by Config.Values. The error wraps [ErrBadQuery] for a cursor that is none.
func (s *Store) UsageEvents(ctx context.Context, hour meter.Window, subject string, m meter.Meter, after string, limit int) (list []meter.UsageEvent, next string, err error) {
	page := eventPage{store: s, hour: hour, subject: subject, meter: m, limit: min(max(limit, 1), 10_000)}
	if err := page.read(ctx, after); err != nil {
		return nil, "", fmt.Errorf("read events of %q, meter %s in %s: %w", subject, m.Slug, hour, err)
	}
	return page.list, page.next, nil
}

// eventPage is one page of events.
type eventPage struct {
	store   *Store
	hour    meter.Window
	subject string
	meter   meter.Meter
	limit   int

	list []meter.UsageEvent
	rows []pageRow // of list
	next string
}

// pageRow is the place of an event in the order of pages.
type pageRow struct {
	time    int64
	key     meter.EventKey
	content uint64
}

// cursor is the place as text.
func (r pageRow) cursor() string { return fmt.Sprintf("%d.%x.%d", r.time, r.key[:], r.content) }

func parseCursor(text string) (pageRow, error) {
	var r pageRow
	parts := strings.Split(text, ".")
	fault := fmt.Errorf("%w: %q is not a cursor of this list", ErrBadQuery, text)
	if len(parts) != 3 {
		return r, fault
	}
	key, err := hex.DecodeString(parts[1])
	if err != nil || len(key) != len(r.key) {
		return r, fault
	}
	copy(r.key[:], key)
	if r.time, err = strconv.ParseInt(parts[0], 10, 64); err != nil {
		return r, fault
	}
	if r.content, err = strconv.ParseUint(parts[2], 10, 64); err != nil {
		return r, fault
	}
	return r, nil
}

func (p *eventPage) read(ctx context.Context, after string) error {
	where := clauses{"type = " + quote(p.meter.EventType)}
	if after != "" {
		r, err := parseCursor(after)
		if err != nil {
			return err
		}
		key := fmt.Sprintf("toFixedString(unhex('%x'), 16)", r.key[:])
		where.add(fmt.Sprintf("(time > %d OR time = %[1]d AND (event_key > %s OR event_key = %[2]s AND content > %s))", r.time, key, sqlUint(r.content)))
	}
	sc := windowScope(p.hour)
	sc.subjects = []string{p.subject}
	e, err := p.store.probe(ctx, sc)
	if err != nil {
		return err
	}
	if err := p.store.each(ctx, p.query(e, where), p.take); err != nil {
		return err
	}
	if len(p.list) > p.limit {
		p.list, p.rows = p.list[:p.limit], p.rows[:p.limit]
		p.next = p.rows[p.limit-1].cursor()
	}
	if len(p.list) == 0 {
		return nil
	}
	if err := p.countCopies(ctx); err != nil {
		return err
	}
	if e.voids+e.stampedVoids > 0 {
		return p.addReasons(ctx)
	}
	return nil
}

// query selects one event more than the page has.
func (p *eventPage) query(e exceptions, where clauses) string {
	conflict, retry, void := "0", "0", "0"
	if e.conflicts > 0 {
		conflict = "(hour, subject, event_key, content) " + e.global + "IN (" + e.losers() + ")"
	}
	if e.repeats > 0 {
		retry = "stamped = 1 AND (hour, subject, event_key) " + e.global + "IN (" + e.retries() + ")"
	}
	if c := e.voidConditions(); len(c) > 0 {
		void = "NOT (" + c.String() + ")"
	}
	lack := "NOT has(meters, " + sqlUint(p.meter.Fingerprint()) + ")"
	return "SELECT event_key, content, toInt64(bitNot(version)), time, stamped, source, id, type, meters, quantities, texts," +
		" toUInt8(" + lack + ") AS lack, if(lack = 1, data, ''), if(lack = 1, extensions, '')," +
		" toUInt8(" + conflict + "), toUInt8(" + retry + "), toUInt8(" + void + ") FROM usage_events FINAL WHERE " +
		append(e.scope.where(), where...).String() + fmt.Sprintf(" ORDER BY time, event_key, content LIMIT %d", p.limit+1)
}

func (p *eventPage) take(rows driver.Rows) error {
	e := storedEvent{rawEvent: rawEvent{subject: p.subject}}
	var received int64
	var lack, conflict, retry, void uint8
	err := rows.Scan(&e.key, &e.content, &received, &e.time, &e.stamped, &e.source, &e.id, &e.eventType, &e.meters, &e.quantities, &e.texts,
		&lack, &e.json, &e.extension, &conflict, &retry, &void)
	if err != nil {
		return err
	}
	r := pageRow{time: e.time, content: e.content}
	copy(r.key[:], e.key)
	u := meter.UsageEvent{
		Source: e.source, ID: e.id, Time: time.Unix(0, e.time).UTC(), Received: time.Unix(0, received).UTC(), Stamped: e.stamped == 1,
	}
	// The void of a key is everybody's; then what the rules say of this row.
	switch {
	case void == 1:
		u.Why = meter.NotCountedVoid
	case conflict == 1:
		u.Why = meter.NotCountedConflict
	case retry == 1:
		u.Why = meter.NotCountedRetry
	default:
		u.Counts = true
	}
	values := e.values()
	if lack == 1 && p.store.cfg.Values != nil {
		if values, err = p.store.missingValues(&e, []meter.Meter{p.meter}); err != nil {
			return err
		}
	}
	if i := slices.IndexFunc(values, func(v meter.EventValue) bool { return v.Meter == p.meter.Fingerprint() }); i >= 0 {
		u.HasValue, u.Quantity, u.Text = true, values[i].Quantity, string(values[i].Text)
	}
	p.list, p.rows = append(p.list, u), append(p.rows, r)
	return nil
}

// countCopies counts the stored rows of each event of the page.
func (p *eventPage) countCopies(ctx context.Context) error {
	at := make(map[pageRow]int, len(p.rows))
	terms := make([]string, len(p.rows))
	for i, r := range p.rows {
		at[pageRow{key: r.key, content: r.content}] = i
		terms[i] = fmt.Sprintf("(toFixedString(unhex('%x'), 16), %s)", r.key[:], sqlUint(r.content))
	}
	for chunk := range slices.Chunk(terms, pairChunk) {
		query := "SELECT event_key, content, count() FROM usage_events WHERE hour = " + sqlTime(p.hour.Start) + " AND subject = " + quote(p.subject) +
			" AND (event_key, content) IN (" + strings.Join(chunk, ", ") + ") GROUP BY event_key, content"
		err := p.store.each(ctx, query, func(rows driver.Rows) error {
			var r pageRow
			var key string
			var n uint64
			if err := rows.Scan(&key, &r.content, &n); err != nil {
				return err
			}
			copy(r.key[:], key)
			if i, ok := at[r]; ok {
				p.list[i].Copies = n
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("count copies: %w", err)
		}
	}
	return nil
}

// addReasons names who voided events of the page, and why: the first of several voids.
func (p *eventPage) addReasons(ctx context.Context) error {
	at := map[meter.EventKey][]int{}
	for i, r := range p.rows {
		if p.list[i].Why == meter.NotCountedVoid {
			at[r.key] = append(at[r.key], i)
		}
	}
	if len(at) == 0 {
		return nil
	}
	var terms []string
	for key := range at {
		terms = append(terms, fmt.Sprintf("toFixedString(unhex('%x'), 16)", key[:]))
	}
	slices.Sort(terms)
	for chunk := range slices.Chunk(terms, pairChunk) {
		query := "SELECT event_key, argMin(actor, (hour, at, void)), argMin(reason, (hour, at, void)) FROM event_voids WHERE hour >= " + sqlTime(p.hour.Start) +
			" AND hour < " + sqlTime(p.hour.End.Add(p.store.cfg.StampedLookback)) + " AND subject = " + quote(p.subject) +
			" AND event_key IN (" + strings.Join(chunk, ", ") + ") GROUP BY event_key"
		err := p.store.each(ctx, query, func(rows driver.Rows) error {
			var text, actor, reason string
			if err := rows.Scan(&text, &actor, &reason); err != nil {
				return err
			}
			var key meter.EventKey
			copy(key[:], text)
			for _, i := range at[key] {
				p.list[i].Actor, p.list[i].Reason = actor, reason
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read voids: %w", err)
		}
	}
	return nil
}
