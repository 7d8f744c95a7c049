package meter

import (
	"time"
)

// StampedLookback is how far back an event without a time is recognised as a retry of one that was counted in an earlier
// hour.
const StampedLookback = 24 * time.Hour

// TimedValue is one deduplicated event's value of a meter.
type TimedValue struct {
	Time, Received int64 // nanoseconds since 1970
	Quantity       Quantity
	Text           string // for UniqueCount
}

// Aggregate computes the usage of one subject and window from its values: the definition that the store's SQL is tested
// against. Latest takes the value with the greatest time and, among those of one time, the one received last. The usage
// of no values is zero.
func Aggregate(a Aggregation, values []TimedValue) Quantity {
	if len(values) == 0 {
		return Quantity{}
	}
	switch a {
	case Count:
		return NewQuantity(int64(len(values)), 0)
	case UniqueCount:
		texts := map[string]struct{}{}
		for _, v := range values {
			texts[v.Text] = struct{}{}
		}
		return NewQuantity(int64(len(texts)), 0)
	case Sum:
		var sum Quantity
		for _, v := range values {
			sum = sum.Add(v.Quantity)
		}
		return sum
	case Max, Min, Latest:
	}
	chosen := values[0]
	for _, v := range values[1:] {
		if replaces(a, v, chosen) {
			chosen = v
		}
	}
	return chosen.Quantity
}

// replaces reports whether v is chosen over the value chosen so far.
func replaces(a Aggregation, v, chosen TimedValue) bool {
	switch a {
	case Max:
		return v.Quantity.Cmp(chosen.Quantity) > 0
	case Min:
		return v.Quantity.Cmp(chosen.Quantity) < 0
	case Latest:
		return v.Time > chosen.Time || (v.Time == chosen.Time && v.Received > chosen.Received)
	case Sum, Count, UniqueCount:
	}
	return false
}

// identity is what makes two rows the same event.
type identity struct {
	subject string
	key     EventKey
	hour    int64
}

// Deduplicate returns the rows that count, in their order: the definition that the store's SQL is tested against.
//
// Of the rows with one subject, hour, source and id, the one received first counts (of several received at one time, which
// one spool can't bring about, the one with the smaller digest). Of what is left, a row that we stamped does not count if
// there is a stamped row with its subject, source and id, counted or not, in one of the hours up to lookback before: it
// is a retry across an hour's end, of an event whose time nobody knew.
func Deduplicate(rows *EventRows, lookback time.Duration) []int {
	first := map[identity]int{}
	stamped := map[identity]bool{}
	for i := range rows.Len() {
		id := identityOf(rows, i)
		if other, seen := first[id]; !seen || receivedBefore(rows, i, other) {
			first[id] = i
		}
		stamped[id] = stamped[id] || rows.Stamped[i]
	}
	hours := int64(lookback / time.Hour)
	var counted []int
	for i := range rows.Len() {
		id := identityOf(rows, i)
		retry := rows.Stamped[i] && stampedBefore(stamped, id, hours)
		if first[id] == i && !retry {
			counted = append(counted, i)
		}
	}
	return counted
}

func identityOf(rows *EventRows, i int) identity {
	return identity{string(rows.Subject[i]), rows.Key[i], hourNumber(rows.Time[i])}
}

func receivedBefore(rows *EventRows, i, other int) bool {
	if rows.Received[i] != rows.Received[other] {
		return rows.Received[i] < rows.Received[other]
	}
	return rows.Content[i] < rows.Content[other]
}

// stampedBefore reports whether a stamped row with the identity is in one of the hours before.
func stampedBefore(stamped map[identity]bool, id identity, hours int64) bool {
	for range hours {
		id.hour--
		if stamped[id] {
			return true
		}
	}
	return false
}

// hourNumber counts hours since 1970, rounding down.
func hourNumber(at int64) int64 {
	n := at / int64(time.Hour)
	if at%int64(time.Hour) < 0 {
		n--
	}
	return n
}

// SubjectUsage is the usage of one subject.
type SubjectUsage struct {
	Quantity Quantity
	Events   uint64
}

// AggregateRows computes a meter's usage in a window for each subject from stored rows, duplicates included. It is the
// reference for tests of stores, not for production: it holds everything in memory.
func AggregateRows(rows *EventRows, m Meter, w Window, lookback time.Duration) map[string]SubjectUsage {
	values := map[int]*EventValue{}
	fingerprint := m.Fingerprint()
	for i := range rows.Values {
		if v := &rows.Values[i]; v.Meter == fingerprint {
			values[v.Row] = v
		}
	}
	bySubject := map[string][]TimedValue{}
	for _, row := range Deduplicate(rows, lookback) {
		v := values[row]
		if v == nil || !w.Contains(time.Unix(0, rows.Time[row])) {
			continue
		}
		subject := string(rows.Subject[row])
		bySubject[subject] = append(bySubject[subject], TimedValue{
			Time: rows.Time[row], Received: rows.Received[row], Quantity: v.Quantity, Text: string(v.Text),
		})
	}
	usage := make(map[string]SubjectUsage, len(bySubject))
	for subject, list := range bySubject {
		usage[subject] = SubjectUsage{Quantity: Aggregate(m.Aggregation, list), Events: uint64(len(list))}
	}
	return usage
}
