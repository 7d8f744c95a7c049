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
	// BreakerStory is what happened to the breaker lately, oldest first.
	BreakerStory []BreakerChange `json:"breaker_story,omitempty"`
	// ThrottledUntil is until when the marketplace asked to be left alone; zero if it didn't.
	ThrottledUntil time.Time `json:"throttled_until"`
	// BatchLimit is how many records one call may carry now.
	BatchLimit int `json:"batch_limit"`
	// Misconfigured is the alarm raised by the marketplace's refusal of our key, clock or authority; nil if there is none.
	Misconfigured *Misconfiguration `json:"misconfigured,omitempty"`
	// Shadow is the same for the shadow destination; nil if there is none. Its LastPass is that of LastPass.Shadow.
	Shadow *ReporterStatus `json:"shadow,omitempty"`
}

// Status returns the state of delivery. It never waits for a pass under way.
func (r *Reporter) Status() ReporterStatus {
	s := r.laneStatus(r.live)
	if r.shadow.market != nil {
		shadow := r.laneStatus(r.shadow)
		if s.LastPass.Shadow != nil {
			shadow.LastPass = *s.LastPass.Shadow
		} else {
			shadow.LastPass = PassSummary{}
		}
		s.Shadow = &shadow
	}
	return s
}

// laneStatus is the state of one destination.
func (r *Reporter) laneStatus(l *lane) ReporterStatus {
	s := ReporterStatus{
		Breaker: l.breaker.state(), BreakerRetryAt: l.breaker.retryAt(), BreakerStory: l.breaker.history(),
		ThrottledUntil: r.throttledUntil(l),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.LastPassAt, s.LastPass, s.BatchLimit = r.lastAt, r.last, l.shownLimit
	if r.lastErr != nil {
		s.Err = r.lastErr.Error()
	}
	if l.misconfigured != nil {
		alarm := *l.misconfigured
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
	// ClockErr is why nothing is closed although something may be due: the clock can't be trusted. "" if it can.
	ClockErr string `json:"clock_err,omitempty"`
	// Lease tells whether this process books and delivers; nil when there is no lease, and it always does.
	Lease *LeaseStatus `json:"lease,omitempty"`
	// Preflight is the last preflight; nil before the first.
	Preflight *PreflightReport `json:"preflight,omitempty"`
	// Deadline is when reporting stops being on time: for the oldest window that is not settled, or else, and always while
	// another process reports, for the hour that is running. UntilDeadline is the time left, negative when it has passed.
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

// OldestUnsettled is the oldest window with records left to send as of the last pass; the zero window if there is none, or if
// another process delivers them.
func (s Status) OldestUnsettled() meter.Window {
	if s.Delivery == nil || s.Standby() {
		return meter.Window{}
	}
	return s.Delivery.LastPass.OldestDue
}

// DueRecords is the number of records left to send as of the last pass; 0 if another process delivers them.
func (s Status) DueRecords() uint64 {
	if s.Delivery == nil || s.Standby() {
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
	if s.o.Lease != nil {
		lease := s.lease.state()
		st.Lease = &lease
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guardErr != nil {
		st.ClockErr = s.guardErr.Error()
	}
	if !s.preflight.At.IsZero() {
		report := s.preflight
		st.Preflight = &report
	}
	if s.closeErr != nil {
		st.CloseErr = s.closeErr.Error()
	}
	st.NextScheduled, st.NextRetry, st.Failures = s.plan.scheduled, s.plan.retry, s.plan.failures
	waits := meter.HourOf(st.Now)
	if oldest := st.OldestUnsettled(); !oldest.IsZero() {
		waits = oldest
	} else if !st.LastClosed.Window.IsZero() && !st.Standby() { // what another process closed is not known here
		waits = st.LastClosed.Window.Next() // not closed yet, even if it has ended
	}
	st.Deadline = waits.End.Add(s.o.Retry.Deadline)
	st.UntilDeadline = st.Deadline.Sub(st.Now)
	return st
}

// Standby reports whether another process holds the lease and this one neither closes nor delivers.
func (s Status) Standby() bool { return s.Lease != nil && !s.Lease.Held }
