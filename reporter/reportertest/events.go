package reportertest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Event is a usage event as the reference books keep it.
type Event struct {
	Source, ID, Subject string
	Time                time.Time
	// Received decides which of several contents counts; zero means the order of arrival in the books.
	Received time.Time
	// Stamped says that the event came without a time and Time is that of receipt.
	Stamped bool
	// Values are the values by meter slug, for the meters that the event feeds. For unique_count use Texts. Together they
	// are the event's content.
	Values map[string]meter.Quantity
	Texts  map[string]string
}

// Key returns what names the event.
func (e Event) Key() EventKey {
	return EventKey{Hour: meter.HourOf(e.Time).Start, Subject: e.Subject, Source: e.Source, ID: e.ID}
}

// content is a text that two events share if they say the same.
func (e Event) content() string {
	var text strings.Builder
	if !e.Stamped {
		text.WriteString(e.Time.UTC().Format(time.RFC3339Nano))
	}
	for _, slug := range slices.Sorted(maps.Keys(e.Values)) {
		fmt.Fprintf(&text, "|%q=%s", slug, e.Values[slug])
	}
	for _, slug := range slices.Sorted(maps.Keys(e.Texts)) {
		fmt.Fprintf(&text, "|%q=%q", slug, e.Texts[slug])
	}
	return text.String()
}

// EventKey names an event: the same source and id in the same subject and hour counts once.
type EventKey struct {
	Hour                time.Time
	Subject, Source, ID string
}

type storedEvent struct {
	Event
	order int64 // of arrival
}

// received is what decides which content counts.
func (e storedEvent) received() int64 {
	if e.Received.IsZero() {
		return e.order
	}
	return e.Received.UnixNano()
}

// touch says that something changed in an hour.
type touch struct {
	id       uint64
	hour     meter.Window
	subjects []string // nil: any
}

// SetClock gives the books a clock: then a touch is written only for hours that have ended or end within two minutes, as a
// store does. Without a clock, and that is so at first, every event and void makes a touch.
func (b *Books) SetClock(now func() time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = now
}

// AddEvent stores an event, touches what it may have changed, and reports whether its key is new.
func (b *Books) AddEvent(e Event) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	fresh := b.insert(e)
	b.touchFor(e)
	return fresh
}

// InsertOnly stores an event without the touch: the first half of [Books.AddEvent]. A store makes the two steps one after
// the other, and a close may come between.
func (b *Books) InsertOnly(e Event) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.insert(e)
}

// TouchFor is the second half of [Books.AddEvent].
func (b *Books) TouchFor(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.touchFor(e)
}

// AddUsage stores one event of a generated id that gives the meter of the subject the quantity at the time.
func (b *Books) AddUsage(subject, slug string, at time.Time, q meter.Quantity) {
	b.mu.Lock()
	id := fmt.Sprintf("generated-%d", b.order)
	b.mu.Unlock()
	b.AddEvent(Event{Source: "reportertest", ID: id, Subject: subject, Time: at, Values: map[string]meter.Quantity{slug: q}})
}

// Void makes events count no more, whatever their content and whether they came already or not, and touches their hours. It
// returns how many of the keys were not void before.
func (b *Books) Void(keys ...EventKey) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	fresh := 0
	for _, key := range keys {
		key.Hour = key.Hour.UTC()
		if !b.voids[key] {
			fresh++
			b.voids[key] = true
		}
		b.addTouch(meter.HourOf(key.Hour), key.Subject)
	}
	return fresh
}

func (b *Books) insert(e Event) bool {
	e.Time = e.Time.UTC()
	key := e.Key()
	known, content := b.events[key], e.content()
	b.order++
	stored := storedEvent{Event: e, order: b.order}
	for i, old := range known {
		if old.content() != content || old.Stamped != e.Stamped {
			continue
		}
		if stored.received() < old.received() {
			known[i] = stored
		}
		return false
	}
	if len(known) == 0 {
		b.byHour[key.Hour.Unix()] = append(b.byHour[key.Hour.Unix()], key)
	}
	b.events[key] = append(known, stored)
	return len(known) == 0
}

