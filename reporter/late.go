package reporter

import (
	"fmt"
	"time"

	"github.com/meterd/meterd/meter"
)

// placeLate puts a difference of a window that was billed already, or can't be billed, where ADR 9 says, and labels it
// with its true hour.
func (p *posting) placeLate(e entry) {
	if e.diff.Sign() < 0 {
		e.diff = p.takeBack(e)
	}
	if e.diff.IsZero() {
		return
	}
	into, reason := p.lateInto(e)
	a := Adjustment{
		Hour: e.hour, Subject: e.account.Subject, Meter: e.account.Meter, InstanceID: e.slot.target.InstanceID,
		Quantity: e.diff, Into: into, Of: e.of, Reason: reason,
	}
	switch into {
	case IntoRecord:
		a.Record = p.bill(e)
	case IntoBalance:
		p.addBalance(e.account, e.diff)
	case IntoHeld, IntoWrittenOff, IntoUnbillable:
	}
	p.adjust(a, string(e.of))
}

// lateInto is the table of ADR 9, "Late usage".
func (p *posting) lateInto(e entry) (into Destination, reason string) {
	s := e.slot
	terms := p.c.terms(e.account.Meter)
	released := p.released(s)
	switch {
	case e.diff.Sign() < 0:
		return IntoBalance, "usage was corrected downwards: a credit for later usage"
	case s.into == IntoUnbillable, s.into == IntoHeld && e.way != wayDecided:
		return s.into, s.why
	case !released.IsZero():
		why := p.noRecord(e)
		if why == "" {
			return IntoRecord, "its window was idle"
		}
		return IntoUnbillable, fmt.Sprintf("the instance was released at %s, and %s", released.UTC().Format(time.RFC3339), why)
	case e.way == wayDecided:
		return IntoBalance, "approved"
	case p.closed.Before(s.period.End) && terms.Cycle == CycleDaily:
		return IntoBalance, "the day is not billed yet"
	case terms.Late == LateHold:
		return IntoHeld, "it arrived after its window was billed; the meter's policy is hold"
	case terms.Late == LateWriteOff:
		return IntoWrittenOff, "it arrived after its window was billed; the meter's policy is write_off"
	}
	why := p.noRecord(e)
	if why == "" {
		return IntoRecord, "its window was idle"
	}
	return IntoBalance, "it arrived after its window was billed; billed with the next record, as " + why
}

// released returns when the entry's instance was released, if that is booked; zero if not.
func (p *posting) released(s slot) time.Time {
	if s.life == nil || s.life.Released.IsZero() || s.life.Released.After(p.At) || p.unfinished[s.life.InstanceID] {
		return time.Time{}
	}
	return s.life.Released
}

// noRecord says why late usage can't go as a record of its own window; "" if it can.
func (p *posting) noRecord(e entry) string {
	billed, _ := p.split(e.diff.Add(p.balances[e.account]), e.m)
	switch s := e.slot; {
	case !s.mapped:
		return "it has no marketplace instance"
	case len(p.contested[s.target.InstanceID]) > 0:
		return "several accounts share its marketplace instance"
	case s.window.IsZero():
		return s.why
	case p.released(s).IsZero() && p.c.terms(e.account.Meter).Cycle == CycleDaily:
		return "the balance holds usage of the running day" // it may not go into the record of another day
	case s.window.End.After(p.At):
		return "its window has not ended"
	case p.isTaken(e), e.before:
		return "its window was billed already"
	case p.tooOld(s.window):
		return fmt.Sprintf("its window is older than the marketplace takes (%s)", p.c.o.Rules.Limits().MaxAge)
	case billed.IsZero():
		return "it is less than one billable step"
	}
	return ""
}

// tooOld reports whether the marketplace might not take a record of the window by the time it is sent.
func (p *posting) tooOld(w meter.Window) bool {
	limit := p.c.o.Rules.Limits().MaxAge
	return limit > 0 && w.Start.Before(p.At.Add(p.c.o.LateMargin-limit))
}

// difference is what changed of an account's hour.
func difference(now WindowUsage, before HourlyUsage, known bool) (diff meter.Quantity, changed bool) {
	if now.Overflow {
		return meter.Quantity{}, !known
	}
	diff = now.Quantity.Sub(before.Quantity)
	return diff, !known || !diff.IsZero() || now.Events != before.Events
}
