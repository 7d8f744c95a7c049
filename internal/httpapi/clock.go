package httpapi

import (
	"net/http"
	"time"

	"github.com/meterd/meterd/reporter"
)

// Clock is the guard of the machine's clock; [reporter.ClockGuard] implements it.
type Clock interface {
	State() reporter.ClockState
	// Trust takes the clock as it is now for right.
	Trust()
}

var errNoClock = notAvailable("this daemon's clock is not guarded")

// clockView is the state of the machine's clock in the API.
type clockView struct {
	Now time.Time `json:"now"`
	// Ahead is in seconds; negative: behind.
	Ahead    float64             `json:"ahead_seconds"`
	Refusing bool                `json:"refusing"`
	Since    *time.Time          `json:"since,omitempty"`
	Trust    reporter.ClockTrust `json:"trust"`
	Steps    int                 `json:"steps"`
}

func (a *API) viewClock() clockView {
	s := a.o.Doors.Clock.State()
	return clockView{
		Now: a.o.Now().UTC(), Ahead: s.Ahead.Round(time.Millisecond).Seconds(), Refusing: s.Refusing, Since: optionalTime(s.Since), Trust: s.Trust, Steps: s.Steps,
	}
}

// getClock shows whether hours are closed by this machine's clock.
func (a *API) getClock(w *response, r *http.Request) error {
	if a.o.Doors.Clock == nil {
		return errNoClock
	}
	if err := readParams(r.URL).err(); err != nil {
		return err
	}
	return writeJSON(w, a.viewClock())
}

// postClockTrust takes a person's word that the clock is right. Hours that were not closed for its sake are closed then.
func (a *API) postClockTrust(w *response, r *http.Request) error {
	if a.o.Doors.Clock == nil {
		return errNoClock
	}
	var body actFields
	if err := a.readAct(w, r, &body); err != nil {
		return err
	}
	actor, reason, err := body.person(w)
	if err != nil {
		return err
	}
	ctx, cancel := finishing(r)
	defer cancel()
	if a.o.Doors.Audit != nil {
		detail := "ahead by " + a.o.Doors.Clock.State().Ahead.Round(time.Second).String()
		if err := a.audit(ctx, reporter.AuditEntry{Actor: actor, Action: "clock_trust", Target: "clock", Reason: reason, Detail: detail}); err != nil {
			return err
		}
	}
	a.o.Doors.Clock.Trust()
	a.o.Logger.Warn("the machine's clock was confirmed", "actor", actor)
	return writeJSON(w, a.viewClock())
}
