package reporter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/meterd/meterd/meter"
)

// staleHours are the hours that wait for their recount.
type staleHours struct {
	hours map[time.Time]StaleHour
	// known is the end of what is known: whether later hours are stale was not read.
	known time.Time
	cut   bool
}

// has reports whether the subject's usage of the hour waits for a recount, or may.
func (s staleHours) has(hour meter.Window, subject string) bool {
	h, stale := s.hours[hour.Start]
	if !stale {
		return s.cut && hour.Start.After(s.known)
	}
	return h.Subjects == nil || slices.Contains(h.Subjects, subject)
}

func (v *verification) readStale(ctx context.Context, until time.Time) (staleHours, error) {
	list, err := v.books.StaleHours(ctx, until, maxStale)
	if err != nil {
		return staleHours{}, fmt.Errorf("read the stale hours: %w", err)
	}
	s := staleHours{hours: make(map[time.Time]StaleHour, len(list)), cut: len(list) >= maxStale}
	for _, h := range list {
		s.hours[h.Hour.Start.UTC()] = h
		s.known = h.Hour.Start
	}
	return s, nil
}

// checkHours counts the stored events of closed hours again and compares them with what was booked, hour by hour: two
// differences that cancel out in the sum of an account are found too.
func (v *verification) checkHours(ctx context.Context) error {
	if !v.o.Recount {
		return nil
	}
	from, to, err := v.hoursToCount(ctx)
	if err != nil {
		return err
	}
	rec := &Recounted{From: from, To: to, Waiting: []WaitingHour{}}
	v.report.Recount = rec
	if !from.Before(to) {
		v.note("no closed hour lies in the time to count again")
		return nil
	}
	stale, err := v.readStale(ctx, to)
	if err != nil {
		return err
	}
	if stale.cut {
		v.note("more than %d hours wait for their recount; later ones were taken as waiting too", maxStale)
	}
	closes, err := v.readCloses(ctx, from, to)
	if err != nil {
		return err
	}
	for hour := meter.HourOf(from); hour.Start.Before(to); hour = hour.Next() {
		if err := v.checkHour(ctx, hour, v.countedMeters(closes[hour.Start]), to, &stale); err != nil {
			return fmt.Errorf("hour %s: %w", hour.Start.Format(time.RFC3339), err)
		}
		rec.Hours++
	}
	slices.Sort(rec.SkippedMeters)
	if len(rec.SkippedMeters) > 0 {
		v.note("usage of meters that are not configured any more, or were changed or declared since, was not counted again: %v", rec.SkippedMeters)
	}
	v.listWaiting(stale, from, to)
	return nil
}

// readCloses reads the closes of [from, to) by the start of their hours.
func (v *verification) readCloses(ctx context.Context, from, to time.Time) (map[time.Time]Booking, error) {
	list, err := v.books.Bookings(ctx, from, to)
	if err != nil {
		return nil, fmt.Errorf("read the closes: %w", err)
	}
	closes := map[time.Time]Booking{}
	for _, b := range list {
		if b.Kind == BookingClose {
			closes[b.Window.Start.UTC()] = b
		}
	}
	return closes, nil
}

// countedMeters are the meters with which an hour can be counted again: those its close counted, as they are declared now.
func (v *verification) countedMeters(b Booking) []meter.Meter {
	if b.Number == 0 {
		return v.o.Meters // never closed: an hour before the first close
	}
	var meters []meter.Meter
	for _, m := range v.o.Meters {
		if b.Counted(m) {
			meters = append(meters, m)
		}
	}
	return meters
}

// hoursToCount is the range of closed hours within what was asked for.
func (v *verification) hoursToCount(ctx context.Context) (from, to time.Time, err error) {
	last, ok, err := v.books.LastClosed(ctx)
	if err != nil || !ok {
		return from, to, err
	}
	to = last.Window.End.UTC()
	if !v.o.To.IsZero() && v.o.To.Before(to) {
		to = v.o.To.UTC()
	}
	if from = v.o.From.UTC(); !v.o.From.IsZero() {
		if whole := from.Truncate(time.Hour); whole.Before(from) {
			from = whole.Add(time.Hour) // an hour belongs to the range when it starts in it
		}
		return from, to, nil
	}
	first, ok, err := v.books.FirstEventHour(ctx)
	if err != nil {
		return from, to, err
	}
	if !ok {
		return to, to, nil
	}
	return first.Start.UTC(), to, nil
}

