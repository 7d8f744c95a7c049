package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
)

const (
	// maxPreviewStored is how many stored events a preview of a backfill may have to count again.
	maxPreviewStored = 200_000
	// maxPreviewPairs is how many pairs of hour and subject it may concern.
	maxPreviewPairs = 50_000
	// pairChunk is how many of them one query names.
	pairChunk = 1000
)

// PreviewBackfill computes what storing the rows would change, without storing them, by the reference rules over the stored
// events of the subjects and hours concerned. Every row must have a time of its own: what an event without one belongs to
// depends on when it is received. Config.Values must know the meters, as *meter.Catalog does. The error wraps [ErrBadQuery] if that is too much to count, or a row has no time.
func (s *Store) PreviewBackfill(ctx context.Context, rows *meter.EventRows) (meter.Effect, error) {
	meters, err := s.meters()
	if err != nil {
		return meter.Effect{}, fmt.Errorf("preview backfill: %w", err)
	}
	effect, err := s.previewBackfill(ctx, rows, meters)
	if err != nil {
		return meter.Effect{}, fmt.Errorf("preview backfill: %w", err)
	}
	return effect, nil
}

func (s *Store) previewBackfill(ctx context.Context, rows *meter.EventRows, meters []meter.Meter) (meter.Effect, error) {
	if err := checkLengths(rows); err != nil {
		return meter.Effect{}, fmt.Errorf("%w: %w", ErrBadQuery, err)
	}
	b := newPreview(meters)
	for i := range rows.Len() {
		if rows.Stamped[i] || rows.Time[i] < 0 || rows.Time[i]/int64(time.Second) > maxSeconds {
			return meter.Effect{}, fmt.Errorf("%w: event %d (id %q): every event of a backfill needs a time of its own, from 1970 on", ErrBadQuery, i, rows.ID[i])
		}
	}
	pairs := pairsOf(rows)
	if len(pairs) > maxPreviewPairs {
		return meter.Effect{}, fmt.Errorf("%w: the events concern %d pairs of hour and subject, more than %d: send fewer at once", ErrBadQuery, len(pairs), maxPreviewPairs)
	}
	if err := s.countStored(ctx, pairs); err != nil {
		return meter.Effect{}, err
	}
	for chunk := range slices.Chunk(pairs, pairChunk) {
		if err := s.loadPairs(ctx, b, chunk); err != nil {
			return meter.Effect{}, err
		}
	}
	if err := s.loadRetries(ctx, b); err != nil {
		return meter.Effect{}, err
	}
	if err := s.loadVoids(ctx, b, pairs); err != nil {
		return meter.Effect{}, err
	}
	stored := b.rows.Len()
	before := b.usage()
	b.addNew(rows)
	after := b.usage()
	effect := b.effect(stored)
	var err error
	if effect.Lines, err = s.effectLines(ctx, before, after); err != nil {
		return meter.Effect{}, err
	}
	effect.Token = backfillToken(rows, effect)
	return effect, nil
}

// backfillToken names what is to be stored and its effect. Times of receipt are left out: they differ at the commit.
func backfillToken(rows *meter.EventRows, effect meter.Effect) string {
	h := sha256.New()
	fmt.Fprintf(h, "meterd/backfill/1 %d\n", rows.Len())
	for i := range rows.Len() {
		fmt.Fprintf(h, "%q %x %d %d\n", rows.Subject[i], rows.Key[i], rows.Content[i], rows.Time[i])
	}
	fmt.Fprintf(h, "%d %d %d\n", effect.Events, effect.Already, effect.Conflicts)
	return hashLines(h, effect.Lines)
}

// hourSubject is one part of the books that a backfill concerns.
type hourSubject struct {
	hour    int64
	subject string
}

func pairsOf(rows *meter.EventRows) []hourSubject {
	seen := map[hourSubject]bool{}
	var pairs []hourSubject
	for i := range rows.Len() {
		p := hourSubject{eventHour(rows.Time[i]).Unix(), string(rows.Subject[i])}
		if !seen[p] {
			seen[p] = true
			pairs = append(pairs, p)
		}
	}
	slices.SortFunc(pairs, func(a, b hourSubject) int {
		return cmp.Or(cmp.Compare(a.hour, b.hour), cmp.Compare(a.subject, b.subject))
	})
	return pairs
}

// pairsWhere is the condition of rows of the pairs, which are in order.
func pairsWhere(pairs []hourSubject) clauses {
	terms := make([]string, len(pairs))
	for i, p := range pairs {
		terms[i] = "(" + sqlTime(time.Unix(p.hour, 0)) + ", " + quote(p.subject) + ")"
	}
	return clauses{
		"hour >= " + sqlTime(time.Unix(pairs[0].hour, 0)), "hour <= " + sqlTime(time.Unix(pairs[len(pairs)-1].hour, 0)),
		"(hour, subject) IN (" + strings.Join(terms, ", ") + ")",
	}
}