// touchFor touches the event's hour and, if it was stamped, the hours in which it may take the place of a retry.
func (b *Books) touchFor(e Event) {
	w := meter.HourOf(e.Time)
	b.addTouch(w, e.Subject)
	if !e.Stamped {
		return
	}
	for next := w.Next(); next.Start.Sub(w.Start) <= meter.StampedLookback; next = next.Next() {
		key := EventKey{Hour: next.Start, Subject: e.Subject, Source: e.Source, ID: e.ID}
		if len(b.events[key]) > 0 {
			b.addTouch(next, e.Subject)
		}
	}
}

func (b *Books) addTouch(hour meter.Window, subject string) {
	if b.now != nil && hour.End.After(b.now().Add(2*time.Minute)) {
		return
	}
	id := uint64(len(b.touches) + 1)
	b.touches = append(b.touches, touch{id: id, hour: hour, subjects: []string{subject}})
}

// counting returns the events of an hour that count, in order of arrival: of several contents of one key the one received
// first, not void, and not a stamped retry of a stamped event in an hour before.
func (b *Books) counting(hour meter.Window) []storedEvent {
	var events []storedEvent
	for _, key := range b.byHour[hour.Start.Unix()] {
		if b.voids[key] {
			continue
		}
		first := slices.MinFunc(b.events[key], func(x, y storedEvent) int {
			return cmp.Or(cmp.Compare(x.received(), y.received()), cmp.Compare(x.content(), y.content()))
		})
		if !first.Stamped || !b.isRetry(key) {
			events = append(events, first)
		}
	}
	slices.SortFunc(events, func(x, y storedEvent) int { return cmp.Compare(x.order, y.order) })
	return events
}

// isRetry reports whether the key was stamped in one of the hours before, within the lookback.
func (b *Books) isRetry(key EventKey) bool {
	for back := time.Hour; back <= meter.StampedLookback; back += time.Hour {
		earlier := key
		earlier.Hour = key.Hour.Add(-back)
		if slices.ContainsFunc(b.events[earlier], func(e storedEvent) bool { return e.Stamped }) {
			return true
		}
	}
	return false
}

// maxQuantity is the bound of what a store can hold in Decimal(38,18).
var maxQuantity = meter.NewQuantity(1, 38-meter.QuantityScale)

// aggregate computes the usage in the scope, ordered by subject, then meter.
func (b *Books) aggregate(sc reporter.Scope, meters []meter.Meter) []reporter.WindowUsage {
	values := map[reporter.Account][]meter.TimedValue{}
	aggregations := map[string]meter.Aggregation{}
	for _, m := range meters {
		aggregations[m.Slug] = m.Aggregation
	}
	for _, e := range b.counting(sc.Hour) {
		if sc.Subjects != nil && !slices.Contains(sc.Subjects, e.Subject) || !sc.Before.IsZero() && !e.Time.Before(sc.Before) {
			continue
		}
		for slug := range aggregations {
			q, number := e.Values[slug]
			text, isText := e.Texts[slug]
			if number || isText {
				a := reporter.Account{Subject: e.Subject, Meter: slug}
				values[a] = append(values[a], meter.TimedValue{
					Time: e.Time.UnixNano(), Received: e.received(), Quantity: q, Text: text,
				})
			}
		}
	}
	rows := make([]reporter.WindowUsage, 0, len(values))
	for a, list := range values {
		row := reporter.WindowUsage{
			Subject: a.Subject, Meter: a.Meter, Events: uint64(len(list)), Quantity: meter.Aggregate(aggregations[a.Meter], list),
		}
		if row.Quantity.Cmp(maxQuantity) >= 0 {
			row.Quantity, row.Overflow = meter.Quantity{}, true
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(x, y reporter.WindowUsage) int {
		return cmp.Or(cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Meter, y.Meter))
	})
	return rows
}
