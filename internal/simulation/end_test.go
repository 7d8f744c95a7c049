package simulation_test

import (
	"fmt"
	"slices"

	"github.com/meterd/meterd/internal/sandbox"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// checkEnd checks what must be true once everything came to rest.
func (w *world) checkEnd() {
	w.faults = append(w.faults, w.books.Violations()...)
	w.faults = append(w.faults, w.books.CheckConservation(w.plan.meters)...)
	if len(w.spool) > 0 {
		w.fault("%d events are still on their way", len(w.spool))
	}
	if want := meter.HourOf(w.now.Add(-grace)).Start; !w.oracle.closed.Equal(want) {
		w.fault("hours are closed until %s, want %s", w.oracle.closed, want)
	}
	w.faults = append(w.faults, w.oracle.unaccounted()...)
	if open, err := w.books.ReleasedWithoutFinal(background, 10); err != nil || len(open) > 0 {
		w.fault("not dealt with: %v, %v", open, err)
	}
	unsettled, err := w.books.UnsettledBookings(background)
	if err != nil || len(unsettled) > 0 {
		w.fault("%d bookings are not settled, the first %+v, %v", len(unsettled), unsettled, err)
	}
	w.checkSandbox(w.market, reporter.ModeLive)
	w.checkSandbox(w.shadow, reporter.ModeShadow)
	w.checkPlaces()
}

// checkSandbox compares the marketplace's books with ours, record by record.
func (w *world) checkSandbox(market *sandbox.Sandbox, mode reporter.Mode) {
	if err := market.Advance(); err != nil {
		w.fault("advance: %v", err)
	}
	if err := market.Validate(); err != nil {
		w.fault("validate: %v", err)
	}
	theirs, failed, windows := map[string]sandbox.Record{}, map[string]bool{}, map[string]bool{}
	for _, r := range market.Records() {
		if r.State == sandbox.StateAbnormal {
			failed[r.MeteringSN] = true
			w.checkRefused(r)
			continue
		}
		window := r.InstanceID + " " + r.BeginTime + " " + r.EndTime
		if windows[window] {
			w.fault("the sandbox counts two records of %s", window)
		}
		windows[window] = true
		theirs[r.MeteringSN] = r
		ours, ok := w.oracle.records[reporter.MeteringSN(r.MeteringSN)]
		state := w.books.State(reporter.MeteringSN(r.MeteringSN))
		switch {
		case !ok:
			w.fault("the sandbox has record %s, which is not in the books", r.MeteringSN)
		case state != reporter.StateAccepted && state != reporter.StateConfirmed && state != reporter.StateShadowed:
			w.fault("the sandbox has record %s of %s, in the books it is %s", r.MeteringSN, window, state)
		case ours.Billed.String() != r.UsageValue || ours.Mode != mode:
			w.fault("record %s: the sandbox has %s, the books %s", r.MeteringSN, r.UsageValue, ours.Billed)
		}
	}
	for _, r := range w.books.All() {
		accepted := r.Last.State == reporter.StateAccepted && mode == reporter.ModeLive || r.Last.State == reporter.StateShadowed && mode == reporter.ModeShadow
		if _, has := theirs[string(r.SN)]; accepted && !has && !failed[string(r.SN)] {
			w.fault("record %s of %s %s is %s in the books, the sandbox does not have it", r.SN, r.InstanceID, r.Window, r.Last.State)
		}
	}
}

// checkRefused looks at why the marketplace refused a record: some reasons must never occur.
func (w *world) checkRefused(r sandbox.Record) {
	switch r.Code {
	case sandbox.RecordDuplicateSN, sandbox.RecordBadState, sandbox.RecordUnknownInstance, sandbox.RecordForeign:
	case sandbox.RecordBadRange:
		// The instance was released by the marketplace before we learned of it: fine if the record was booked before.
		ours := w.oracle.records[reporter.MeteringSN(r.MeteringSN)]
		if problem := w.outsideLife(ours, ours.Window.Start, ours.Window.End); problem != "" {
			w.fault("the sandbox refused record %s: %s", r.MeteringSN, problem)
		}
	default:
		w.fault("the sandbox refused record %s of %s %s to %s with %s", r.MeteringSN, r.InstanceID, r.BeginTime, r.EndTime, r.Code)
	}
}

// checkPlaces adds everything up by state: accepted + shadowed + dry run + held + written off + unbillable + balance, and
// nothing still due, is what was booked, and what was booked is what was sent.
func (w *world) checkPlaces() {
	want := map[reporter.Account]meter.Quantity{}
	for key, q := range w.oracle.expected() {
		a := reporter.Account{Subject: key.subject, Meter: key.meter}
		if key.hour < w.oracle.closed.Unix() {
			want[a] = want[a].Add(q)
		} else if early, ok := w.oracle.usage[key]; ok { // of the running hour, by a release or freeze
			want[a] = want[a].Add(early)
		}
	}
	var faults []string
	for _, s := range w.books.Sums(true, w.plan.meters) {
		a := reporter.Account{Subject: s.Subject, Meter: s.Meter}
		total := s.Balance.Add(s.Held).Add(s.WrittenOff).Add(s.Unbillable)
		for state, q := range s.Records {
			total = total.Add(q)
			if state.Due() && !q.IsZero() {
				faults = append(faults, fmt.Sprintf("%s: %s is still %s", a, q, state))
			}
		}
		if w.oracle.meters[a.Meter].Billed && !total.Equal(want[a]) {
			faults = append(faults, fmt.Sprintf("%s: the books hold %s, sent was %s", a, total, want[a]))
		}
		delete(want, a)
	}
	for a, q := range want {
		if !q.IsZero() {
			faults = append(faults, fmt.Sprintf("%s: nothing in the books, sent was %s", a, q))
		}
	}
	slices.Sort(faults)
	w.faults = append(w.faults, faults...)
}
