package meter

// Event is one usage event, in the terms of CloudEvents 1.0. Its byte slices are views into memory that is reused: they
// are valid only as long as the [Batch] they belong to.
type Event struct {
	// ID and Source together identify the event for its sender; Type selects meters; Subject is the instance that used
	// something.
	ID, Source, Type, Subject []byte
	// Time is in nanoseconds since 1970 UTC. For an event that came without a time it is the time of receipt, and Stamped
	// is set.
	Time    int64
	Stamped bool
	// Data is the event's data as JSON, byte by byte as it was sent; nil if absent.
	Data []byte
	// Extensions is a JSON object of all other attributes; nil if there were none.
	Extensions []byte
}
