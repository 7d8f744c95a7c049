package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/meterd/meterd/meter"
)

// ErrFuture is returned when windows are to be closed that have not ended by the clock.
var ErrFuture = errors.New("a window can't be closed before it has ended")

// Flusher brings every event that was accepted so far into the store. It is the barrier before closing.
type Flusher interface {
	// Flush returns nil once every event accepted before the call is in the store and visible to its queries.
	Flush(ctx context.Context) error
}

// CloserOptions are what a [Closer] needs. Books, Mapper, Rules, Seller, Now and Logger are required.
type CloserOptions struct {
	Books WindowBooks
	// Flusher is the barrier before closing; nil when events go into the store directly.
	Flusher Flusher
	// Meters are all meters: hourly usage is kept of each, bill records are made of those that are billed.
	Meters []meter.Meter
	Mapper *Mapper
	// Rules are the marketplace's: records that break them are held, not sent.
	Rules Rules
	// Seller is the configured name of the seller account, part of every record's number.
	Seller string
	// Grace is how long after its end a window stays open.
	Grace time.Duration
	// FlushTimeout bounds the barrier; 0 means 2 m.
	FlushTimeout time.Duration
	// ChunkRows bounds how many rows are kept in memory and written at once; 0 means 10,000.
	ChunkRows int
	Now       func() time.Time
	Logger    *slog.Logger
	Observer  Observer // nil: nobody
}

// ClosedSummary tells what a call of [Closer.CloseDue] did.
type ClosedSummary struct {
	Windows int          `json:"windows"`
	First   meter.Window `json:"first"` // zero when Windows is 0
	Last    meter.Window `json:"last"`
	Events  uint64       `json:"events"`
	Usages  uint64       `json:"usages"`
	Records uint64       `json:"records"`
	// States counts the records by their first state.
	States map[State]uint64 `json:"states,omitempty"`
}

// add counts one more closed window.
func (s *ClosedSummary) add(c Booking, states map[State]uint64) {
	if s.Windows == 0 {
		s.First = c.Window
		s.States = map[State]uint64{}
	}
	s.Windows++
	s.Last = c.Window
	s.Events += c.Events
	s.Usages += c.Usages
	s.Records += c.Records
	for state, n := range states {
		s.States[state] += n
	}
}

// Closer closes hour windows: it computes their usage and writes their bill records. Nothing it writes counts before the
// window's close is written, so it may be interrupted anywhere and started again. It is safe for concurrent use; calls
// run one after the other.
type Closer struct {
	o      CloserOptions
	meters map[string]meter.Meter // by slug
	log    *slog.Logger
	turn   chan struct{} // holds one token; whoever took it may close

	lastVersion uint64 // guarded by turn

	mu         sync.Mutex
	lastClosed Booking // as far as this process knows
}

// NewCloser checks the options and reports every fault at once.
func NewCloser(o CloserOptions) (*Closer, error) {
	if o.Books == nil || o.Mapper == nil || o.Rules == nil || o.Now == nil || o.Logger == nil {
		return nil, errors.New("closer: Books, Mapper, Rules, Now and Logger are required")
	}
	setDefault(&o.FlushTimeout, 2*time.Minute)
	if o.ChunkRows == 0 {
		o.ChunkRows = 10_000
	}
	if o.Observer == nil {
		o.Observer = NopObserver{}
	}
	c := &Closer{
		o: o, meters: make(map[string]meter.Meter, len(o.Meters)), log: o.Logger.With("component", "closer"),
		turn: make(chan struct{}, 1),
	}
	var errs []error
	if o.Seller == "" {
		errs = append(errs, errors.New("closer: the seller needs a name; it is part of every record's number"))
	}
	if o.Grace < 0 || o.FlushTimeout < 0 || o.ChunkRows < 0 {
		errs = append(errs, errors.New("closer: grace, flush timeout and chunk size must not be negative"))
	}
	for _, m := range o.Meters {
		c.meters[m.Slug] = m
		errs = append(errs, checkScale(m, o.Rules.Limits().Scale))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// checkScale makes sure that a remainder fits the decimals that the store keeps: Billed × Scale has the decimals of both.
func checkScale(m meter.Meter, decimals int32) error {
	if !m.Billed {
		return nil
	}
	if m.Scale.Sign() <= 0 {
		return fmt.Errorf("meter %q: scale must be positive (got %s)", m.Slug, m.Scale)
	}
	if finest := meter.QuantityScale - decimals; -m.Scale.Decimal().Exponent() > finest {
		return fmt.Errorf("meter %q: scale has more than %d decimals (got %s); use a coarser unit", m.Slug, finest, m.Scale)
	}
	return nil
}

// CloseDue closes, oldest first, every window that has not been closed yet and whose end lies at least the grace period
// before until. It starts after the last closed window, or at the first stored event when nothing was closed yet, and
// closes empty hours too. An until beyond the clock is refused with an error that wraps [ErrFuture]. When the barrier fails or
// takes too long nothing is closed. The summary counts what was closed, also when an error ended the call.
func (c *Closer) CloseDue(ctx context.Context, until time.Time) (ClosedSummary, error) {
	return c.closeSome(ctx, until, 0)
}

// closeSome is CloseDue for at most limit windows; 0 means all.
func (c *Closer) closeSome(ctx context.Context, until time.Time, limit int) (ClosedSummary, error) {
	var sum ClosedSummary
	if now := c.o.Now(); until.After(now) {
		return sum, fmt.Errorf("close windows until %s: it is only %s: %w",
			until.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), ErrFuture)
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return sum, ctx.Err()
	}
	next, version, err := c.start(ctx, until)
	if err != nil {
		return sum, err
	}
	for !next.IsZero() && c.due(next, until) && (limit == 0 || sum.Windows < limit) {
		closed, states, err := c.closeWindow(ctx, next, version)
		if err != nil {
			return sum, fmt.Errorf("close window %s: %w", next, err)
		}
		sum.add(closed, states)
		version = closed.Version
		next = next.Next()
	}
	return sum, nil
}

// LastClosed returns the last closed window as far as this process knows: zero before its first look into the books.
func (c *Closer) LastClosed() Booking {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastClosed
}

func (c *Closer) setLastClosed(w Booking) {
	c.mu.Lock()
	c.lastClosed = w
	c.mu.Unlock()
}

// due reports whether w may be closed at until.
func (c *Closer) due(w meter.Window, until time.Time) bool { return !w.End.Add(c.o.Grace).After(until) }

// start finds the first window to close and passes the barrier when there is one to close. The zero window means none.
func (c *Closer) start(ctx context.Context, until time.Time) (w meter.Window, version uint64, err error) {
	last, ok, err := c.o.Books.LastClosed(ctx)
	if err != nil {
		return w, 0, fmt.Errorf("read last closed window: %w", err)
	}
	if ok {
		c.setLastClosed(last)
	}
	if ok && !c.due(last.Window.Next(), until) {
		return w, 0, nil
	}
	if err := c.flush(ctx); err != nil {
		return w, 0, err
	}
	if ok {
		return last.Window.Next(), last.Version, nil
	}
	// Only now: the very first events may still have been in the spool.
	w, ok, err = c.o.Books.FirstEventHour(ctx)
	if err != nil {
		return w, 0, fmt.Errorf("read hour of the first event: %w", err)
	}
	if !ok {
		return meter.Window{}, 0, nil
	}
	return w, 0, nil
}

// flush passes the barrier.
func (c *Closer) flush(ctx context.Context) error {
	if c.o.Flusher == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.FlushTimeout)
	defer cancel()
	if err := c.o.Flusher.Flush(ctx); err != nil {
		return fmt.Errorf("nothing was closed because accepted events did not reach the store within %s: %w", c.o.FlushTimeout, err)
	}
	return nil
}

