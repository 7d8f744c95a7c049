package reporter

import (
	"errors"
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
	timeout time.Duration
	now     func() time.Time
	changed func(from, to BreakerState) // called without locks held by the breaker's own mutex
	cb      *gobreaker.TwoStepCircuitBreaker[struct{}]

	mu        sync.Mutex
	openUntil time.Time // zero unless open
}

// newBreaker returns a closed breaker that opens after the given number of failures in a row. changed may be nil; it is
// called from within the breaker and must not call back into it.
func newBreaker(name string, failures uint32, timeout time.Duration, now func() time.Time, changed func(from, to BreakerState)) *breaker {
	b := &breaker{name: name, timeout: timeout, now: now, changed: changed}
	b.cb = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:          name,
		MaxRequests:   1,
		Timeout:       time.Nanosecond,
		ReadyToTrip:   func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failures },
		IsSuccessful:  func(err error) bool { return err == nil },
		IsExcluded:    func(err error) bool { return errors.Is(err, errNotCalled) },
		OnStateChange: b.onChange,
	})
	return b
}

// onChange is called by gobreaker with its lock held.
func (b *breaker) onChange(_ string, from, to gobreaker.State) {
	b.mu.Lock()
	b.openUntil = time.Time{}
	if to == gobreaker.StateOpen {
		b.openUntil = b.now().Add(b.timeout)
	}
	b.mu.Unlock()
	if b.changed != nil {
		b.changed(breakerState(from), breakerState(to))
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
	if left := b.openUntil.Sub(now); left > b.timeout { // the clock was set back: never wait longer than the timeout
		b.openUntil = now.Add(b.timeout)
	} else if left <= 0 {
		return time.Time{}
	}
	return b.openUntil
}

// state returns the current state; an open breaker whose timeout has passed is half-open.
func (b *breaker) state() BreakerState {
	if !b.retryAt().IsZero() {
		return BreakerOpen
	}
	return breakerState(b.cb.State())
}

// allow asks for permission for one call. The caller calls done exactly once, with the answer's class, or with 0 when it made
// no call after all.
func (b *breaker) allow() (done func(Class), err error) {
	if !b.retryAt().IsZero() {
		return nil, errBreakerOpen
	}
	report, err := b.cb.Allow()
	if err != nil {
		return nil, errBreakerOpen
	}
	return func(c Class) {
		switch {
		case c == 0:
			report(errNotCalled)
		case c.Sick():
			report(errSick)
		default:
			report(nil)
		}
	}, nil
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
