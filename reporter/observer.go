package reporter

import "time"

// Call is one call to the marketplace, as an [Observer] sees it.
type Call struct {
	Marketplace string
	Endpoint    string // which of the configured endpoints answered
	Class       Class
	Code        string // the marketplace's own code, "" when there was none
	Records     int
	Latency     time.Duration
}

// Observer is told what happens, for metrics. Its methods are called synchronously and must return quickly; embed
// [NopObserver] to implement only some of them and to keep compiling when one is added.
type Observer interface {
	// RecordsChanged tells that n bill records went to state, once that was durable. Records written by closing a window
	// are told when their window is closed.
	RecordsChanged(state State, n int)
	// CallDone tells of each call to the marketplace.
	CallDone(c Call)
	// Booked tells of each booking, once it is committed, and how long making it took.
	Booked(b Booking, took time.Duration)
	// Adjusted tells that an amount went somewhere else than into its hour's record, once that is committed.
	Adjusted(a Adjustment)
	// BreakerChanged tells of each change of a marketplace's breaker.
	BreakerChanged(marketplace string, to BreakerState)
}

// NopObserver ignores everything.
type NopObserver struct{}

// RecordsChanged does nothing.
func (NopObserver) RecordsChanged(State, int) {}

// CallDone does nothing.
func (NopObserver) CallDone(Call) {}

// Booked does nothing.
func (NopObserver) Booked(Booking, time.Duration) {}

// Adjusted does nothing.
func (NopObserver) Adjusted(Adjustment) {}

// BreakerChanged does nothing.
func (NopObserver) BreakerChanged(string, BreakerState) {}

var _ Observer = NopObserver{}
