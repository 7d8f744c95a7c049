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

// ReporterOptions are what a [Reporter] needs. Books, Marketplace, Clock, Logger and Random are required.
type ReporterOptions struct { //nolint:revive // CloserOptions and ServiceOptions are beside it
	Books       DeliveryBooks
	Marketplace Marketplace
	// Shadow is where records in mode shadow go: a sandbox or a second account, never the marketplace itself. nil: they go
	// nowhere and become StateShadowed at once.
	Shadow   Marketplace
	Clock    Clock
	Logger   *slog.Logger
	Observer Observer // nil: nobody
	// Random gives numbers in [0, 1) for jitter, for example math/rand/v2.Float64.
	Random func() float64
	// MaxBatch bounds a batch further than the marketplace does; 0 means the marketplace's limit.
	MaxBatch int
	// PageSize is how many due records are read at once; 0 means ten batches.
	PageSize int
	// Backoff applies within a pass after an answer that says the endpoint is sick; the zero value means 2 s to 1 m.
	Backoff Backoff
	// BreakerFailures is how many sick answers in a row open the breaker; 0 means 5.
	BreakerFailures uint32
	// BreakerTimeout is how long the breaker stays open at most, on Clock; 0 means 30 s. As the hour's deadline nears it stays
	// open for an eighth of the time left, but at least 3 s.
	BreakerTimeout time.Duration
	// Deadline is the end of the time in which a report is on time, counted from the full hour; 0 means 15 m.
	Deadline time.Duration
	// PushTimeout bounds one call in real time, should the marketplace's client not do so itself; 0 means 1 m.
	PushTimeout time.Duration
	// DrainTimeout is how long a call under way may still take, in real time, once the pass's context has ended: an answer
	// that is read spares a record the state unknown. 0 means 5 s.
	DrainTimeout time.Duration
	// ExpiryMargin is how much older than the marketplace's limit a record must be before it is given up without a
	// call. Up to then the marketplace has the last word, whose clock may differ from ours; default 0.
	ExpiryMargin time.Duration
	// IsolationCalls bounds the calls of one pass that only serve to find bad records in refused batches; what is not
	// found within them waits for the next pass. 0 means 500.
	IsolationCalls int
}

// withDefaults fills what was left zero and reports what is wrong.
func (o ReporterOptions) withDefaults() (ReporterOptions, error) {
	if o.Books == nil || o.Marketplace == nil || o.Clock == nil || o.Logger == nil || o.Random == nil {
		return o, errors.New("reporter: Books, Marketplace, Clock, Logger and Random are required")
	}
	var errs []error
	if o.Observer == nil {
		o.Observer = NopObserver{}
	}
	limit := o.Marketplace.Limits().MaxBatch
	if limit <= 0 {
		errs = append(errs, fmt.Errorf("reporter: marketplace %s has no batch limit", o.Marketplace.Name()))
		limit = 1
	}
	if o.MaxBatch < 0 || o.PageSize < 0 || o.IsolationCalls < 0 || o.BreakerTimeout < 0 || o.PushTimeout < 0 ||
		o.DrainTimeout < 0 || o.ExpiryMargin < 0 || o.Deadline < 0 {
		errs = append(errs, errors.New("reporter: no option may be negative"))
	}
	if o.Shadow != nil && o.Shadow.Limits().MaxBatch <= 0 {
		errs = append(errs, fmt.Errorf("reporter: the shadow destination %s has no batch limit", o.Shadow.Name()))
	}
	if o.MaxBatch <= 0 || o.MaxBatch > limit {
		o.MaxBatch = limit
	}
	if o.PageSize <= 0 {
		o.PageSize = 10 * o.MaxBatch
	}
	if o.Backoff == (Backoff{}) {
		o.Backoff = Backoff{Min: 2 * time.Second, Max: time.Minute}
	}
	if o.BreakerFailures == 0 {
		o.BreakerFailures = 5
	}
	if o.IsolationCalls == 0 {
		o.IsolationCalls = 500
	}
	setDefault(&o.BreakerTimeout, 30*time.Second)
	setDefault(&o.Deadline, 15*time.Minute)
	setDefault(&o.PushTimeout, time.Minute)
	setDefault(&o.DrainTimeout, 5*time.Second)
	return o, errors.Join(append(errs, o.Backoff.validate())...)
}

// StopReason says why a pass ended before it had tried every due record.
type StopReason string

