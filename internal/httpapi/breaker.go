package httpapi

import (
	"net/http"
	"time"

	"github.com/meterd/meterd/reporter"
)

var errNoBreaker = notAvailable("this daemon reports to no marketplace (reporting.enabled = false), so there is no breaker")

// breakerView is the breaker in the API.
type breakerView struct {
	State         reporter.BreakerState      `json:"state"`
	RetryAt       *time.Time                 `json:"retry_at,omitempty"`
	Misconfigured *reporter.Misconfiguration `json:"misconfigured,omitempty"`
	LastPassAt    *time.Time                 `json:"last_pass_at,omitempty"`
	DueLeft       uint64                     `json:"due_left"`
	Error         string                     `json:"error,omitempty"`
	// ThrottledUntil is until when the marketplace asked to be left alone.
	ThrottledUntil *time.Time               `json:"throttled_until,omitempty"`
	Story          []reporter.BreakerChange `json:"story"`
	// Standby says that another daemon delivers: its breaker is the one that counts.
	Standby bool `json:"standby,omitempty"`
}

func viewBreaker(s reporter.ReporterStatus) breakerView {
	story := s.BreakerStory
	if story == nil {
		story = []reporter.BreakerChange{}
	}
	return breakerView{
		State: s.Breaker, RetryAt: optionalTime(s.BreakerRetryAt), Misconfigured: s.Misconfigured,
		LastPassAt: optionalTime(s.LastPassAt), DueLeft: s.LastPass.DueLeft, Error: s.Err, ThrottledUntil: optionalTime(s.ThrottledUntil), Story: story,
	}
}

// getBreaker shows whether records are let through to the marketplace.
func (a *API) getBreaker(w *response, r *http.Request) error {
	if a.o.Doors.Breaker == nil {
		return errNoBreaker
	}
	if err := readParams(r.URL).err(); err != nil {
		return err
	}
	v := viewBreaker(a.o.Doors.Breaker.Status())
	v.Standby = a.standby()
	return writeJSON(w, v)
}

// standby reports whether another daemon delivers.
func (a *API) standby() bool { return a.o.Doors.Standby != nil && a.o.Doors.Standby() }

// postBreakerReset lets records through again at once.
func (a *API) postBreakerReset(w *response, r *http.Request) error {
	if a.o.Doors.Breaker == nil {
		return errNoBreaker
	}
	var body actFields
	if err := a.readAct(w, r, &body); err != nil {
		return err
	}
	actor, reason, err := body.person(w)
	if err != nil {
		return err
	}
	if a.standby() {
		return reporter.ErrNotHolder
	}
	ctx, cancel := finishing(r)
	defer cancel()
	if a.o.Doors.Audit != nil {
		if err := a.audit(ctx, reporter.AuditEntry{Actor: actor, Action: "breaker_reset", Target: "breaker", Reason: reason}); err != nil {
			return err
		}
	}
	a.o.Doors.Breaker.ResetBreaker(actor)
	a.o.Logger.Warn("breaker reset by hand", "actor", actor)
	return writeJSON(w, viewBreaker(a.o.Doors.Breaker.Status()))
}