// countStored refuses what is too much to count.
func (s *Store) countStored(ctx context.Context, pairs []hourSubject) error {
	total := uint64(0)
	for chunk := range slices.Chunk(pairs, pairChunk) {
		var n uint64
		if err := s.conn.QueryRow(ctx, "SELECT count() FROM usage_events WHERE "+pairsWhere(chunk).String()).Scan(&n); err != nil {
			return fmt.Errorf("count stored events: %w", err)
		}
		total += n
	}
	if total > maxPreviewStored {
		return fmt.Errorf("%w: the hours and subjects concerned have %d stored events, more than %d: send the events of fewer hours or subjects at once",
			ErrBadQuery, total, maxPreviewStored)
	}
	return nil
}

// eventIdentity is what makes events the same, besides their content.
type eventIdentity struct {
	hourSubject
	key meter.EventKey
}

// preview holds the stored events of the pairs, and then the new ones behind them.
type preview struct {
	meters []meter.Meter
	rows   meter.EventRows // only the columns that deduplication needs
	values [][]meter.EventValue

	retries map[eventIdentity]bool // stamped, and so was the same in an hour before
	voids   map[eventIdentity]bool
	counted map[int]bool // rows that count, as of the last usage
}

func newPreview(meters []meter.Meter) *preview {
	return &preview{meters: meters, retries: map[eventIdentity]bool{}, voids: map[eventIdentity]bool{}}
}

func (b *preview) identity(i int) eventIdentity {
	return eventIdentity{hourSubject{eventHour(b.rows.Time[i]).Unix(), string(b.rows.Subject[i])}, b.rows.Key[i]}
}

func (b *preview) add(subject []byte, key meter.EventKey, content uint64, at, received int64, stamped bool, values []meter.EventValue) {
	r := &b.rows
	r.Subject, r.Key, r.Content = append(r.Subject, subject), append(r.Key, key), append(r.Content, content)
	r.Time, r.Received, r.Stamped = append(r.Time, at), append(r.Received, received), append(r.Stamped, stamped)
	b.values = append(b.values, values)
}

// addNew appends the rows of the backfill.
func (b *preview) addNew(rows *meter.EventRows) {
	first := 0
	for i := range rows.Len() {
		last := first
		for last < len(rows.Values) && rows.Values[last].Row == i {
			last++
		}
		b.add(rows.Subject[i], rows.Key[i], rows.Content[i], rows.Time[i], rows.Received[i], false, rows.Values[first:last])
		first = last
	}
}

// usage counts the rows by the reference rules.
func (b *preview) usage() usageTable {
	type group struct {
		hourSubject
		fingerprint uint64
	}
	groups := map[group][]meter.TimedValue{}
	b.counted = map[int]bool{}
	for _, i := range meter.Deduplicate(&b.rows, 0) {
		id := b.identity(i)
		if b.voids[id] || b.rows.Stamped[i] && b.retries[id] {
			continue
		}
		b.counted[i] = true
		for _, v := range b.values[i] {
			g := group{id.hourSubject, v.Meter}
			groups[g] = append(groups[g], meter.TimedValue{
				Time: b.rows.Time[i], Received: b.rows.Received[i], Quantity: v.Quantity, Text: string(v.Text),
			})
		}
	}
	usage := usageTable{}
	for g, values := range groups {
		for _, m := range b.meters {
			if m.Fingerprint() == g.fingerprint {
				usage[usageKey{g.hour, g.subject, m.Slug}] = meter.Aggregate(m.Aggregation, values)
			}
		}
	}
	return usage
}

// effect counts what happens to the new rows, which begin at an index.
func (b *preview) effect(stored int) meter.Effect {
	type sameEvent struct {
		eventIdentity
		content uint64
	}
	seen := make(map[sameEvent]bool, stored)
	var e meter.Effect
	for i := range b.rows.Len() {
		id := sameEvent{b.identity(i), b.rows.Content[i]}
		if i >= stored {
			e.Events++
			switch {
			case seen[id]:
				e.Already++
			case !b.counted[i]:
				e.Conflicts++
			}
		}
		seen[id] = true
	}
	return e
}

// loadPairs reads the stored events of pairs with their values.
func (s *Store) loadPairs(ctx context.Context, b *preview, pairs []hourSubject) error {
	lacks := []string{"0"}
	for _, m := range b.meters {
		lacks = append(lacks, lacking(m))
	}
	// The raw event is needed only where values are missing.
	query := "SELECT subject, event_key, content, toInt64(bitNot(version)), time, stamped, type, meters, quantities, texts," +
		" toUInt8(" + strings.Join(lacks, " OR ") + ") AS lack, if(lack = 1, source, ''), if(lack = 1, id, ''), if(lack = 1, data, ''), if(lack = 1, extensions, '')" +
		" FROM usage_events FINAL WHERE " + pairsWhere(pairs).String()
	return s.each(ctx, query, func(rows driver.Rows) error {
		var e storedEvent
		var received int64
		var key string
		var lack uint8
		err := rows.Scan(&e.subject, &key, &e.content, &received, &e.time, &e.stamped, &e.eventType, &e.meters, &e.quantities, &e.texts,
			&lack, &e.source, &e.id, &e.json, &e.extension)
		if err != nil {
			return err
		}
		var k meter.EventKey
		copy(k[:], key)
		values := e.values()
		if lack == 1 {
			more, err := s.missingValues(&e, b.meters)
			if err != nil {
				return err
			}
			values = append(values, more...)
		}
		b.add([]byte(e.subject), k, e.content, e.time, received, e.stamped == 1, values)
		return nil
	})
}

