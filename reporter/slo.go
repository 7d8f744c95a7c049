package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meterd/meterd/meter"
)

// AtRiskRow is what some records of one meter in one state add up to.
type AtRiskRow struct {
	Meter string // slug
	State State
	// Records is their number and Billed the sum of what they bill, in billed units.
	Records uint64
	Billed  meter.Quantity
}

// AtRiskStates are the states in which a live record is at risk: not final, or final without having been reported while a person
// can still change that.
func AtRiskStates() []State {
	return []State{StatePending, StateSending, StateUnknown, StateRejected, StateHeld, StateFailed}
}

// AtRiskBooks is the part of the ledger that tells what is not safely reported yet. The store implements it (store/atrisk.go).
type AtRiskBooks interface {
	// AtRisk returns, by meter and state, the sums over records in mode live of committed bookings that are in one of AtRiskStates
	// and not replaced, of hours that began at or after since. It reads narrow columns of that time only.
	AtRisk(ctx context.Context, since time.Time) ([]AtRiskRow, error)
	// UnsettledBookings is [DeliveryBooks.UnsettledBookings].
	UnsettledBookings(ctx context.Context) ([]Booking, error)
}

// SLOOptions are what an [SLO] needs. Books, Clock and Logger are required.
type SLOOptions struct {
	Books AtRiskBooks
	// Meters tell the prices of billed units.
	Meters []meter.Meter
	// Horizon is how far back records are looked at; 0 means 22 d, a day beyond the oldest that KooGallery takes.
	Horizon time.Duration
	// Deadline is the end of the time in which a report is on time, counted from the end of the window; 0 means 15 m.
	Deadline time.Duration
	// Interval is the least time between two looks, in real time; 0 means a minute. It bounds how often the store is asked, however
	// often metrics are read.
	Interval time.Duration
	// Timeout bounds one look, in real time; 0 means 30 s.
	Timeout time.Duration
	// Found is told when a look finds a booking unsettled that the one before did not: with several daemons on the store it may be
	// the work of another one, such as a release, that this one is to deliver. nil: nobody. It must return quickly.
	Found  func()
	Clock  Clock
	Logger *slog.Logger
}

// AtRisk is what of one meter is not safely reported.
type AtRisk struct {
	Meter   string         `json:"meter"`
	Records uint64         `json:"records"`
	Billed  meter.Quantity `json:"billed"` // in billed units
	// Money is Billed × the meter's price; only if Priced.
	Money  meter.Quantity `json:"money"`
	Priced bool           `json:"priced"`
	// States counts the records by state.
	States map[State]uint64 `json:"states"`
}

// SLOStatus is how reporting stands against its deadlines. It describes the books, not what this process did: of several daemons
// each shows the same.
type SLOStatus struct {
	At time.Time `json:"at"` // of the last look that succeeded; zero before the first
	// Err is why the last look failed, "" if it did not; the figures are then those of At.
	Err string `json:"err,omitempty"`
	// Unsettled is the number of bookings with records that are not settled, Overdue that of those whose deadline has passed.
	Unsettled int `json:"unsettled"`
	Overdue   int `json:"overdue"`
	// Deadline is that of the oldest booking that is not settled; zero if there is none.
	Deadline time.Time `json:"deadline"`
	// Meters is what is at risk, by meter, of every billed meter: one without anything at risk has zeros.
	Meters []AtRisk `json:"meters"`
}

// SLO looks at the books once a minute and keeps what it saw for metrics and people. It is safe for concurrent use.
type SLO struct {
	o      SLOOptions
	log    *slog.Logger
	prices map[string]meter.Quantity // by slug, of the billed meters

	mu        sync.Mutex
	last      SLOStatus
	unsettled map[uint64]bool // bookings of the last look
}

