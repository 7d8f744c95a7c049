package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/meterd/meterd/meter"
)

// windowsPerStep bounds how many missed windows are closed before what they hold is delivered: after a long downtime the
// oldest hours, nearest to their expiry, need not wait for all the others to be closed.
const windowsPerStep = 6

// ServiceOptions are what a [Service] needs. Closer, Schedule, Clock, Logger and Random are required.
type ServiceOptions struct {
	Closer *Closer
	// Reporter delivers what was closed; nil closes windows only, and their records stay due.
	Reporter *Reporter
	Schedule Schedule
	Retry    RetryPolicy
	Clock    Clock
	Logger   *slog.Logger
	Random   func() float64 // numbers in [0, 1) for jitter
	// Jitter is by how much a scheduled round comes later at most, so that not all sellers call the marketplace in the same second;
	// 0 means not at all.
	Jitter time.Duration
	// Lease is asked before each step of closing and each delivery pass, and every LeaseInterval in between: while another process
	// holds it this one does neither. nil: always held.
	Lease Lease
	// LeaseInterval is how often the lease is renewed or tried for, in real time; 0 means 5 s. It should be a third of the lease's
	// time or less.
	LeaseInterval time.Duration
	// Guard says whether this machine's clock can be trusted; while it does not, nothing is closed, and delivery goes on. nil:
	// always.
	Guard Guard
	// Preflight is run PreflightLead before the end of every hour; nil: never.
	Preflight *Preflight
	// PreflightLead is how long before the end of the hour; 0 means 5 m.
	PreflightLead time.Duration
}

// Guard decides whether windows may be closed.
type Guard interface {
	// Check returns nil when they may, and otherwise why not: what is wrong and what to do.
	Check(ctx context.Context) error
}

// Summary tells what one call of [Service.CloseNow] did.
type Summary struct {
	Closed    ClosedSummary `json:"closed"`
	Delivered PassSummary   `json:"delivered"`
}

// Service closes windows on schedule and delivers their records. It never gives up: an error or a panic in one round is
// logged, and the round is repeated as [RetryPolicy] says.
type Service struct {
	o     ServiceOptions
	log   *slog.Logger
	lease *leaseKeeper

	mu         sync.Mutex
	running    bool
	triggered  bool               // a round was asked for
	replan     bool               // the plan for the next retry is out of date
	cancelWait context.CancelFunc // ends the wait of the loop; nil while it does not wait
	plan       plan
	seen       time.Time // the latest time that the loop saw
	closeErr   error
	guardErr   error
	preflight  PreflightReport
}

// plan is what the loop waits for.
type plan struct {
	scheduled time.Time // next time on the schedule
	graceEnds time.Time // when a window that had ended but was in its grace period can be closed; zero if none
	retry     time.Time // next attempt after a failure; zero if nothing failed
	preflight time.Time // next preflight; zero if there is none
	failures  int       // rounds in a row that left something undone
	faults    int       // rounds in a row that ended with an error of our own side
}

