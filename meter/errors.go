package meter

import "errors"

// ErrRefused marks an error of a store or marketplace that repeating the same call can't cure.
var ErrRefused = errors.New("refused")

// ErrBadQuery marks a question to a store that can't be answered as asked; the message says what to change.
var ErrBadQuery = errors.New("bad query")

// ErrEffectChanged marks the commit of a preview whose effect doesn't hold any more; nothing was done.
var ErrEffectChanged = errors.New("the effect is not the one that was previewed: events or voids arrived, or the request differs; preview again")

// Errors of [Ingester.Accept]. Nothing of the batch counts as accepted; the client should send it again.
var (
	// ErrSpoolFull: the store has been behind for so long that the spool's bound is reached (HTTP 429, Retry-After).
	ErrSpoolFull = errors.New("spool is full")
	// ErrClosed: the service is shutting down (503).
	ErrClosed = errors.New("ingest is closed")
	// ErrUnavailable: the events could not be made durable (503).
	ErrUnavailable = errors.New("events could not be stored durably")
	// ErrBatchTooLarge: one event doesn't fit a record of the spool (413).
	ErrBatchTooLarge = errors.New("batch is too large for the spool")
)