// checkHour compares one hour. An account is reported when stored and booked usage differ in every try and no touch
// announces it.
func (v *verification) checkHour(ctx context.Context, hour meter.Window, meters []meter.Meter, to time.Time, stale *staleHours) error {
	h := &hourCheck{v: v, hour: hour, meters: map[string]bool{}, open: map[Account]AccountSum{}}
	for _, m := range meters {
		h.meters[m.Slug] = true
	}
	err := v.again(ctx, func(first bool) (int, error) {
		h.first, h.stale = first, *stale
		if err := v.sums(ctx, hour.Start, hour.End, true, meters, h.take); err != nil {
			return 0, err
		}
		if len(h.open) == 0 {
			return 0, nil
		}
		// Events are announced after they are stored, so what was read first may be announced by now.
		fresh, err := v.readStale(ctx, to)
		if err != nil {
			return 0, err
		}
		*stale, h.stale = fresh, fresh
		for a, s := range h.open {
			if fresh.has(hour, a.Subject) {
				delete(h.open, a)
				if err := h.settle(s, VerdictWaiting); err != nil {
					return 0, err
				}
			}
		}
		return len(h.open), nil
	})
	if err != nil {
		return err
	}
	for _, a := range sortedAccounts(h.open) {
		if err := h.settle(h.open[a], VerdictDifferent); err != nil {
			return err
		}
	}
	return nil
}

// hourCheck is the comparison of one hour.
type hourCheck struct {
	v      *verification
	hour   meter.Window
	meters map[string]bool // that can be counted again, by slug
	stale  staleHours
	first  bool
	open   map[Account]AccountSum
}

func (h *hourCheck) take(s AccountSum) error {
	a := Account{Subject: s.Subject, Meter: s.Meter}
	if _, was := h.open[a]; !h.first && !was {
		return nil
	}
	if !h.meters[s.Meter] {
		h.v.skipMeter(s.Meter)
		return nil
	}
	switch {
	case s.Stored.Equal(s.Booked):
		delete(h.open, a)
		return h.settle(s, VerdictOK)
	case h.stale.has(h.hour, s.Subject):
		delete(h.open, a)
		return h.settle(s, VerdictWaiting)
	case h.first && len(h.open) >= maxOpen:
		return h.settle(s, VerdictDifferent)
	}
	h.open[a] = s
	return nil
}

// settle puts an account's hour into totals and export, and into the differences if it differs.
func (h *hourCheck) settle(s AccountSum, verdict Verdict) error {
	v := h.v
	t := v.total(s.Meter)
	t.RecountedStored = t.RecountedStored.Add(s.Stored)
	t.RecountedBooked = t.RecountedBooked.Add(s.Booked)
	if verdict == VerdictOK {
		return nil // one line for every account and hour would be as many as hourly_usage has
	}
	by := s.Booked.Sub(s.Stored)
	if verdict == VerdictWaiting {
		v.report.Recount.WaitingAccounts++
	} else {
		v.differ(usageDifference(s, h.hour, by))
	}
	return v.line(VerifyLine{Check: CheckUsage, Verdict: verdict, Hour: h.hour, Sum: s, By: by})
}

func (v *verification) skipMeter(slug string) {
	rec := v.report.Recount
	if !slices.Contains(rec.SkippedMeters, slug) {
		rec.SkippedMeters = append(rec.SkippedMeters, slug)
	}
}

// listWaiting lists the stale hours of the range, oldest first.
func (v *verification) listWaiting(stale staleHours, from, to time.Time) {
	rec := v.report.Recount
	var starts []time.Time
	for start := range stale.hours {
		if !start.Before(from) && start.Before(to) {
			starts = append(starts, start)
		}
	}
	slices.SortFunc(starts, time.Time.Compare)
	rec.WaitingCount = uint64(len(starts))
	for _, start := range starts[:min(len(starts), v.o.Limit)] {
		h := stale.hours[start]
		rec.Waiting = append(rec.Waiting, WaitingHour{Hour: h.Hour, Subjects: len(h.Subjects), Touches: len(h.Touches)})
	}
}
