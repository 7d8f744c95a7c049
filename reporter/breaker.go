package reporter

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// BreakerState is the state of a circuit breaker. The numbers appear in metrics.
type BreakerState uint8

// The states of a breaker.
const (
	// BreakerClosed: calls go through.
	BreakerClosed BreakerState = iota
	// BreakerHalfOpen: the next call is a probe with one real record; its answer decides.
	BreakerHalfOpen
	// BreakerOpen: no calls until the timeout has passed.
	BreakerOpen
)

// String is "closed", "half-open" or "open".
func (s BreakerState) String() string {
	switch s {
	case BreakerClosed:
		return "closed"
	case BreakerHalfOpen:
		return "half-open"
	case BreakerOpen:
		return "open"
	}
	return ""
}

// MarshalText writes [BreakerState.String].
func (s BreakerState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// BreakerChange is one line of a breaker's story.
type BreakerChange struct {
	At   time.Time    `json:"at"`
	From BreakerState `json:"from"`
	To   BreakerState `json:"to"`
	// Reason is what led to the change: the marketplace's last answer, the end of the open time, or who reset it.
	Reason string `json:"reason"`
	// Failures is how many sick answers in a row there had been.
	Failures uint32 `json:"failures"`
	// RetryAt is when the next probe may go out; zero unless To is BreakerOpen.
	RetryAt time.Time `json:"retry_at"`
}

// storyLength bounds how many changes a breaker remembers: an outage of an hour has about 60 of them, and what matters is how
// it began and how it stands, so the first change of an outage is never crowded out by its probes (see tell).
const storyLength = 50

var (
	errBreakerOpen = errors.New("the breaker is open")
	errSick        = errors.New("the endpoint is sick")
	// errNotCalled ends a permitted call that was never made; it counts neither way.
	errNotCalled = errors.New("no call was made")
)

// breaker guards the calls to one marketplace.
//
// gobreaker is the state machine: it counts failures in a row, lets one probe through when half-open and ignores answers
// that come after a change of state. It reads the machine's clock by itself, though, and only for one thing: how long it
// stays open. That part is kept here on the injected clock (openUntil), and gobreaker is given the shortest timeout there is,
// so that a breaker on an accelerated clock opens and closes at the accelerated pace.
type breaker struct {
	name    string
	limit   uint32                            // failures in a row that open it
	openFor func(now time.Time) time.Duration // how long it stays open when it opens now
	now     func() time.Time
	changed func(BreakerChange) // called without the breaker's own mutex

	mu        sync.Mutex
	cb        *gobreaker.TwoStepCircuitBreaker[struct{}]
	openUntil time.Time     // zero unless open
	openTime  time.Duration // for which it was opened
	failures  uint32        // sick answers in a row
	reason    string        // of the change that the next call of gobreaker may make
	story     []BreakerChange
}

// newBreaker returns a closed breaker that opens after the given number of failures in a row. changed may be nil; it is
// called from within the breaker and must not call back into it.
func newBreaker(name string, failures uint32, openFor func(time.Time) time.Duration, now func() time.Time, changed func(BreakerChange)) *breaker {
	b := &breaker{name: name, limit: failures, openFor: openFor, now: now, changed: changed}
	b.cb = b.newMachine()
	return b
}

// newMachine makes the state machine. A replaced one (after a reset) changes nothing any more.
func (b *breaker) newMachine() *gobreaker.TwoStepCircuitBreaker[struct{}] {
	var cb *gobreaker.TwoStepCircuitBreaker[struct{}]
	cb = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         b.name,
		MaxRequests:  1,
		Timeout:      time.Nanosecond,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= b.limit },
		IsSuccessful: func(err error) bool { return err == nil },
		IsExcluded:   func(err error) bool { return errors.Is(err, errNotCalled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			b.onChange(cb, breakerState(from), breakerState(to))
		},
	})
	return cb
}

