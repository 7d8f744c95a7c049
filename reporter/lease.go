package reporter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrNotHolder is returned when another daemon holds the lease and books and delivers instead of this one.
var ErrNotHolder = errors.New("another daemon holds the lease; it closes and delivers")

// defaultLeaseInterval is how often a lease is renewed, or tried to be taken, when nothing else is said.
const defaultLeaseInterval = 5 * time.Second

// toleratedSilence is for how many intervals work goes on while the books don't say whether the lease is still held: less
// than the lease's time, which is three or more of them.
const toleratedSilence = 2

// leaseGiveUp bounds giving the lease up at the end.
const leaseGiveUp = 5 * time.Second

// LeaseStatus tells about the lease.
type LeaseStatus struct {
	// Held says whether this process held the lease when it last asked.
	Held bool `json:"held"`
	// At is when that was, Since when it began to be so; both zero before the first question.
	At    time.Time `json:"at"`
	Since time.Time `json:"since"`
	// Err is why the last question failed, "" if it did not.
	Err string `json:"err,omitempty"`
}

// leaseKeeper asks for the lease before each step and, in between, at a bounded interval. A nil lease is always held.
type leaseKeeper struct {
	s     *Service
	lease Lease

	mu     sync.Mutex
	status LeaseStatus
	// answered is when the last question was answered, by the monotonic clock.
	answered time.Time
	// lost ends the work under way, should the lease be lost; nil while none is.
	lost context.CancelCauseFunc
}

// hold acquires or renews the lease. The error wraps [ErrNotHolder] when another process has it.
func (k *leaseKeeper) hold(ctx context.Context) error {
	if k.lease == nil {
		return nil
	}
	held, err := k.ask(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("renew the lease: %w", err)
	case err != nil:
		return err
	case !held:
		return ErrNotHolder
	}
	return nil
}

// ask asks once and keeps the answer.
func (k *leaseKeeper) ask(ctx context.Context) (held bool, err error) {
	held, err = k.lease.Hold(ctx)
	if ctx.Err() != nil {
		return held, err
	}
	now := k.s.o.Clock.Now()
	k.mu.Lock()
	before := k.status
	after := LeaseStatus{Held: held, At: now, Since: before.Since}
	silent := false
	if err != nil {
		// Not an answer. A hiccup of the store must not break off the work under way, but when it lasts the lease may have run
		// out.
		silent = time.Since(k.answered) > toleratedSilence*k.s.o.LeaseInterval
		after.Held, after.Err = before.Held && !silent, err.Error()
	} else {
		k.answered = time.Now() //nolint:forbidigo // leases go by the machine's clock
	}
	if before.At.IsZero() || before.Held != after.Held {
		after.Since = now
	}
	k.status = after
	lost := k.lost
	k.mu.Unlock()
	switch {
	case err != nil:
		k.s.log.Warn("the lease can't be renewed", "err", err, "held", after.Held)
		if silent && before.Held && lost != nil {
			lost(ErrNotHolder)
		}
	case after.Held && (!before.Held || before.At.IsZero()):
		k.s.log.Info("lease acquired, this daemon closes and delivers")
	case !after.Held && before.Held:
		k.s.log.Warn("lease lost, another daemon closes and delivers")
		if lost != nil {
			lost(ErrNotHolder)
		}
	case !after.Held:
		k.s.log.Debug("another daemon holds the lease")
	}
	return held, err
}

// work returns a context that ends when the lease is lost. The caller calls done.
func (k *leaseKeeper) work(ctx context.Context) (workCtx context.Context, done func()) {
	if k.lease == nil {
		return ctx, func() {}
	}
	workCtx, cancel := context.WithCancelCause(ctx)
	k.mu.Lock()
	k.lost = cancel
	k.mu.Unlock()
	return workCtx, func() {
		k.mu.Lock()
		k.lost = nil
		k.mu.Unlock()
		cancel(nil)
	}
}

// keep renews the lease until ctx ends and then gives it up. Leases run out by the machine's monotonic clock (ADR 9), so this
// waits by it too and not by the injected one. A lease that comes to this process begins a round.
func (k *leaseKeeper) keep(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			k.giveUp(context.WithoutCancel(ctx))
			return
		case <-ticker.C:
		}
		before := k.state().Held
		if held, err := k.ask(ctx); held && err == nil && !before {
			k.s.Trigger()
		}
	}
}

// giveUp releases the lease so that another daemon need not wait for it to run out.
func (k *leaseKeeper) giveUp(ctx context.Context) {
	if !k.state().Held {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaseGiveUp)
	defer cancel()
	if err := k.lease.Release(ctx); err != nil {
		k.s.log.Warn("the lease can't be given up, it runs out by itself", "err", err)
	}
	k.mu.Lock()
	k.status.Held = false
	k.mu.Unlock()
}

func (k *leaseKeeper) state() LeaseStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}
