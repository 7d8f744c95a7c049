package meter

import (
	"context"
	"time"
)

// EventKey identifies an event within a subject: 16 bytes of SHA-256 over source and id ([KeyOf]). A cryptographic hash
// is used because ids may be chosen by the vendor's customers, who must not be able to make two events collide.
type EventKey [16]byte

// EventRows is a batch of events as columns of equal length, ready for the store. The byte slices are views that are
// valid only during the call that receives them.
type EventRows struct {
	Subject, Source, ID, Type [][]byte
	Key                       []EventKey
	// Content is [ContentDigest]: same key and other content is a conflict.
	Content []uint64
	// Time is the event's time and Received the time it was accepted, in nanoseconds since 1970 UTC. Received never
	// repeats or goes back within one spool, so "the first wins" has one meaning.
	Time, Received []int64
	// Stamped marks events that came without a time; theirs is Received, or the clock where that had gone back.
	Stamped []bool
	// Data is the event's data as JSON, Extensions the remaining attributes as a JSON object; empty if absent.
	Data, Extensions [][]byte

	// Values are the values of the meters that matched, for all rows, in row order.
	Values []EventValue
}

// EventValue is one meter's value of one event.
type EventValue struct {
	Row      int    // index into the columns of EventRows
	Meter    uint64 // Meter.Fingerprint
	Quantity Quantity
	Text     []byte // the value itself for unique_count
	// Dimensions are the values of Meter.GroupBy, in its order; an absent value is empty.
	Dimensions [][]byte
}

// Len is the number of events.
func (r *EventRows) Len() int { return len(r.Key) }

// EventStore keeps usage events for ever deduplicated by (subject, hour, source, id).
type EventStore interface {
	// InsertEvents writes the rows and returns nil only after the store confirmed that it holds every one of them.
	// Writing the same rows again, in any grouping, changes nothing. An error means nothing about what was
	// written: the caller repeats the call. An error that wraps ErrRefused means that repeating can't help.
	InsertEvents(ctx context.Context, rows *EventRows) error
}

// Query asks for a meter's usage over time.
type Query struct {
	Meter    Meter
	Subjects []string // empty: all
	From, To time.Time
	// WindowSize is MINUTE, HOUR, DAY or MONTH; empty means one window from From to To.
	WindowSize WindowSize
	// Zone decides where days and months begin; nil means UTC.
	Zone *time.Location
	// GroupBy names dimensions of the meter, or "subject".
	GroupBy []string
	// Filter keeps events whose dimension has one of the values.
	Filter map[string][]string
}

// WindowSize is the length of the windows of a query's answer.
type WindowSize string

// The window sizes of OpenMeter's query API.
const (
	WindowMinute WindowSize = "MINUTE"
	WindowHour   WindowSize = "HOUR"
	WindowDay    WindowSize = "DAY"
	WindowMonth  WindowSize = "MONTH"
)

// QueryRow is one line of the answer to a Query.
type QueryRow struct {
	Window  Window
	Subject string // "" when not grouped by subject
	Group   map[string]string
	Value   Quantity
	Events  uint64
}

// UsageReader answers questions about stored usage.
type UsageReader interface {
	// QueryMeter calls yield for each row, ordered by window, subject, group. Events in a query are deduplicated exactly
	// as in closing.
	QueryMeter(ctx context.Context, q Query, yield func(QueryRow) error) error
}