// NewService checks the options and reports every fault at once.
func NewService(o ServiceOptions) (*Service, error) {
	if o.Closer == nil || o.Clock == nil || o.Logger == nil || o.Random == nil {
		return nil, errors.New("service: Closer, Clock, Logger and Random are required")
	}
	var errs []error
	if o.Schedule.IsZero() {
		errs = append(errs, errors.New("service: a schedule is required"))
	}
	retry, err := o.Retry.withDefaults()
	errs = append(errs, err)
	o.Retry = retry
	setDefault(&o.LeaseInterval, defaultLeaseInterval)
	setDefault(&o.PreflightLead, 5*time.Minute)
	if o.Jitter < 0 || o.Jitter >= time.Hour {
		errs = append(errs, fmt.Errorf("service: the jitter must be from 0 to less than an hour (got %s)", o.Jitter))
	}
	if o.LeaseInterval < 0 || o.PreflightLead < 0 || o.PreflightLead >= time.Hour {
		errs = append(errs, errors.New("service: the lease interval must not be negative, and the preflight be within the hour before its end"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s := &Service{o: o, log: o.Logger.With("component", "schedule")}
	s.lease = &leaseKeeper{s: s, lease: o.Lease}
	if o.Reporter != nil {
		o.Reporter.mu.Lock()
		o.Reporter.wake = s.Trigger
		o.Reporter.mu.Unlock()
	}
	return s, nil
}

// Run closes and delivers until ctx ends, and then returns nil: first at once, to catch up on what was missed, then on
// schedule. It starts no goroutine that outlives it, and must not be called twice at a time. With a lease it does so only while
// it holds it, and gives it up at the end.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return errors.New("the reporting service is already running")
	}
	s.running = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.running, s.plan, s.seen = false, plan{}, time.Time{}
		s.mu.Unlock()
	}()
	s.log.Info("reporting started", "schedule", s.o.Schedule.String())
	defer s.keepLease(ctx)()
	began := s.o.Clock.Now()
	s.round(ctx, false)
	s.runPreflight(ctx)
	// Counted from the beginning of a round, so that an hour that passes during a long one is not skipped.
	s.setScheduled(s.o.Schedule.Next(began))
	for ctx.Err() == nil {
		full, scheduled, err := s.wait(ctx)
		if err != nil {
			break
		}
		if s.preflightDue() {
			s.runPreflight(ctx)
		}
		if !full {
			continue
		}
		began = s.o.Clock.Now()
		s.round(ctx, scheduled)
		if scheduled {
			s.setScheduled(s.o.Schedule.Next(began))
		}
	}
	s.log.Info("reporting stopped")
	if ctx.Err() == nil {
		return errors.New("the clock stopped")
	}
	return nil
}

// keepLease starts renewing the lease and returns what ends that and waits for it.
func (s *Service) keepLease(ctx context.Context) (stop func()) {
	if s.o.Lease == nil {
		return func() {}
	}
	// It outlives ctx: what is under way then, a last call say, needs the lease to its end.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.lease.keep(ctx, s.o.LeaseInterval)
	}()
	return func() {
		cancel()
		<-done
	}
}

// preflightDue reports whether the time for the preflight has come.
func (s *Service) preflightDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.plan.preflight.IsZero() && !s.plan.preflight.After(s.o.Clock.Now())
}

