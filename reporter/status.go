package reporter

import (
	"time"

	"github.com/meterd/meterd/meter"
)

// ReporterStatus is the state of delivery as of the last pass.
type ReporterStatus struct { //nolint:revive // there is a status of the service too
	// LastPassAt is when the last pass ended, zero before the first; LastPass is what it did and Err why it failed, "" if it
	// did not.
	LastPassAt time.Time   `json:"last_pass_at"`
	LastPass   PassSummary `json:"last_pass"`
	Err        string      `json:"err,omitempty"`
	// Breaker is the breaker's state now; BreakerRetryAt when it permits the next probe, zero unless it is open.
	Breaker        BreakerState `json:"breaker"`
	BreakerRetryAt time.Time    `json:"breaker_retry_at"`
	// Misconfigured is the alarm raised by the marketplace's refusal of our key, clock or authority; nil if there is none.
	Misconfigured *Misconfiguration `json:"misconfigured,omitempty"`
}

// Status returns the state of delivery. It never waits for a pass under way.
func (r *Reporter) Status() ReporterStatus {
	s := ReporterStatus{Breaker: r.breaker.state(), BreakerRetryAt: r.breaker.retryAt()}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.LastPassAt, s.LastPass = r.lastAt, r.last
	if r.lastErr != nil {
		s.Err = r.lastErr.Error()
	}
	if r.misconfigured != nil {
		alarm := *r.misconfigured
		s.Misconfigured = &alarm
	}
	return s
}

// Status is the state of closing and delivery, for health checks and metrics.
type Status struct {
	Now time.Time `json:"now"`
	// LastClosed is the last window closed by this process or found closed by it; zero if there is none or it is not known yet.
	LastClosed Booking `json:"last_closed"`
	// CloseErr is why the last attempt to close failed, "" if it did not.
	CloseErr string `json:"close_err,omitempty"`
	// Deadline is when reporting stops being on time: for the oldest window that is not settled, or else for the hour that
	// is running. UntilDeadline is the time left, negative when it has passed.
	Deadline      time.Time     `json:"deadline"`
	UntilDeadline time.Duration `json:"until_deadline"`
	// NextScheduled and NextRetry are what the loop waits for; NextRetry is zero when nothing is to be repeated, and both
	// are zero when the loop does not run.
	NextScheduled time.Time `json:"next_scheduled"`
	NextRetry     time.Time `json:"next_retry"`
	// Failures counts the rounds in a row that left something undone.
	Failures int `json:"failures"`
	// Delivery is nil when reporting is disabled.
	Delivery *ReporterStatus `json:"delivery,omitempty"`
}

// OldestUnsettled is the oldest window with records left to send as of the last pass; the zero window if there is none.
func (s Status) OldestUnsettled() meter.Window {
	if s.Delivery == nil {
		return meter.Window{}
	}
	return s.Delivery.LastPass.OldestDue
}

// DueRecords is the number of records left to send as of the last pass.
func (s Status) DueRecords() uint64 {
	if s.Delivery == nil {
		return 0
	}
	return s.Delivery.LastPass.DueLeft
}

// Status returns the state of the service. It never waits for a round under way and asks no database.
func (s *Service) Status() Status {
	st := Status{Now: s.o.Clock.Now()}
	if s.o.Reporter != nil {
		d := s.o.Reporter.Status()
		st.Delivery = &d
	}
	st.LastClosed = s.o.Closer.LastClosed()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeErr != nil {
		st.CloseErr = s.closeErr.Error()
	}
	st.NextScheduled, st.NextRetry, st.Failures = s.plan.scheduled, s.plan.retry, s.plan.failures
	waits := meter.HourOf(st.Now)
	if oldest := st.OldestUnsettled(); !oldest.IsZero() {
		waits = oldest
	} else if !st.LastClosed.Window.IsZero() {
		waits = st.LastClosed.Window.Next() // not closed yet, even if it has ended
	}
	st.Deadline = waits.End.Add(s.o.Retry.Deadline)
	st.UntilDeadline = st.Deadline.Sub(st.Now)
	return st
}