// The reasons for stopping a pass.
const (
	// StopNone: everything due was tried.
	StopNone StopReason = ""
	// StopBreaker: the breaker is open.
	StopBreaker StopReason = "breaker_open"
	// StopThrottled: the marketplace asked to wait.
	StopThrottled StopReason = "throttled"
	// StopMisconfigured: our key, signature, clock or authority is wrong.
	StopMisconfigured StopReason = "misconfigured"
	// StopShutdown: the context ended.
	StopShutdown StopReason = "shutdown"
)

// PassSummary tells what one delivery pass did.
type PassSummary struct {
	Windows  int `json:"windows"`  // unsettled bookings found
	Settled  int `json:"settled"`  // bookings settled
	Calls    int `json:"calls"`    // calls to the marketplace
	Accepted int `json:"accepted"` // records by what became of them in this pass
	Rejected int `json:"rejected"`
	Expired  int `json:"expired"`
	Held     int `json:"held"`
	Shadowed int `json:"shadowed"` // of Shadow only
	// DueLeft is how many records are still to be sent. After a pass that stopped early it is exact only if the books
	// implement [DueCounter], and then it includes those in mode shadow; otherwise it counts every record of the bookings that
	// the pass did not finish.
	DueLeft uint64 `json:"due_left"`
	// OldestDue and NewestDue are the windows of the oldest and newest booking that is not settled after the pass; zero if none.
	OldestDue meter.Window `json:"oldest_due"`
	NewestDue meter.Window `json:"newest_due"`
	Unsettled int          `json:"unsettled"` // bookings not settled after the pass
	Stopped   StopReason   `json:"stopped,omitempty"`
	// RetryAt is the earliest time at which another pass makes sense; zero if nothing speaks against any time.
	RetryAt time.Time `json:"retry_at"`
	// Shadow is the same for the records in mode shadow, which everything above leaves out; nil when there were none.
	Shadow *PassSummary `json:"shadow,omitempty"`
}

// Progress reports whether a record left the due states for good.
func (s PassSummary) Progress() bool {
	return s.Accepted+s.Rejected+s.Expired+s.Held+s.Shadowed > 0 || s.Shadow != nil && s.Shadow.Progress()
}

// Left reports whether anything, in whatever mode, remains to be sent.
func (s PassSummary) Left() bool { return s.Unsettled > 0 || s.Shadow != nil && s.Shadow.Unsettled > 0 }

// merge adds a later pass: counts add up, what describes the end is the later's.
func (s *PassSummary) merge(later PassSummary) {
	later.Settled += s.Settled
	later.Calls += s.Calls
	later.Accepted += s.Accepted
	later.Rejected += s.Rejected
	later.Expired += s.Expired
	later.Held += s.Held
	later.Shadowed += s.Shadowed
	later.Windows = max(later.Windows, s.Windows)
	if s.Shadow != nil {
		merged := *s.Shadow
		if later.Shadow == nil {
			later.Shadow = &PassSummary{}
		}
		merged.merge(*later.Shadow)
		later.Shadow = &merged
	}
	*s = later
}

// Misconfiguration is the alarm raised when the marketplace says that we, not a record or its endpoint, are at fault.
type Misconfiguration struct {
	Since   time.Time `json:"since"`
	Code    string    `json:"code"`
	Message string    `json:"message"`
}

// Reporter delivers due bill records to one marketplace. It is safe for concurrent use; passes run one after the other, so
// that never more than one call is under way for a seller.
type Reporter struct {
	o      ReporterOptions
	log    *slog.Logger
	live   *lane
	shadow *lane
	turn   chan struct{} // holds one token; whoever took it may make a pass

	// Guarded by turn.
	unwritten []Transition // outcomes that are known but could not be written yet
	// noShadow are the numbers of unsettled bookings known to have no due record in mode shadow, so that an outage of the
	// marketplace doesn't make every pass read all that waits for it in search of some.
	noShadow map[uint64]bool

	mu      sync.Mutex // guards what status reads, and the alarms of the lanes
	last    PassSummary
	lastAt  time.Time
	lastErr error
	wake    func() // asks for a round after a reset; nil without a service
}

// NewReporter checks the options and reports every fault at once.
func NewReporter(o ReporterOptions) (*Reporter, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Reporter{
		o: o, log: o.Logger.With("component", "reporter", "marketplace", o.Marketplace.Name()),
		turn: make(chan struct{}, 1), noShadow: map[uint64]bool{},
	}
	r.live = r.newLane(ModeLive, o.Marketplace.Name(), o.Marketplace)
	r.shadow = r.newLane(ModeShadow, "shadow", o.Shadow)
	return r, nil
}