// runPreflight runs the checks, keeps their results and plans the next time.
func (s *Service) runPreflight(ctx context.Context) {
	if s.o.Preflight == nil || ctx.Err() != nil {
		return
	}
	report := s.o.Preflight.Run(ctx)
	next := s.nextPreflight(s.o.Clock.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.preflight, s.plan.preflight = report, next
}

// setScheduled plans the next scheduled round. A day that comes only every eight years is beyond the schedule's search;
// looking again every hour is enough for it.
func (s *Service) setScheduled(at time.Time) {
	if at.IsZero() {
		at = s.o.Clock.Now().Add(time.Hour)
	}
	at = s.jittered(at)
	s.mu.Lock()
	s.plan.scheduled = at
	s.mu.Unlock()
}

// jittered is a time somewhat later.
func (s *Service) jittered(at time.Time) time.Time {
	return at.Add(time.Duration(float64(s.o.Jitter) * s.o.Random()).Truncate(time.Millisecond))
}

// wait sleeps until there is something to do: the schedule, a retry, or a trigger. full is false when only the plan has
// changed meanwhile.
func (s *Service) wait(ctx context.Context) (full, scheduled bool, err error) {
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.wentBack() {
		return true, false, nil
	}
	s.mu.Lock()
	until := s.plan.next()
	if !s.triggered && !s.replan {
		s.cancelWait = cancel
	} else {
		cancel()
	}
	s.mu.Unlock()
	err = s.o.Clock.WaitUntil(waitCtx, until)
	back := ctx.Err() == nil && s.wentBack()
	now := s.o.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	triggered, replan := s.triggered, s.replan
	s.cancelWait, s.triggered, s.replan = nil, false, false
	switch {
	case ctx.Err() != nil:
		return false, false, ctx.Err()
	case triggered || back:
		return true, !s.plan.scheduled.After(now), nil
	case replan:
		return false, false, nil
	case err != nil:
		s.log.Error("the clock can't wait", "err", err)
		return false, false, err
	}
	return !s.plan.work().After(now), !s.plan.scheduled.After(now), nil
}

// wentBack reports whether the clock was set back since the last look, and makes the plan anew then: its times would come as
// much too late as the clock was set back.
func (s *Service) wentBack() bool {
	now := s.o.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	back := now.Before(s.seen.Add(-clockStep))
	if back || now.After(s.seen) {
		s.seen = now
	}
	if !back {
		return false
	}
	s.log.Warn("the clock was set back, what is due is looked for again", "now", now)
	s.plan.scheduled, s.plan.retry, s.plan.graceEnds = s.o.Schedule.Next(now), time.Time{}, time.Time{}
	if s.plan.scheduled.IsZero() {
		s.plan.scheduled = now.Add(time.Hour)
	}
	if !s.plan.preflight.IsZero() {
		s.plan.preflight = s.nextPreflight(now)
	}
	return true
}

// nextPreflight is the time of the next preflight after now.
func (s *Service) nextPreflight(now time.Time) time.Time {
	next := meter.HourOf(now).End.Add(-s.o.PreflightLead)
	if !next.After(now) {
		next = next.Add(time.Hour)
	}
	return next
}

// next is the earliest time the plan names.
func (p plan) next() time.Time {
	if at := p.work(); p.preflight.IsZero() || at.Before(p.preflight) {
		return at
	}
	return p.preflight
}

// work is the earliest time at which there is something to close or to deliver.
func (p plan) work() time.Time {
	at := p.scheduled
	for _, t := range []time.Time{p.graceEnds, p.retry} {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	return at
}

// Trigger asks for a round at once: everything due is closed and delivered. It returns without waiting; several calls
// before the round begins make one. Without a running [Service.Run] the round is made when it starts.
func (s *Service) Trigger() {
	s.mu.Lock()
	s.triggered = true
	s.wake()
	s.mu.Unlock()
}

// wake ends the wait of the loop. The caller holds the lock.
func (s *Service) wake() {
	if s.cancelWait != nil {
		s.cancelWait()
	}
}

// CloseNow closes every window that is due at until, makes one delivery pass and tells what happened. It works with or
// without a running [Service.Run] and waits for a round under way. The summary is valid, as far as things went, also with
// an error. An until beyond the clock is refused with an error that wraps [ErrFuture], and everything with one that wraps
// [ErrNotHolder] while another process holds the lease.
func (s *Service) CloseNow(ctx context.Context, until time.Time) (Summary, error) {
	var sum Summary
	held := s.lease.state().Held
	ctx, done := s.lease.work(ctx)
	defer done()
	if err := s.lease.hold(ctx); err != nil {
		return sum, err
	}
	if s.o.Lease != nil && !held {
		defer s.Trigger() // it came to this process just now, with everything that is due beyond until
	}
	err := s.guard("close now", func() (err error) {
		sum.Closed, err = s.close(ctx, until, 0)
		return err
	})
	if errors.Is(err, ErrFuture) || s.o.Reporter == nil {
		return sum, err
	}
	err = errors.Join(err, s.guard("deliver now", func() (err error) {
		sum.Delivered, err = s.o.Reporter.RunOnce(ctx)
		return err
	}))
	if cause := context.Cause(ctx); errors.Is(cause, ErrNotHolder) {
		s.standBy()
		return sum, fmt.Errorf("not to its end: %w", cause)
	}
	if err != nil || sum.Delivered.Left() { // otherwise the loop may still have something else to repeat
		s.planRetry(err, sum.Delivered)
		s.mu.Lock()
		s.replan = true
		s.wake()
		s.mu.Unlock()
	}
	return sum, err
}

// round closes what is due and delivers until nothing moves any more, and plans what is to be done about the rest.
func (s *Service) round(ctx context.Context, scheduled bool) {
	var delivered PassSummary
	workCtx, done := s.lease.work(ctx)
	err := s.guard("round", func() error { return s.work(workCtx, &delivered) })
	if cause := context.Cause(workCtx); errors.Is(cause, ErrNotHolder) {
		err = cause
	}
	done()
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, ErrNotHolder) {
		s.standBy()
		return
	}
	if err != nil {
		s.log.Error("round failed, it will be repeated", "err", err)
	}
	s.planRetry(err, delivered)
	s.planGrace(scheduled)
}

// guard turns a panic into an error.
func (s *Service) guard(what string, do func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("panic", "in", what, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: internal error: %v", what, v)
		}
	}()
	return do()
}

