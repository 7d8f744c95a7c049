package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// CloserBooks is the part of the ledger that a [Closer] needs.
type CloserBooks interface {
	WindowBooks
	// Records, Bookings and Adjustments are those of [RecordReader].
	Records(ctx context.Context, f RecordFilter) ([]BillRecord, error)
	Bookings(ctx context.Context, from, to time.Time) ([]Booking, error)
	Adjustments(ctx context.Context, f AdjustmentFilter) ([]Adjustment, error)
}

// CloserOptions are what a [Closer] needs. Books, Mapper, Rules, Seller, Now and Logger are required.
type CloserOptions struct {
	Books CloserBooks
	// Lives keeps the lives of instances; nil when nobody tells of them. Releases in it that no booking has dealt with yet
	// are waited for: late usage of such an instance still goes into its final record.
	Lives LifeBooks
	// Flusher is the barrier before closing; nil when events go into the store directly.
	Flusher Flusher
	// Meters are all meters: hourly usage is kept of each, bill records are made of those that are billed.
	Meters []meter.Meter
	// Terms are how each meter is billed, by slug; a missing one is the zero Terms.
	Terms  map[string]Terms
	Mapper *Mapper
	// Rules are the marketplace's: records that break them are held, not sent.
	Rules Rules
	// Seller is the configured name of the seller account, part of every record's number.
	Seller string
	// Grace is how long after its end a window stays open.
	Grace time.Duration
	// DayZone is where days of daily cycles begin; nil means UTC.
	DayZone *time.Location
	// LateMargin is how much younger than the marketplace's limit the window of a late record must be, so that there is time
	// to deliver it; 0 means 24 h.
	LateMargin time.Duration
	// FlushTimeout bounds the barrier; 0 means 2 m. When it takes longer nothing is closed.
	FlushTimeout time.Duration
	// FlushLimit is for how long the barrier may fail like that before hours are closed all the same: what it waited for is
	// late usage then. 0 means 1 h, which leaves time until the marketplace's last limit of 2 h (usage push, section 4.1).
	FlushLimit time.Duration
	// ChunkRows bounds how many rows are kept in memory and written at once; 0 means 10,000.
	ChunkRows int
	Now       func() time.Time
	// Random gives random bits for the versions of bookings; nil means the system's.
	Random   func() uint64
	Logger   *slog.Logger
	Observer Observer // nil: nobody
}

// ClosedSummary tells what a call of [Closer.CloseDue] did.
type ClosedSummary struct {
	Windows int          `json:"windows"`
	First   meter.Window `json:"first"` // zero when Windows is 0
	Last    meter.Window `json:"last"`
	Events  uint64       `json:"events"`
	// Recounts is how many closed hours were counted again. Usages, Records, Adjustments and States include theirs.
	Recounts    int    `json:"recounts"`
	Usages      uint64 `json:"usages"`
	Records     uint64 `json:"records"`
	Adjustments uint64 `json:"adjustments"`
	// States counts the records by their first state.
	States map[State]uint64 `json:"states,omitempty"`
}

// add counts one more booking.
func (s *ClosedSummary) add(d *draft) {
	if d.Kind == BookingRecount {
		s.Recounts++
	} else {
		if s.Windows == 0 {
			s.First = d.Window
		}
		s.Windows++
		s.Last = d.Window
		s.Events += d.Events
	}
	s.Usages += d.Usages
	s.Records += d.Records
	s.Adjustments += d.Adjustments
	for state, n := range d.states {
		if s.States == nil {
			s.States = map[State]uint64{}
		}
		s.States[state] += n
	}
}

// Closer counts usage into the books: it closes hours, counts closed hours again when something arrived for them, and bills
// instances early when they are released or frozen. Nothing it writes counts before the booking is committed, so it may
// be interrupted anywhere and started again. It is safe for concurrent use.
type Closer struct {
	o      CloserOptions
	meters map[string]meter.Meter // by slug
	log    *slog.Logger
	keeper *bookkeeper

	mu         sync.Mutex
	lastClosed Booking   // as far as this process knows
	stuckSince time.Time // when the barrier began to fail; zero while it does not
}

