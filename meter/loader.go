package meter

import (
	"context"
	"log/slog"
	"time"
)

// LoaderOptions configure a [Loader]. Store, Catalog, Now and Logger are required.
type LoaderOptions struct {
	Store       EventStore
	Catalog     *Catalog
	DeadLetters *DeadLetters  // for rows that the store refuses
	BatchEvents int           // events in one insert; default 100,000
	BatchDelay  time.Duration // longest wait for a full batch; default 1 s
	Inserters   int           // concurrent inserts; default 2
	// RetryMin and RetryMax bound the jittered, doubling wait between attempts; default 100 ms and 10 s.
	RetryMin, RetryMax time.Duration
	// Closed reports whether the hour that begins at the given time is already closed; nil: none is. It only serves to count late events.
	Closed func(hour time.Time) bool
	// OnBatch is called before an insert with the trace contexts of its requests and its number of events; it returns
	// the context for the insert and a function that is called with its result. Nil: no tracing.
	OnBatch func(ctx context.Context, traceparents []string, events int) (context.Context, func(error))
	Now     func() time.Time
	Logger  *slog.Logger
}

// Loader moves events from the spool into the store. It is safe for concurrent use.
type Loader struct{}

// NewLoader checks the options.
func NewLoader(opts LoaderOptions) (*Loader, error) { return nil, errNotImplemented }

// Run loads until ctx ends. It returns ctx's error, after all its goroutines ended.
func (l *Loader) Run(ctx context.Context) error { return errNotImplemented }

// Flush returns when everything that was durable in the spool at the call is confirmed by the store.
func (l *Loader) Flush(ctx context.Context) error { return errNotImplemented }

// WaitConfirmed has everything up to pos inserted at once and returns when the store has confirmed it.
func (l *Loader) WaitConfirmed(ctx context.Context, pos Position) error { return errNotImplemented }

// LoaderProgress is how far the loader is.
type LoaderProgress struct {
	Confirmed Position  // everything before it is in the store
	Oldest    time.Time // when the oldest unconfirmed record was appended; zero if there is none
	LastError string    // of the last failed attempt; empty once an insert succeeded again
	FailedAt  time.Time // of LastError
	Batches   uint64    // inserts confirmed
	Events    uint64    // events confirmed by the store
	Retries   uint64    // failed attempts
	Refused   uint64    // events that the store refused, in the dead letters
	Late      uint64    // events of hours that were closed already
	NoValue   uint64    // values of a meter that could not be read from an accepted event
	Panics    uint64    // recovered
	Payloads  uint64    // undecodable payloads, in the dead letters
}

// Progress returns a snapshot.
func (l *Loader) Progress() LoaderProgress { return LoaderProgress{} }