// nextVersion returns a version for a close of w that is higher than every version used before: by this process, by the
// last close, and by closes of w that were interrupted, as far as the books can tell.
func (c *Closer) nextVersion(_ context.Context, w meter.Window, floor uint64) (uint64, error) {
	_ = w
	version := max(c.lastVersion, floor) + 1
	if ns := c.o.Now().UnixNano(); ns > 0 {
		version = max(version, uint64(ns))
	}
	c.lastVersion = version
	return version, nil
}

// closeWindow closes one window. When two subjects turn out to share an instance only after one of their records was
// written, that version is abandoned, and a second pass holds both.
func (c *Closer) closeWindow(ctx context.Context, w meter.Window, floor uint64) (Booking, map[State]uint64, error) {
	began := c.o.Now()
	contested := map[string][]SubjectMeter{}
	for {
		version, err := c.nextVersion(ctx, w, floor)
		if err != nil {
			return Booking{}, nil, err
		}
		cl := newClosing(c, w, version, contested)
		closed, err := cl.run(ctx)
		if err != nil {
			return Booking{}, nil, err
		}
		if len(cl.collisions) > 0 {
			maps.Copy(contested, cl.collisions)
			floor = version
			continue
		}
		last, _, err := c.o.Books.LastBooking(ctx)
		if err != nil {
			return Booking{}, nil, fmt.Errorf("read last booking: %w", err)
		}
		closed.Number = last.Number + 1
		if err := c.o.Books.Commit(ctx, closed); err != nil {
			return Booking{}, nil, fmt.Errorf("commit booking %d: %w", closed.Number, err)
		}
		c.setLastClosed(closed)
		c.report(closed, cl, c.o.Now().Sub(began))
		return closed, cl.states, nil
	}
}

// report tells people and metrics about a closed window.
func (c *Closer) report(closed Booking, cl *closing, took time.Duration) {
	c.log.Info("window closed", "window_start", closed.Window.Start, "events", closed.Events, "usages", closed.Usages,
		"records", closed.Records, "pending", cl.states[StatePending], "carried", cl.states[StateCarried],
		"held", cl.states[StateHeld], "version", closed.Version, "took", took)
	for _, h := range cl.heldSample {
		c.log.Warn("bill record held, a person must act", "record_id", h.SN, "instance_id", h.InstanceID, "subject", h.Subject,
			"meter", h.Meter, "window_start", h.Window.Start, "reason", h.Last.Message)
	}
	if held := cl.states[StateHeld]; held > uint64(len(cl.heldSample)) {
		c.log.Warn("more bill records held in this window; list the records in state held", "window_start", closed.Window.Start,
			"held", held)
	}
	for _, state := range States() {
		if n := cl.states[state]; n > 0 {
			c.o.Observer.RecordsChanged(state, int(n)) //nolint:gosec // a count of records
		}
	}
	c.o.Observer.Booked(closed, took)
}