// onChange is called by gobreaker with its lock held.
func (b *breaker) onChange(cb *gobreaker.TwoStepCircuitBreaker[struct{}], from, to BreakerState) {
	b.mu.Lock()
	if cb != b.cb {
		b.mu.Unlock()
		return
	}
	now := b.now()
	b.openUntil = time.Time{}
	change := BreakerChange{At: now.UTC(), From: from, To: to, Reason: b.reason, Failures: b.failures}
	switch to {
	case BreakerOpen:
		b.openTime = b.openFor(now)
		b.openUntil = now.Add(b.openTime)
		change.RetryAt = b.openUntil.UTC()
	case BreakerHalfOpen:
		change.Reason = "the open time is over, the next due record is the probe"
	case BreakerClosed:
	}
	b.tell(change)
	b.mu.Unlock()
	if b.changed != nil {
		b.changed(change)
	}
}

// tell appends to the story. What is crowded out is the second oldest change after the last opening from closed, so that the
// beginning of a long outage stays. The caller holds the lock.
func (b *breaker) tell(c BreakerChange) {
	b.story = append(b.story, c)
	if len(b.story) <= storyLength {
		return
	}
	drop := 0
	if began := b.story[0]; began.From == BreakerClosed && began.To == BreakerOpen &&
		!slices.ContainsFunc(b.story[1:], func(c BreakerChange) bool { return c.To == BreakerClosed }) {
		drop = 1 // one outage fills all of it: keep how it began
	}
	b.story = slices.Delete(b.story, drop, drop+1)
}

// history returns the last changes, oldest first.
func (b *breaker) history() []BreakerChange {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.story)
}

// reset closes the breaker by hand and forgets the failures. Answers to calls under way count for nothing.
func (b *breaker) reset(reason string) {
	from := b.state()
	b.mu.Lock()
	change := BreakerChange{At: b.now().UTC(), From: from, To: BreakerClosed, Reason: reason, Failures: b.failures}
	b.cb = b.newMachine()
	b.openUntil, b.failures, b.reason = time.Time{}, 0, ""
	b.tell(change)
	b.mu.Unlock()
	if b.changed != nil {
		b.changed(change)
	}
}

// retryAt returns when the next probe may go out; the zero time when calls are permitted now.
func (b *breaker) retryAt() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.openUntil.IsZero() {
		return time.Time{}
	}
	now := b.now()
	if left := b.openUntil.Sub(now); left > b.openTime { // the clock was set back: never wait longer than it was opened for
		b.openUntil = now.Add(b.openTime)
	} else if left <= 0 {
		return time.Time{}
	}
	return b.openUntil
}

// machine returns the current state machine.
func (b *breaker) machine() *gobreaker.TwoStepCircuitBreaker[struct{}] {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cb
}

// state returns the current state; an open breaker whose timeout has passed is half-open.
func (b *breaker) state() BreakerState {
	if !b.retryAt().IsZero() {
		return BreakerOpen
	}
	return breakerState(b.machine().State())
}

// allow asks for permission for one call. The caller calls done exactly once, with the answer's class and what it said, or with
// 0 when it made no call after all.
func (b *breaker) allow() (done func(class Class, said string), err error) {
	if !b.retryAt().IsZero() {
		return nil, errBreakerOpen
	}
	cb := b.machine()
	report, err := cb.Allow()
	if err != nil {
		return nil, errBreakerOpen
	}
	return func(class Class, said string) {
		if class == 0 {
			report(errNotCalled)
			return
		}
		b.count(cb, class, said)
		if class.Sick() {
			report(errSick)
			return
		}
		report(nil)
	}, nil
}

// count keeps what a change that this answer causes will be explained with.
func (b *breaker) count(cb *gobreaker.TwoStepCircuitBreaker[struct{}], class Class, said string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cb != b.cb {
		return // reset meanwhile
	}
	b.reason = class.String()
	if said != "" {
		b.reason += ": " + said
	}
	if class.Sick() {
		b.failures++
		return
	}
	b.failures = 0
}

func breakerState(s gobreaker.State) BreakerState {
	switch s {
	case gobreaker.StateClosed:
		return BreakerClosed
	case gobreaker.StateHalfOpen:
		return BreakerHalfOpen
	case gobreaker.StateOpen:
		return BreakerOpen
	}
	return BreakerClosed
}
