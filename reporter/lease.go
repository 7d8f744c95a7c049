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
	// lost ends what is under way, should the lease be lost: a round, closes by hand.
	lost map[*leasedWork]struct{}
	// ended says that the loop is over: whoever works last gives the lease up.
	ended bool
}

// leasedWork is something under way that only the holder may do.
type leasedWork struct{ end context.CancelCauseFunc }

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
	held, err = k.holdInTime(ctx)
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
	k.mu.Unlock()
	switch {
	case err != nil:
		k.s.log.Warn("the lease can't be renewed", "err", err, "held", after.Held)
		if silent && before.Held {
			k.endWork()
		}
	case after.Held && (!before.Held || before.At.IsZero()):
		k.s.log.Info("lease acquired, this daemon closes and delivers")
	case !after.Held && before.Held:
		k.s.log.Warn("lease lost, another daemon closes and delivers")
		k.endWork()
	case !after.Held:
		k.s.log.Debug("another daemon holds the lease")
	}
	return held, err
}

// holdInTime asks the lease. A store that hangs must not keep a holder from noticing that its time may have run out; taking a
// lease may take as long as the store permits.
func (k *leaseKeeper) holdInTime(ctx context.Context) (held bool, err error) {
	if k.state().Held {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, toleratedSilence*k.s.o.LeaseInterval)
		defer cancel()
	}
	return k.lease.Hold(ctx)
}

// endWork ends what is under way, because the lease is lost.
func (k *leaseKeeper) endWork() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for w := range k.lost {
		w.end(ErrNotHolder)
	}
}

// work returns a context that ends when the lease is lost. The caller calls done. The last one to do so when the loop is over
// gives the lease up.
func (k *leaseKeeper) work(ctx context.Context) (workCtx context.Context, done func()) {
	if k.lease == nil {
		return ctx, func() {}
	}
	workCtx, cancel := context.WithCancelCause(ctx)
	w := &leasedWork{cancel}
	k.mu.Lock()
	if k.lost == nil {
		k.lost = map[*leasedWork]struct{}{}
	}
	k.lost[w] = struct{}{}
	k.mu.Unlock()
	return workCtx, func() {
		k.mu.Lock()
		delete(k.lost, w)
		last := k.ended && len(k.lost) == 0
		k.mu.Unlock()
		cancel(nil)
		if last {
			k.giveUp(context.WithoutCancel(ctx))
		}
	}
}

// keep renews the lease until ctx ends and then gives it up, as soon as nothing is under way that needs it. Leases run out by the machine's monotonic clock (ADR 9), so this
// waits by it too and not by the injected one. A lease that comes to this process begins a round.
func (k *leaseKeeper) keep(ctx context.Context, interval time.Duration) {
	k.mu.Lock()
	k.ended = false
	k.mu.Unlock()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			k.end(context.WithoutCancel(ctx))
			return
		case <-ticker.C:
		}
		before := k.state().Held
		if held, err := k.ask(ctx); held && err == nil && !before {
			k.s.Trigger()
		}
	}
}

// end gives the lease up, or leaves that to the close by hand that is under way.
func (k *leaseKeeper) end(ctx context.Context) {
	k.mu.Lock()
	k.ended = true
	busy := len(k.lost) > 0
	k.mu.Unlock()
	if !busy {
		k.giveUp(ctx)
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