// NewSLO checks the options.
func NewSLO(o SLOOptions) (*SLO, error) {
	if o.Books == nil || o.Clock == nil || o.Logger == nil {
		return nil, errors.New("slo: Books, Clock and Logger are required")
	}
	if o.Horizon < 0 || o.Deadline < 0 || o.Interval < 0 || o.Timeout < 0 {
		return nil, errors.New("slo: no duration may be negative")
	}
	setDefault(&o.Horizon, 22*24*time.Hour)
	setDefault(&o.Deadline, 15*time.Minute)
	setDefault(&o.Interval, time.Minute)
	setDefault(&o.Timeout, 30*time.Second)
	s := &SLO{o: o, log: o.Logger.With("component", "slo"), prices: map[string]meter.Quantity{}}
	for _, m := range o.Meters {
		if m.Billed {
			s.prices[m.Slug] = m.Price
		}
	}
	return s, nil
}

// Run looks at the books until ctx ends, and then returns nil: at once, then every Interval, or less often where a look takes
// long: the store is busy with it a twentieth of the time at most. It waits by the machine's clock and not by the injected one,
// because what it bounds is the store's load.
func (s *SLO) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case began := <-timer.C:
			s.Look(ctx)
			timer.Reset(max(s.o.Interval, 20*time.Since(began)))
		}
	}
}

// Status returns what was last seen. It asks no database.
func (s *SLO) Status() SLOStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Look looks at the books now. An error or a panic is logged and kept in the status.
func (s *SLO) Look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timeout)
	defer cancel()
	status, err := s.look(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.last = status
		return
	}
	if s.last.Err == "" { // once, not every minute
		s.log.Warn("what is at risk can't be told", "err", err)
	}
	s.last.Err = err.Error()
}

func (s *SLO) look(ctx context.Context) (status SLOStatus, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("panic", "in", "slo", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("internal error: %v", v)
		}
	}()
	now := s.o.Clock.Now().UTC()
	bookings, err := s.o.Books.UnsettledBookings(ctx)
	if err != nil {
		return status, fmt.Errorf("read unsettled bookings: %w", err)
	}
	rows, err := s.o.Books.AtRisk(ctx, now.Add(-s.o.Horizon))
	if err != nil {
		return status, fmt.Errorf("read what is at risk: %w", err)
	}
	s.found(bookings)
	status = SLOStatus{At: now, Unsettled: len(bookings), Meters: s.byMeter(rows)}
	for _, b := range bookings {
		deadline := b.Window.End.Add(s.o.Deadline)
		if now.After(deadline) {
			status.Overdue++
		}
		if status.Deadline.IsZero() || deadline.Before(status.Deadline) {
			status.Deadline = deadline
		}
	}
	return status, nil
}

// found remembers what is unsettled and tells of what was not before.
func (s *SLO) found(bookings []Booking) {
	unsettled, fresh := make(map[uint64]bool, len(bookings)), false
	s.mu.Lock()
	for _, b := range bookings {
		unsettled[b.Number] = true
		fresh = fresh || !s.unsettled[b.Number]
	}
	s.unsettled = unsettled
	s.mu.Unlock()
	if fresh && s.o.Found != nil {
		s.o.Found()
	}
}

// byMeter adds the rows up. Meters of the configuration are there in any case, so that a metric that was high goes to zero
// rather than away; meters that are not billed any more are there while something of theirs is at risk.
func (s *SLO) byMeter(rows []AtRiskRow) []AtRisk {
	sums := map[string]*AtRisk{}
	sum := func(slug string) *AtRisk {
		if sums[slug] == nil {
			sums[slug] = &AtRisk{Meter: slug, States: map[State]uint64{}}
		}
		return sums[slug]
	}
	for slug := range s.prices {
		sum(slug)
	}
	for _, r := range rows {
		a := sum(r.Meter)
		a.Records += r.Records
		a.Billed = a.Billed.Add(r.Billed)
		a.States[r.State] += r.Records
	}
	all := make([]AtRisk, 0, len(sums))
	for slug, a := range sums {
		if price := s.prices[slug]; price.Sign() > 0 {
			a.Money, a.Priced = a.Billed.Mul(price), true
		}
		all = append(all, *a)
	}
	slices.SortFunc(all, func(a, b AtRisk) int { return strings.Compare(a.Meter, b.Meter) })
	return all
}
