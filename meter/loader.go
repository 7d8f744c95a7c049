package meter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meterd/meterd/meter/spool"
)

// LoadSpool is what the loader needs of the spool; package meter/spool implements it.
type LoadSpool interface {
	NewReader(from Position) *spool.Reader
	// Confirm gives up everything before pos: the store has it.
	Confirm(pos Position) error
	Confirmed() Position
	Durable() Position
}

var _ LoadSpool = (*spool.Spool)(nil)

// Defaults of [LoaderOptions].
const (
	defaultBatchEvents = 100_000
	defaultBatchBytes  = 64 << 20
	defaultBatchDelay  = time.Second
	defaultInserters   = 2
	defaultRetryMin    = 100 * time.Millisecond
	defaultRetryMax    = 10 * time.Second
)

// LoaderOptions configure a [Loader]. Spool, Store, Catalog, Now and Logger are required.
type LoaderOptions struct {
	Spool   LoadSpool
	Store   EventStore
	Catalog *Catalog
	// DeadLetters takes the events that the store refuses. Without it they are retried for ever and hold up the rest:
	// an acknowledged event is never dropped.
	DeadLetters *DeadLetters
	BatchEvents int           // events in one insert; default 100,000. A request is never cut.
	BatchBytes  int           // size of their payloads, which bounds memory when events are large; default 64 MiB
	BatchDelay  time.Duration // longest wait for a full batch; default 1 s
	Inserters   int           // concurrent inserts; default 2
	// RetryMin and RetryMax bound the jittered, doubling wait between attempts; default 100 ms and 10 s.
	RetryMin, RetryMax time.Duration
	// Closed reports whether the hour that begins at the given time is already closed; nil: none is. It only serves to
	// count late events.
	Closed func(hour time.Time) bool
	// OnBatch is called before an insert with the trace contexts of some of its requests and its number of events; it
	// returns the context for the insert and a function that is called with its result. Nil: no tracing.
	OnBatch func(ctx context.Context, traceparents []string, events int) (context.Context, func(error))
	Now     func() time.Time
	Logger  *slog.Logger
}

// Loader moves events from the spool into the store. A reader fills the open batch; inserters take it when it is full,
// old enough or waited for, insert it, repeating for ever while the store fails, and confirm batches in the spool in
// their order. While all inserters are busy the open batch grows up to its bounds in events and bytes, then reading
// stops: memory is bounded by Inserters + 1 batches. It is safe for concurrent use.
type Loader struct {
	opts LoaderOptions

	mu       sync.Mutex
	wake     sync.Cond     // something of the fields below changed
	changed  chan struct{} // closed and replaced whenever a confirmation moved forward
	open     *loadBatch    // being filled
	inflight []*loadBatch  // taken, in the order of the spool
	free     []*loadBatch  // to be reused
	read     Position      // the reader's place
	waiting  []Position    // of WaitConfirmed
	running  bool          // Run was called
	stopped  chan struct{} // closed when Run has ended
	progress LoaderProgress

	inserts   atomic.Uint64 // that succeeded
	confirmMu sync.Mutex    // one confirmation at a time, so that they stay in order
}

// LoaderProgress is how far the loader is. The counts begin at start.
type LoaderProgress struct {
	Confirmed Position  // everything before it is in the store
	Oldest    time.Time // when the oldest record not yet in the store was appended; zero if there is none
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

// NewLoader checks the options; the error names everything that is missing.
func NewLoader(opts LoaderOptions) (*Loader, error) {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New(what))
		}
	}
	require(opts.Spool != nil, "a spool is required")
	require(opts.Store != nil, "a store is required")
	require(opts.Catalog != nil, "a catalog is required")
	require(opts.Now != nil, "a clock is required")
	require(opts.Logger != nil, "a logger is required")
	require(opts.BatchEvents >= 0 && opts.BatchBytes >= 0 && opts.BatchDelay >= 0 && opts.Inserters >= 0 && opts.RetryMin >= 0 && opts.RetryMax >= 0,
		"bounds must not be negative")
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("new loader: %w", err)
	}
	setDefault(&opts.BatchEvents, defaultBatchEvents)
	setDefault(&opts.BatchBytes, defaultBatchBytes)
	setDefault(&opts.BatchDelay, defaultBatchDelay)
	setDefault(&opts.Inserters, defaultInserters)
	setDefault(&opts.RetryMin, defaultRetryMin)
	setDefault(&opts.RetryMax, max(defaultRetryMax, opts.RetryMin))
	l := &Loader{opts: opts, changed: make(chan struct{}), stopped: make(chan struct{})}
	l.wake.L = &l.mu
	return l, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Run loads until ctx ends or the spool is closed. It returns ctx's error or ErrClosed, after all its goroutines ended.
