package reporter

import "time"

// Breaker opens the breaker to tests.
type Breaker = breaker

// NewBreaker is newBreaker.
func NewBreaker(failures uint32, timeout time.Duration, now func() time.Time, changed func(from, to BreakerState)) *Breaker {
	return newBreaker("test", failures, timeout, now, changed)
}

// Allow is allow.
func (b *breaker) Allow() (done func(Class), err error) { return b.allow() }

// State is state.
func (b *breaker) State() BreakerState { return b.state() }

// RetryAt is retryAt.
func (b *breaker) RetryAt() time.Time { return b.retryAt() }
