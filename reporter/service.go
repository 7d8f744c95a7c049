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
}

// Summary tells what one call of [Service.CloseNow] did.
type Summary struct {
	Closed    ClosedSummary `json:"closed"`
	Delivered PassSummary   `json:"delivered"`
}

// Service closes windows on schedule and delivers their records. It never gives up: an error or a panic in one round is
// logged, and the round is repeated as [RetryPolicy] says.
type Service struct {
	o   ServiceOptions
	log *slog.Logger

	mu         sync.Mutex
	running    bool
	triggered  bool               // a round was asked for
	replan     bool               // the plan for the next retry is out of date
	cancelWait context.CancelFunc // ends the wait of the loop; nil while it does not wait
	plan       plan
	closeErr   error
}

// plan is what the loop waits for.
type plan struct {
	scheduled time.Time // next time on the schedule
	graceEnds time.Time // when a window that had ended but was in its grace period can be closed; zero if none
	retry     time.Time // next attempt after a failure; zero if nothing failed
	failures  int       // rounds in a row that left something undone
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
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Service{o: o, log: o.Logger.With("component", "schedule")}, nil
}

// Run closes and delivers until ctx ends, and then returns nil: first at once, to catch up on what was missed, then on
// schedule. It starts no goroutine that outlives it, and must not be called twice at a time.
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
		s.running, s.plan = false, plan{}
		s.mu.Unlock()
	}()
	s.log.Info("reporting started", "schedule", s.o.Schedule.String())
	began := s.o.Clock.Now()
	s.round(ctx, false)
	// Counted from the beginning of a round, so that an hour that passes during a long one is not skipped.
	s.setScheduled(s.o.Schedule.Next(began))
	for ctx.Err() == nil {
		full, scheduled, err := s.wait(ctx)
		if err != nil {
			break
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

// setScheduled plans the next scheduled round. A day that comes only every eight years is beyond the schedule's search;
// looking again every hour is enough for it.
func (s *Service) setScheduled(at time.Time) {
	if at.IsZero() {
		at = s.o.Clock.Now().Add(time.Hour)
	}
	s.mu.Lock()
	s.plan.scheduled = at
	s.mu.Unlock()
}

// wait sleeps until there is something to do: the schedule, a retry, or a trigger. full is false when only the plan has
// changed meanwhile.
func (s *Service) wait(ctx context.Context) (full, scheduled bool, err error) {
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	until := s.plan.next()
	if !s.triggered && !s.replan {
		s.cancelWait = cancel
	} else {
		cancel()
	}
	s.mu.Unlock()
	err = s.o.Clock.WaitUntil(waitCtx, until)
	now := s.o.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	triggered, replan := s.triggered, s.replan
	s.cancelWait, s.triggered, s.replan = nil, false, false
	switch {
	case ctx.Err() != nil:
		return false, false, ctx.Err()
	case triggered:
		return true, !s.plan.scheduled.After(now), nil
	case replan:
		return false, false, nil
	case err != nil:
		s.log.Error("the clock can't wait", "err", err)
		return false, false, err
	}
	return true, !s.plan.scheduled.After(now), nil
}

// next is the earliest time the plan names.
func (p plan) next() time.Time {
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
// an error. An until beyond the clock is refused with an error that wraps [ErrFuture].
func (s *Service) CloseNow(ctx context.Context, until time.Time) (Summary, error) {
	var sum Summary
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
	if err != nil || sum.Delivered.Unsettled > 0 { // otherwise the loop may still have something else to repeat
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
	err := s.guard("round", func() error { return s.work(ctx, &delivered) })
	if ctx.Err() != nil {
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

// work closes and delivers in steps. Failing to close does not keep what is closed already from being delivered.
func (s *Service) work(ctx context.Context, delivered *PassSummary) error {
	for {
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

// close closes due windows and remembers the outcome for the status.
func (s *Service) close(ctx context.Context, until time.Time, limit int) (ClosedSummary, error) {
	sum, err := s.o.Closer.closeSome(ctx, until, limit)
	if errors.Is(err, ErrFuture) {
		return sum, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeErr = err
	return sum, err
}

// deliver makes passes until nothing is due, or nothing moves.
func (s *Service) deliver(ctx context.Context, delivered *PassSummary) error {
	for {
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
	if err == nil && delivered.Unsettled == 0 {
		s.plan.retry, s.plan.failures = time.Time{}, 0
		return
	}
	s.plan.failures++
	if delivered.Progress() {
		s.plan.failures = 1
	}
	newest := delivered.NewestDue.End
	if err != nil { // what could not be closed or read is at least as new as the last full hour
		newest = meter.HourOf(now).Start
	}
	s.plan.retry = s.o.Retry.Next(now, newest, s.plan.failures, delivered.RetryAt, s.o.Random)
	s.log.Debug("retry planned", "at", s.plan.retry, "attempt", s.plan.failures, "due_left", delivered.DueLeft)
}

// planGrace makes up for a schedule that comes while the last window is still in its grace period.
func (s *Service) planGrace(scheduled bool) {
	now := s.o.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if ends := meter.HourOf(now).Start.Add(s.o.Closer.o.Grace); scheduled && ends.After(now) {
		s.plan.graceEnds = ends
		return
	}
	if !s.plan.graceEnds.After(now) {
		s.plan.graceEnds = time.Time{}
	}
}