// breakerChanged is called by a lane's breaker.
func (r *Reporter) breakerChanged(l *lane, c BreakerChange) {
	level := slog.LevelInfo
	if c.To == BreakerOpen {
		level = slog.LevelWarn
	}
	r.log.Log(context.Background(), level, "breaker changed", "destination", l.name, "from", c.From.String(), "to", c.To.String(),
		"reason", c.Reason, "failures", c.Failures, "retry_at", c.RetryAt)
	r.o.Observer.BreakerChanged(l.name, c.To)
}

// RunOnce makes one delivery pass: every due record of every unsettled booking, oldest first, is sent once to where its mode
// says, and bookings with nothing left to send are settled. Every record is durably in state sending before its call, and its
// outcome durable before the next call. An error means that the books failed; what was sent and could not be written down is
// kept in memory and written first in the next pass, and is sent again, with the same number and bytes, only if the process
// ends before that.
func (r *Reporter) RunOnce(ctx context.Context) (PassSummary, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return PassSummary{Stopped: StopShutdown}, ctx.Err()
	}
	p := r.newPass(r.live)
	err := p.run(ctx)
	if err == nil && ctx.Err() == nil && (p.others || p.sum.Stopped != StopNone) {
		s := r.newPass(r.shadow)
		err = s.run(ctx)
		if s.sum.Calls > 0 || s.sum.Unsettled > 0 || s.sum.Settled > 0 || s.sum.Progress() {
			p.sum.Shadow = &s.sum
		}
	}
	r.mu.Lock()
	for _, l := range []*lane{r.live, r.shadow} {
		l.shownLimit = l.batch.limit
	}
	r.lastAt, r.lastErr = r.o.Clock.Now(), err
	if err == nil || !p.sum.OldestDue.IsZero() {
		r.last = p.sum
	}
	r.mu.Unlock()
	return p.sum, err
}

func (r *Reporter) newPass(l *lane) *pass { return &pass{r: r, l: l, isolation: r.o.IsolationCalls} }

// ResetBreaker closes the breakers by hand, ends the alarm about our configuration and forgets that the marketplace asked to
// wait: the next pass tries again with everything, and a service that uses the reporter makes one at once. The actor is the person whose act it is; it is kept in the breaker's story.
func (r *Reporter) ResetBreaker(actor string) {
	if actor == "" {
		actor = "somebody"
	}
	r.log.Warn("breaker reset by hand", "actor", actor)
	for _, l := range []*lane{r.live, r.shadow} {
		if l.market == nil {
			continue
		}
		r.mu.Lock()
		l.misconfigured, l.throttled = nil, throttle{}
		r.mu.Unlock()
		l.breaker.reset("reset by " + actor)
	}
	r.mu.Lock()
	wake := r.wake
	r.mu.Unlock()
	if wake != nil {
		wake()
	}
}

// standBy forgets what the marketplace said to this process: another one makes the calls now, and what it hears is not known here.
// An alarm that nobody could end would be none.
func (r *Reporter) standBy() {
	for _, l := range []*lane{r.live, r.shadow} {
		if l.market == nil {
			continue
		}
		r.mu.Lock()
		l.misconfigured, l.throttled = nil, throttle{}
		r.mu.Unlock()
		if l.breaker.state() != BreakerClosed {
			l.breaker.reset("another daemon delivers")
		}
	}
}

// probing reports whether the next call must carry a single record, because nobody knows yet whether calls work again.
func (r *Reporter) probing(l *lane) bool {
	r.mu.Lock()
	alarm := l.misconfigured != nil
	r.mu.Unlock()
	return alarm || l.breaker.state() == BreakerHalfOpen
}

// throttledUntil returns until when the marketplace asked to be left alone; zero if it didn't or the time is over.
func (r *Reporter) throttledUntil(l *lane) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return l.throttled.at(r.o.Clock.Now())
}

// judge raises or ends the alarm about our configuration.
func (r *Reporter) judge(l *lane, res Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case res.Class == ClassMisconfigured && l.misconfigured == nil:
		l.misconfigured = &Misconfiguration{Since: r.o.Clock.Now(), Code: res.Code, Message: res.Message}
		r.log.Error("the marketplace refuses us, nothing is reported until this is mended: check key, clock and authority",
			"destination", l.name, "code", res.Code, "reason", res.Message, "status", res.Status)
	case res.Class == ClassMisconfigured:
		l.misconfigured.Code, l.misconfigured.Message = res.Code, res.Message
	case !res.Class.Sick() && l.misconfigured != nil:
		r.log.Info("the marketplace takes our calls again", "destination", l.name,
			"after", r.o.Clock.Now().Sub(l.misconfigured.Since))
		l.misconfigured = nil
	}
}