// standBy clears what was planned, and what went wrong: both are another process's now. Getting the lease begins a round.
func (s *Service) standBy() {
	if s.o.Reporter != nil {
		s.o.Reporter.standBy()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan.retry, s.plan.graceEnds, s.plan.failures, s.plan.faults = time.Time{}, time.Time{}, 0, 0
	s.closeErr, s.guardErr = nil, nil
}

// work closes and delivers in steps. Failing to close does not keep what is closed already from being delivered.
func (s *Service) work(ctx context.Context, delivered *PassSummary) error {
	for {
		if err := s.lease.hold(ctx); err != nil {
			return err
		}
		closed, closeErr := s.close(ctx, s.o.Clock.Now(), windowsPerStep)
		if s.o.Reporter != nil {
			if err := s.deliver(ctx, delivered); err != nil {
				return errors.Join(closeErr, err)
			}
		}
		if closeErr != nil || closed.Windows < windowsPerStep || ctx.Err() != nil {
			return closeErr
		}
	}
}

// close closes due windows, if the clock can be trusted, and remembers the outcome for the status.
func (s *Service) close(ctx context.Context, until time.Time, limit int) (ClosedSummary, error) {
	if err := s.checkGuard(ctx); err != nil {
		return ClosedSummary{}, err
	}
	err := s.catchUpLives(ctx)
	sum, closeErr := s.o.Closer.closeSome(ctx, until, limit)
	if errors.Is(closeErr, ErrFuture) {
		return sum, closeErr
	}
	err = errors.Join(err, closeErr)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeErr = err
	return sum, err
}

// checkGuard asks the guard and remembers its answer for the status.
func (s *Service) checkGuard(ctx context.Context) error {
	if s.o.Guard == nil {
		return nil
	}
	err := s.o.Guard.Check(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("nothing is closed: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guardErr = err
	return err
}

// catchUpLives has the closer deal with what an earlier process left behind, or another one that can act on the books and
// didn't come to the end.
func (s *Service) catchUpLives(ctx context.Context) error {
	billed, err := s.o.Closer.CatchUpLives(ctx)
	if err != nil {
		return fmt.Errorf("catch up releases and freezes: %w", err)
	}
	if billed > 0 {
		s.log.Info("releases and freezes that were left behind are billed", "count", billed)
	}
	return nil
}

// deliver makes passes until nothing is due, or nothing moves.
func (s *Service) deliver(ctx context.Context, delivered *PassSummary) error {
	for {
		if err := s.lease.hold(ctx); err != nil {
			return err
		}
		sum, err := s.o.Reporter.RunOnce(ctx)
		delivered.merge(sum)
		if err != nil {
			return err
		}
		if sum.DueLeft == 0 || sum.Stopped != StopNone || !sum.Progress() {
			return nil
		}
	}
}

// planRetry plans the next attempt when something was left undone.
func (s *Service) planRetry(err error, delivered PassSummary) {
	now := s.o.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan.faults++
	if err == nil {
		s.plan.faults = 0
	}
	if err == nil && !delivered.Left() {
		s.plan.retry, s.plan.failures = time.Time{}, 0
		return
	}
	s.plan.failures++
	if delivered.Progress() {
		s.plan.failures = 1
	}
	s.plan.retry = time.Time{}
	if err != nil {
		s.plan.retry = s.o.Retry.AfterFault(now, s.plan.faults, s.o.Random)
	}
	for _, d := range []*PassSummary{&delivered, delivered.Shadow} {
		if d == nil || d.Unsettled == 0 {
			continue
		}
		next := s.o.Retry.Next
		if d.Stopped == StopBreaker {
			next = s.o.Retry.AfterBreaker
		}
		at := next(now, d.NewestDue.End, s.plan.failures, d.RetryAt, s.o.Random)
		if s.plan.retry.IsZero() || at.Before(s.plan.retry) {
			s.plan.retry = at
		}
	}
	s.log.Debug("retry planned", "at", s.plan.retry, "attempt", s.plan.failures, "due_left", delivered.DueLeft)
}

// planGrace makes up for a schedule that comes while the last window is still in its grace period.
func (s *Service) planGrace(scheduled bool) {
	now := s.o.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if ends := meter.HourOf(now).Start.Add(s.o.Closer.o.Grace); scheduled && ends.After(now) {
		s.plan.graceEnds = s.jittered(ends)
		return
	}
	if !s.plan.graceEnds.After(now) {
		s.plan.graceEnds = time.Time{}
	}
}
