package meter

import "time"

// VoidRequest selects stored events that are to count no more. Subject and at least one of IDs and the period are required.
type VoidRequest struct {
	Subject string
	// Source and IDs name single events; all of them have the source.
	Source string
	IDs    []string
	// Type limits the selection to events of one type; "" means any.
	Type string
	// From and To bound the events' time, half-open. Both zero: any time within the store's retention of open books.
	From, To time.Time
}

// EffectLine is what a backfill or void changes for one hour, subject and meter.
type EffectLine struct {
	Hour    Window   `json:"hour"`
	Subject string   `json:"subject"`
	Meter   string   `json:"meter"`
	Before  Quantity `json:"before"`
	After   Quantity `json:"after"`
	// Closed says that the hour was billed already: the difference will be booked by the meter's policy.
	Closed bool `json:"closed"`
}

// Effect is what a backfill or void would do, or did.
type Effect struct {
	// Events is how many events it concerns; Already how many of them make no difference: stored before (backfill) or void
	// already.
	Events  uint64 `json:"events"`
	Already uint64 `json:"already"`
	// Conflicts is how many of a backfill's events would be stored and not count, because another event has their identity
	// (see NotCountedConflict, NotCountedRetry) or because their identity is void.
	Conflicts uint64       `json:"conflicts"`
	Lines     []EffectLine `json:"lines"` // by hour, subject, meter; only those that change
	// Token names the request together with this effect. Committing needs it, so that nobody commits what was not previewed.
	Token string `json:"token"`
}

// Why a stored event doesn't count.
const (
	// NotCountedConflict: another event with its source, id and hour was received earlier.
	NotCountedConflict = "conflict"
	// NotCountedRetry: it came without a time, and so did the same source and id in an hour before.
	NotCountedRetry = "retry"
	// NotCountedVoid: somebody voided it.
	NotCountedVoid = "void"
)

// UsageEvent is one stored event as it bears on the usage of one hour, subject and meter.
type UsageEvent struct {
	Source   string    `json:"source"`
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Received time.Time `json:"received"`
	// Stamped says that it came without a time: Time is that of its receipt.
	Stamped bool `json:"stamped,omitempty"`
	// HasValue is false when the meter could not take a value from it; then Quantity is zero. Text is the value of a
	// unique count.
	HasValue bool     `json:"has_value"`
	Quantity Quantity `json:"quantity"`
	Text     string   `json:"text,omitempty"`
	// Copies is how many rows of this event are stored just now; more than one are duplicates, which count once.
	Copies uint64 `json:"copies"`
	// Counts says whether it counts; if not, Why is one of the NotCounted constants, and Reason, Actor are the void's.
	Counts bool   `json:"counts"`
	Why    string `json:"why,omitempty"`
	Actor  string `json:"actor,omitempty"`
	Reason string `json:"reason,omitempty"`
}
