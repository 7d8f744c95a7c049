// Package meter is the metering domain: usage events, meters, hour windows, exact quantities, the durable intake of
// events and their way into the store.
//
// The flow: an adapter decodes a request into a [Batch]; the ingester validates it against the meters and appends it
// to the spool (package meter/spool), which answers only once the bytes are on disk; the loader reads the spool, turns
// batches into [EventRows] and hands them to an [EventStore]; only what the store confirmed is confirmed in the spool.
//
// Invariants: an acknowledged event reaches the store at least once and counts exactly once, because the store
// identifies it by (subject, hour, source, id); no quantity is ever a float; all times are UTC; windows are half-open
// hours [Start, End). The package imports the standard library, the decimal type, and its own subpackages only.
package meter
