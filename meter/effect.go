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
	Events  uint64       `json:"events"`
	Already uint64       `json:"already"`
	Lines   []EffectLine `json:"lines"` // by hour, subject, meter; only those that change
	// Token names the request together with this effect. Committing needs it, so that nobody commits what was not previewed.
	Token string `json:"token"`
}
