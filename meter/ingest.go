package meter

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

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

// Spool is the durable queue behind the ingester; package meter/spool implements it.
type Spool interface {
	// Append returns only after the payload is on disk.
	Append(ctx context.Context, payload []byte, events int) (Position, error)
}

// Confirmer waits for the store; [Loader] implements it.
type Confirmer interface {
	// WaitConfirmed has everything up to pos inserted at once and returns when the store has confirmed it.
	WaitConfirmed(ctx context.Context, pos Position) error
}

// Ack says when an event counts as accepted.
type Ack uint8

// When to acknowledge.
const (
	AckSpool Ack = iota // on this machine's disk
	AckStore            // confirmed by the store
)

// Mode says what becomes of the good events of a request with bad ones.
type Mode uint8

// Modes of [Ingester.Accept].
const (
	AllOrNothing Mode = iota // one bad event refuses the request
	KeepGood                 // good events are kept, bad ones are refused one by one
)

// IngestOptions configure an [Ingester]. Catalog, Spool, Now and Logger are required.
type IngestOptions struct {
	Catalog *Catalog
	Spool   Spool
	// Ack = AckStore needs a Confirmer.
	Ack       Ack
	Confirmer Confirmer
	// DeadLetters keeps refused events; nil keeps none.
	DeadLetters *DeadLetters
	// MaxFuture and MaxAge bound an event's time around now; zero means no bound.
	MaxFuture, MaxAge time.Duration
	// ReceivedAfter is the latest time at which this spool took a record before the restart; zero for a new one.
	ReceivedAfter time.Time
	Now           func() time.Time
	Logger        *slog.Logger
}

// Status is what became of one event of a request.
type Status uint8

// Statuses.
const (
	StatusRefused      Status = iota // with all others, because another event of the request was bad: not stored
	StatusRejected                   // bad; see the problem with its index
	StatusAccepted                   // durable
	StatusDuplicate                  // durable, but the same as an earlier event of this request: counts once
	StatusConflict                   // durable, but another event of this request has the same identity and other content: the first counts
	StatusWithoutMeter               // durable, but no meter has its type: kept as a raw event
)

// String is the name used in the API.
func (s Status) String() string { return "" }

// Verdicts are the answer to a batch. They belong to the Batch and are valid until it is released.
type Verdicts struct {
	// Statuses has one entry for each event of the request, by its index.
	Statuses []Status
	// Problems are those of the batch and those found here, by Index.
	Problems []Problem
	// Stored says that the accepted events are durable. It is false if the request was refused as a whole or had no
	// good event.
	Stored bool
	// Counts by status, and of events that came without a time.
	Accepted, Duplicates, Conflicts, WithoutMeter, Rejected, Stamped int
	// Position is where the events are in the spool; for [Confirmer.WaitConfirmed].
	Position Position
	// ReceivedAt is the time of receipt of the first event.
	ReceivedAt time.Time
}

// Ingester checks decoded events and makes them durable. It is safe for concurrent use.
type Ingester struct{}

// NewIngester checks the options.
func NewIngester(opts IngestOptions) (*Ingester, error) { return nil, errNotImplemented }

// Accept applies the rules to a batch and makes the good events durable: it returns after the spool (or, with AckStore,
// the store) has them. traceparent is the W3C trace context of the request or empty. Verdicts say what became of each
// event; the error is one of ErrSpoolFull, ErrClosed, ErrUnavailable, ErrBatchTooLarge or the context's, and then
// nothing is acknowledged.
func (in *Ingester) Accept(ctx context.Context, b *Batch, traceparent string, mode Mode) (Verdicts, error) {
	return Verdicts{}, errNotImplemented
}

// IngestStats are counts since start. Maps are the caller's.
type IngestStats struct {
	Batches      uint64            // requests made durable
	Accepted     uint64            // events made durable, duplicates and conflicts included
	Duplicates   uint64            // of these, duplicates within one request
	Conflicts    uint64            // of these, conflicts within one request
	WithoutMeter uint64            // of these, events whose type no meter has
	Stamped      uint64            // of these, events that came without a time
	Rejected     map[Reason]uint64 // refused events by reason
	Refused      uint64            // good events refused because of others in their request
	Failed       map[string]uint64 // events not made durable, by cause: full, closed, unavailable, too_large, canceled
}

// Stats returns the counts; it is cheap enough to be called on every scrape.
func (in *Ingester) Stats() IngestStats { return IngestStats{} }

type scratch struct{}

var errNotImplemented = errors.New("not implemented")