// What was not yet confirmed is loaded again by the next loader; the store recognises it. A loader runs once.
func (l *Loader) Run(ctx context.Context) error {
	if err := l.start(); err != nil {
		return err
	}
	defer l.stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Everybody who waits on the condition looks at ctx again.
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.wake.Broadcast()
	})()
	var all sync.WaitGroup
	all.Go(func() { cancel(l.readAll(ctx)) })
	for range l.opts.Inserters {
		all.Go(func() { l.insertAll(ctx) })
	}
	all.Wait()
	return context.Cause(ctx)
}

func (l *Loader) start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running {
		return errors.New("run loader: it runs or ran already")
	}
	l.running = true
	l.open, l.inflight = l.newBatch(), nil
	l.read = l.opts.Spool.Confirmed()
	l.progress.Confirmed = l.read
	return nil
}

func (l *Loader) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open.ripen != nil {
		l.open.ripen.Stop()
	}
	close(l.stopped)
}

// Flush returns when everything that was durable in the spool at the call is confirmed by the store. It needs a running
// loader and waits for one that isn't started yet. The error is ctx's, or ErrClosed if the loader ended.
func (l *Loader) Flush(ctx context.Context) error {
	return l.WaitConfirmed(ctx, l.opts.Spool.Durable())
}

// recheck is how often a waiter looks at the spool by itself. It is only needed where the last records before pos turn
// out to be damaged: the spool then passes over them without the loader's doing.
const recheck = time.Second

// WaitConfirmed has everything up to pos inserted at once and returns when the store has confirmed it. It needs a
// running loader. The error is ctx's, or ErrClosed if the loader ended.
func (l *Loader) WaitConfirmed(ctx context.Context, pos Position) error {
	l.mu.Lock()
	l.waiting = append(l.waiting, pos)
	l.wake.Broadcast()
	l.mu.Unlock()
	defer l.stopWaiting(pos)
	timer := time.NewTicker(recheck)
	defer timer.Stop()
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if !l.opts.Spool.Confirmed().Before(pos) {
			return nil
		}
		select {
		case <-changed:
		case <-timer.C:
		case <-l.stopped:
			return fmt.Errorf("wait for the store: %w", ErrClosed)
		case <-ctx.Done():
			return fmt.Errorf("wait for the store: %w", ctx.Err())
		}
	}
}

func (l *Loader) stopWaiting(pos Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, p := range l.waiting {
		if p == pos {
			last := len(l.waiting) - 1
			l.waiting[i] = l.waiting[last]
			l.waiting = l.waiting[:last]
			return
		}
	}
}

// Progress returns a snapshot.
func (l *Loader) Progress() LoaderProgress {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.progress
	p.Confirmed = l.opts.Spool.Confirmed()
	switch {
	case len(l.inflight) > 0:
		p.Oldest = l.inflight[0].oldest
	case l.open != nil && l.open.events > 0:
		p.Oldest = l.open.oldest
	}
	return p
}

// failed notes a failed attempt.
func (l *Loader) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.progress.Retries++
	l.progress.LastError, l.progress.FailedAt = err.Error(), l.opts.Now()
}

// panicked turns a recovered panic into an error, which is retried like any other.
func (l *Loader) panicked(recovered any, stack []byte) error {
	l.opts.Logger.Error("loader panicked and goes on", "panic", fmt.Sprint(recovered), "stack", string(stack))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.progress.Panics++
	return fmt.Errorf("panic: %v", recovered)
}
