package reportertest

import (
	"cmp"
	"slices"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// eventsOf returns the window's events in order of arrival.
func (b *Books) eventsOf(w meter.Window) []storedEvent {
	var events []storedEvent
	for _, e := range b.events {
		if w.Contains(e.Time) {
			events = append(events, e)
		}
	}
	slices.SortFunc(events, func(x, y storedEvent) int { return cmp.Compare(x.order, y.order) })
	return events
}

// aggregate computes the usage of the window, ordered by subject, then meter.
func (b *Books) aggregate(w meter.Window, meters []meter.Meter) []reporter.WindowUsage {
	groups := map[reporter.SubjectMeter][]storedEvent{}
	bySlug := map[string]meter.Meter{}
	for _, m := range meters {
		bySlug[m.Slug] = m
	}
	for _, e := range b.eventsOf(w) {
		fed := map[string]bool{}
		for slug := range e.Values {
			fed[slug] = true
		}
		for slug := range e.Texts {
			fed[slug] = true
		}
		for slug := range fed {
			if _, wanted := bySlug[slug]; wanted {
				pair := reporter.SubjectMeter{Subject: e.Subject, Meter: slug}
				groups[pair] = append(groups[pair], e)
			}
		}
	}
	rows := make([]reporter.WindowUsage, 0, len(groups))
	for pair, events := range groups {
		rows = append(rows, reporter.WindowUsage{
			Subject: pair.Subject, Meter: pair.Meter, Events: uint64(len(events)),
			Quantity: aggregate(bySlug[pair.Meter], events),
		})
	}
	slices.SortFunc(rows, func(x, y reporter.WindowUsage) int {
		return cmp.Or(cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.Meter, y.Meter))
	})
	return rows
}

// aggregate makes one quantity of at least one event.
func aggregate(m meter.Meter, events []storedEvent) meter.Quantity {
	switch m.Aggregation {
	case meter.Count:
		return meter.NewQuantity(int64(len(events)), 0)
	case meter.UniqueCount:
		seen := map[string]bool{}
		for _, e := range events {
			seen[e.Texts[m.Slug]] = true
		}
		return meter.NewQuantity(int64(len(seen)), 0)
	case meter.Sum, meter.Max, meter.Min, meter.Latest:
	}
	result, latest := events[0].Values[m.Slug], events[0].Time
	for _, e := range events[1:] {
		v := e.Values[m.Slug]
		switch m.Aggregation {
		case meter.Max:
			if v.Cmp(result) > 0 {
				result = v
			}
		case meter.Min:
			if v.Cmp(result) < 0 {
				result = v
			}
		case meter.Latest:
			if !e.Time.Before(latest) { // of several with the same time the one that came last
				result, latest = v, e.Time
			}
		case meter.Sum, meter.Count, meter.UniqueCount:
			result = result.Add(v)
		}
	}
	return result
}