// storedEvent is a row of usage_events with its values.
type storedEvent struct {
	rawEvent

	quantities []decimal.Decimal
	texts      []string
}

// values are those stored with the event.
func (e *storedEvent) values() []meter.EventValue {
	values := make([]meter.EventValue, len(e.meters))
	for i, fingerprint := range e.meters {
		values[i] = meter.EventValue{Meter: fingerprint, Quantity: meter.QuantityFromDecimal(e.quantities[i]), Text: []byte(e.texts[i])}
	}
	return values
}

// missingValues computes the values of meters that were declared after the event was stored.
func (s *Store) missingValues(e *storedEvent, meters []meter.Meter) ([]meter.EventValue, error) {
	if s.cfg.Values == nil {
		return nil, ErrNotBackfilled
	}
	// Values that can't be taken are no error here either: the event doesn't count in that meter.
	all, _ := s.cfg.Values.Values(&meter.Event{
		ID: []byte(e.id), Source: []byte(e.source), Type: []byte(e.eventType), Subject: []byte(e.subject),
		Time: e.time, Stamped: e.stamped == 1, Data: []byte(e.json), Extensions: []byte(e.extension),
	})
	var missing []meter.EventValue
	for _, v := range all {
		if !slices.Contains(e.meters, v.Meter) && slices.ContainsFunc(meters, func(m meter.Meter) bool { return m.Fingerprint() == v.Meter }) {
			missing = append(missing, meter.EventValue{Meter: v.Meter, Quantity: v.Quantity, Text: slices.Clone(v.Text)})
		}
	}
	return missing, nil
}

// loadRetries finds the stored stamped events that are retries. New events have times of their own: they change nothing
// about it.
func (s *Store) loadRetries(ctx context.Context, b *preview) error {
	byHour := map[int64][]int{}
	for i, stamped := range b.rows.Stamped {
		if stamped {
			hour := eventHour(b.rows.Time[i]).Unix()
			byHour[hour] = append(byHour[hour], i)
		}
	}
	for hour, list := range byHour {
		at := time.Unix(hour, 0)
		for chunk := range slices.Chunk(list, pairChunk) {
			terms := make([]string, len(chunk))
			for n, i := range chunk {
				terms[n] = fmt.Sprintf("(%s, toFixedString(unhex('%x'), 16))", quote(string(b.rows.Subject[i])), b.rows.Key[i][:])
			}
			query := "SELECT DISTINCT subject, event_key FROM usage_events WHERE hour >= " + sqlTime(at.Add(-s.cfg.StampedLookback)) +
				" AND hour < " + sqlTime(at) + " AND stamped = 1 AND (subject, event_key) IN (" + strings.Join(terms, ", ") + ")"
			err := s.each(ctx, query, func(rows driver.Rows) error {
				id, err := scanIdentity(rows, hour)
				b.retries[id] = true
				return err
			})
			if err != nil {
				return fmt.Errorf("look for stamped retries: %w", err)
			}
		}
	}
	return nil
}

func scanIdentity(rows driver.Rows, hour int64, more ...any) (eventIdentity, error) {
	id := eventIdentity{hourSubject: hourSubject{hour: hour}}
	var key string
	if err := rows.Scan(append([]any{&id.subject, &key}, more...)...); err != nil {
		return id, err
	}
	copy(id.key[:], key)
	return id, nil
}

// loadVoids finds which identities are void.
func (s *Store) loadVoids(ctx context.Context, b *preview, pairs []hourSubject) error {
	if len(pairs) == 0 {
		return nil
	}
	stampedRows := map[eventIdentity]bool{}
	for i, stamped := range b.rows.Stamped {
		if stamped {
			stampedRows[b.identity(i)] = true
		}
	}
	query := "SELECT subject, event_key, hour, stamped FROM event_voids WHERE hour >= " + sqlTime(time.Unix(pairs[0].hour, 0)) +
		" AND hour <= " + sqlTime(time.Unix(pairs[len(pairs)-1].hour, 0).Add(s.cfg.StampedLookback))
	err := s.each(ctx, query, func(rows driver.Rows) error {
		var hour time.Time
		var stamped uint8
		id, err := scanIdentity(rows, 0, &hour, &stamped)
		if err != nil {
			return err
		}
		id.hour = hour.Unix()
		b.voids[id] = true
		for n := int64(1); stamped == 1 && n <= int64(s.cfg.StampedLookback/time.Hour); n++ {
			id.hour -= 3600
			if stampedRows[id] {
				b.retries[id] = true // counts as little as a retry, if it is the stamped row that would count
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for voids: %w", err)
	}
	return nil
}
