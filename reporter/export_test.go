package reporter

import "time"

// Breaker opens the breaker to tests.
type Breaker = breaker

// NewBreaker is newBreaker.
func NewBreaker(failures uint32, timeout time.Duration, now func() time.Time, changed func(BreakerChange)) *Breaker {
	return newBreaker("test", failures, func(time.Time) time.Duration { return timeout }, now, changed)
}

// Allow is allow.
func (b *breaker) Allow() (done func(Class, string), err error) { return b.allow() }

// Reset is reset.
func (b *breaker) Reset(reason string) { b.reset(reason) }

// Story is history.
func (b *breaker) Story() []BreakerChange { return b.history() }

// State is state.
func (b *breaker) State() BreakerState { return b.state() }

// RetryAt is retryAt.
func (b *breaker) RetryAt() time.Time { return b.retryAt() }

// BatchSize opens what is learned about the size of batches.
type BatchSize struct{ b batchSize }

// NewBatchSize is newBatchSize.
func NewBatchSize(highest int) *BatchSize { return &BatchSize{newBatchSize(highest)} }

// Limit is the current limit.
func (s *BatchSize) Limit() int { return s.b.limit }

// TooLarge is tooLarge.
func (s *BatchSize) TooLarge(n int) { s.b.tooLarge(n) }

// Accepted is accepted.
func (s *BatchSize) Accepted(n int) { s.b.accepted(n) }
