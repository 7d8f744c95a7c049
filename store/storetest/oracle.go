package storetest

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// The oracle computes from a list of events what the store must answer: the rules of store/counted.go and the
// aggregations, written down plainly a second time.

// identity is what makes events the same.
type identity struct {
	subject string
	key     meter.EventKey
}

// countedEvents returns the events of a window that count.
func countedEvents(events []event, w meter.Window, lookback time.Duration) []event {
	first := map[identity]event{}
	for _, e := range events {
		e = e.withDefaults()
		if !w.Contains(e.at) {
			continue
		}
		id := identity{e.subject, e.key()}
		if other, taken := first[id]; !taken || receivedBefore(e, other) {
			first[id] = e
		}
	}
	var counted []event
	for id, e := range first {
		if !e.stamped || !stampedBefore(events, id, w, lookback) {
			counted = append(counted, e)
		}
	}
	return counted
}

// receivedBefore orders by the time of receipt; ties by content.
func receivedBefore(a, b event) bool {
	if c := a.received.Compare(b.received); c != 0 {
		return c < 0
	}
	return a.content() < b.content()
}

// stampedBefore reports whether the same came without a time in the hours before w.
func stampedBefore(events []event, id identity, w meter.Window, lookback time.Duration) bool {
	return slices.ContainsFunc(events, func(e event) bool {
		e = e.withDefaults()
		return e.stamped && id == identity{e.subject, e.key()} &&
			e.at.Before(w.Start) && !meter.HourOf(e.at).Start.Before(w.Start.Add(-lookback))
	})
}

// aggregateEvents computes the usage of a window.
func aggregateEvents(catalog *meter.Catalog, meters []meter.Meter, events []event) []reporter.WindowUsage {
	type pair struct{ subject, meter string }
	type sample struct {
		event
		value meter.EventValue
	}
	samples := map[pair][]sample{}
	for _, e := range events {
		values, _ := catalog.Values(&meter.Event{Type: []byte(e.eventType), Data: []byte(e.data)})
		for _, v := range values {
			for _, m := range meters {
				if m.Fingerprint() == v.Meter {
					p := pair{e.subject, m.Slug}
					samples[p] = append(samples[p], sample{e, v})
				}
			}
		}
	}
	var usage []reporter.WindowUsage
	for _, m := range meters {
		for p, list := range samples {
			if p.meter != m.Slug {
				continue
			}
			slices.SortFunc(list, func(a, b sample) int {
				return cmp.Or(a.at.Compare(b.at), a.received.Compare(b.received), cmp.Compare(a.content(), b.content()))
			})
			values := make([]meter.EventValue, len(list))
			for i := range list {
				values[i] = list[i].value
			}
			usage = append(usage, reporter.WindowUsage{Subject: p.subject, Meter: p.meter, Quantity: aggregateValues(m.Aggregation, values), Events: uint64(len(list))})
		}
	}
	slices.SortFunc(usage, func(a, b reporter.WindowUsage) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Meter, b.Meter))
	})
	return usage
}

// aggregateValues aggregates values that are in order of time.
func aggregateValues(aggregation meter.Aggregation, values []meter.EventValue) meter.Quantity {
	var sum meter.Quantity
	low, high := values[0].Quantity, values[0].Quantity
	texts := [][]byte{}
	for _, v := range values {
		sum = sum.Add(v.Quantity)
		if v.Quantity.Cmp(low) < 0 {
			low = v.Quantity
		}
		if v.Quantity.Cmp(high) > 0 {
			high = v.Quantity
		}
		texts = append(texts, v.Text)
	}
	switch aggregation {
	case meter.Sum:
		return sum
	case meter.Count:
		return meter.NewQuantity(int64(len(values)), 0)
	case meter.Max:
		return high
	case meter.Min:
		return low
	case meter.Latest:
		return values[len(values)-1].Quantity
	case meter.UniqueCount:
		slices.SortFunc(texts, bytes.Compare)
		return meter.NewQuantity(int64(len(slices.CompactFunc(texts, bytes.Equal))), 0)
	}
	panic("unknown aggregation")
}