// NewCloser checks the options and reports every fault at once.
func NewCloser(o CloserOptions) (*Closer, error) {
	if o.Books == nil || o.Mapper == nil || o.Rules == nil || o.Now == nil || o.Logger == nil {
		return nil, errors.New("closer: Books, Mapper, Rules, Now and Logger are required")
	}
	o.setDefaults()
	c := &Closer{o: o, meters: make(map[string]meter.Meter, len(o.Meters)), log: o.Logger.With("component", "closer")}
	c.keeper = &bookkeeper{
		books: o.Books, now: o.Now, random: o.Random, chunk: o.ChunkRows, log: c.log, observer: o.Observer,
		turn: make(chan struct{}, 1),
	}
	var errs []error
	if o.Seller == "" {
		errs = append(errs, errors.New("closer: the seller needs a name; it is part of every record's number"))
	}
	if o.Grace < 0 || o.FlushTimeout < 0 || o.FlushLimit < 0 || o.ChunkRows < 0 || o.LateMargin < 0 {
		errs = append(errs, errors.New("closer: grace, flush timeout, late margin and chunk size must not be negative"))
	}
	daily := false
	for _, m := range o.Meters {
		c.meters[m.Slug] = m
		daily = daily || o.Terms[m.Slug].Cycle == CycleDaily
		errs = append(errs, checkScale(m, o.Rules.Limits().Scale))
	}
	for slug := range o.Terms {
		if _, known := c.meters[slug]; !known {
			errs = append(errs, fmt.Errorf("closer: there are terms for %q, and no such meter", slug))
		}
	}
	if daily {
		errs = append(errs, checkDayZone(o.DayZone, o.Now()))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

func (o *CloserOptions) setDefaults() {
	setDefault(&o.FlushTimeout, 2*time.Minute)
	setDefault(&o.FlushLimit, time.Hour)
	setDefault(&o.LateMargin, 24*time.Hour)
	if o.ChunkRows == 0 {
		o.ChunkRows = 10_000
	}
	if o.DayZone == nil {
		o.DayZone = time.UTC
	}
	if o.Random == nil {
		o.Random = chance
	}
	if o.Observer == nil {
		o.Observer = NopObserver{}
	}
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

func (c *Closer) terms(slug string) Terms { return c.o.Terms[slug] }

// CloseDue first bills the releases and freezes that are known and not booked yet (see [Closer.CatchUpLives]), counts closed
// hours again for which something arrived, and then closes, oldest first, every hour that has
// not been closed yet and whose end lies at least the grace period before until. It starts after the last closed hour, or
// at the first stored event when nothing was closed yet, and closes empty hours too. An until beyond the clock is refused
// with an error that wraps [ErrFuture]. When the barrier fails or takes too long nothing is closed, until that
// has lasted for [CloserOptions].FlushLimit. An hour that can't be
// recounted does not keep others from being closed. The summary counts what was booked, also when an error ended the call.
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
	_, livesErr := c.CatchUpLives(ctx) // first, so that late usage still finds the final record
	next, last, err := c.start(ctx, until)
	if err != nil {
		return sum, errors.Join(livesErr, err)
	}
	recountErr := c.recountStale(ctx, last, &sum)
	return sum, errors.Join(livesErr, recountErr, c.closeHours(ctx, next, until, limit, &sum))
}

// closeHours closes the hours that are due, from next on; the zero window means none.
func (c *Closer) closeHours(ctx context.Context, next meter.Window, until time.Time, limit int, sum *ClosedSummary) error {
	for !next.IsZero() && c.due(next, until) && (limit == 0 || sum.Windows < limit) {
		d, err := c.closeHour(ctx, next)
		switch {
		case errors.Is(err, errNothing): // somebody else closed it; go on from there
			if next, _, err = c.start(ctx, until); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("close window %s: %w", next, err)
		default:
			c.setLastClosed(d.Booking)
			sum.add(d)
			next = next.Next()
		}
	}
	return nil
}

// LastClosed returns the last closed window as far as this process knows: zero before its first look into the books.
func (c *Closer) LastClosed() Booking {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lastClosed
}

func (c *Closer) setLastClosed(w Booking) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.Window.End.After(c.lastClosed.Window.End) {
		c.lastClosed = w
	}
}

// due reports whether w may be closed at until.
func (c *Closer) due(w meter.Window, until time.Time) bool { return !w.End.Add(c.o.Grace).After(until) }

// start finds the first hour to close, and passes the barrier when there is one; the zero window means none. last is the
// last closed hour before that, zero if there is none.
func (c *Closer) start(ctx context.Context, until time.Time) (next, last meter.Window, err error) {
	closed, ok, err := c.o.Books.LastClosed(ctx)
	if err != nil {
		return next, last, fmt.Errorf("read last closed window: %w", err)
	}
	if ok {
		c.setLastClosed(closed)
		last, next = closed.Window, closed.Window.Next()
		if !c.due(next, until) {
			return meter.Window{}, last, nil
		}
		return next, last, c.flush(ctx)
	}
	if err := c.flush(ctx); err != nil {
		return next, last, err
	}
	// Only after the barrier: the very first events may still have been in the spool.
	next, _, err = c.o.Books.FirstEventHour(ctx)
	if err != nil {
		return next, last, fmt.Errorf("read hour of the first event: %w", err)
	}
	return next, last, nil
}

// flush passes the barrier, or goes on without it when it has failed for too long.
func (c *Closer) flush(ctx context.Context) error {
	if c.o.Flusher == nil {
		return nil
	}
	flushCtx, cancel := context.WithTimeout(ctx, c.o.FlushTimeout)
	defer cancel()
	err := c.o.Flusher.Flush(flushCtx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.stuckSince = time.Time{}
		return nil
	}
	now := c.o.Now()
	if c.stuckSince.IsZero() || c.stuckSince.After(now) {
		c.stuckSince = now
	}
	if stuck := now.Sub(c.stuckSince); ctx.Err() == nil && stuck >= c.o.FlushLimit {
		c.log.Error("accepted events have not reached the store for too long; hours are closed without them, they will be late usage",
			"for", stuck, "err", err)
		return nil
	}
	return fmt.Errorf("nothing was closed because accepted events did not reach the store within %s: %w", c.o.FlushTimeout, err)
}
