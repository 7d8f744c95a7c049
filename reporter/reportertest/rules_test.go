package reportertest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// counted returns what counts of the sum meter m in an hour.
func counted(t *testing.T, b *reportertest.Books, w meter.Window) string {
	t.Helper()
	got := "nothing"
	meters := []meter.Meter{{Slug: "m", Aggregation: meter.Sum}}
	err := b.AggregateWindow(t.Context(), reporter.Scope{Hour: w}, meters, func(u reporter.WindowUsage) error {
		got = u.Quantity.String()
		return nil
	})
	if err != nil {
		t.Fatalf("AggregateWindow: %v", err)
	}
	return got
}

func event(id, value string, at, received time.Time, stamped bool) reportertest.Event {
	return reportertest.Event{
		Source: "s", ID: id, Subject: "a", Time: at, Received: received, Stamped: stamped,
		Values: map[string]meter.Quantity{"m": q(value)},
	}
}

func TestWhatCounts(t *testing.T) {
	t.Parallel()
	b := reportertest.NewBooks()
	noon, next := hour.Start, hour.Next()
	b.AddEvent(event("1", "5", noon, noon.Add(2*time.Second), false))
	b.AddEvent(event("1", "7", noon, noon.Add(time.Second), false)) // arrived later, was received first
	if got := counted(t, b, hour); got != "7" {
		t.Errorf("of two contents %s counts, want the 7 that was received first", got)
	}
	b.AddEvent(event("2", "1", next.Start, next.Start, true))
	if got := counted(t, b, next); got != "1" {
		t.Errorf("%s counts, want 1", got)
	}
	b.AddEvent(event("2", "1", noon, noon, true)) // the same event without a time an hour earlier, brought late
	if got := counted(t, b, next); got != "nothing" {
		t.Errorf("%s of the retry counts, want nothing", got)
	}
	stale, err := b.StaleHours(t.Context(), next.End, 10)
	if err != nil || len(stale) != 2 || stale[1].Hour != next || len(stale[1].Touches) != 2 {
		t.Errorf("StaleHours() = %+v, %v, want the retry's hour touched twice", stale, err)
	}
	if n := b.Void(reportertest.EventKey{Hour: noon, Subject: "a", Source: "s", ID: "1"}); n != 1 || counted(t, b, hour) != "1" {
		t.Errorf("Void() = %d and %s counts, want 1 and the other event's 1", n, counted(t, b, hour))
	}
	b.AddEvent(event("1", "9", noon, noon, false))
	if got := counted(t, b, hour); got != "1" {
		t.Errorf("after a void %s counts, want 1: a void is for good", got)
	}
}

func TestTouchesFollowTheClock(t *testing.T) {
	t.Parallel()
	b := reportertest.NewBooks()
	now := hour.End.Add(-3 * time.Minute)
	b.SetClock(func() time.Time { return now })
	b.AddUsage("a", "m", hour.Start, q("1"))
	if touches, err := b.Touches(t.Context(), hour); len(touches) != 0 || err != nil {
		t.Errorf("Touches() three minutes before the end = %v, %v, want none", touches, err)
	}
	now = hour.End.Add(-2 * time.Minute)
	b.AddUsage("a", "m", hour.Start, q("1"))
	if touches, err := b.Touches(t.Context(), hour); len(touches) != 1 || err != nil {
		t.Errorf("Touches() two minutes before the end = %v, %v, want one", touches, err)
	}
}

func TestLives(t *testing.T) {
	t.Parallel()
	b := reportertest.NewBooks()
	at := func(minute int) time.Time { return hour.Start.Add(time.Duration(minute) * time.Minute) }
	change := func(kind reporter.LifeChangeKind, minute int) reporter.LifeChange {
		return reporter.LifeChange{InstanceID: "i", Kind: kind, At: at(minute), RecordedAt: at(minute), Actor: "x", Reason: "y"}
	}
	err := b.AppendLife(t.Context(), []reporter.LifeChange{
		change(reporter.LifeFrozen, 20), change(reporter.LifeFrozen, 25), change(reporter.LifeUnfrozen, 30), change(reporter.LifeOpened, 10),
		change(reporter.LifeFrozen, 40), change(reporter.LifeReleased, 50), change(reporter.LifeReleased, 50),
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Lives(t.Context(), hour, nil)
	want := []reporter.Life{{
		InstanceID: "i", Opened: at(10), Released: at(50), Frozen: []meter.Window{{Start: at(20), End: at(30)}, {Start: at(40)}},
	}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Lives() differs (-want +got), %v:\n%s", err, diff)
	}
	open, err := b.ReleasedWithoutFinal(t.Context(), 10)
	if len(open) != 4 || err != nil {
		t.Errorf("ReleasedWithoutFinal() = %v, %v, want three freezes and a release", open, err)
	}
	c := reporter.Booking{Number: 1, Version: 1, Kind: reporter.BookingRelease, Window: hour, At: at(51), InstanceID: "i"}
	if err := b.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if open, err := b.ReleasedWithoutFinal(t.Context(), 10); len(open) != 0 || err != nil {
		t.Errorf("ReleasedWithoutFinal() = %v, %v, want none: the release deals with all", open, err)
	}
	if v := b.Violations(); len(v) != 0 {
		t.Errorf("Violations() = %v, want none", v)
	}
}

func TestHeldUsageIsDecidedOnce(t *testing.T) {
	t.Parallel()
	b := reportertest.NewBooks()
	id, other := reporter.AdjustmentID(strings.Repeat("a", 32)), reporter.AdjustmentID(strings.Repeat("b", 32))
	adjust := func(id, of reporter.AdjustmentID, number uint64, quantity meter.Quantity) reporter.Adjustment {
		return reporter.Adjustment{
			ID: id, Of: of, Booking: number, Version: number + 6, Booked: hour, Hour: hour, Subject: "a", Meter: "m",
			Quantity: quantity, Into: reporter.IntoHeld, Reason: "late", At: hour.End,
		}
	}
	mustBook(t, b, hour, reporter.Rows{
		Usage: []reporter.HourlyUsage{usage(hour, "5", 7)}, Adjustments: []reporter.Adjustment{adjust(id, "", 1, q("5"))},
	})
	held, err := b.HeldUsage(t.Context(), nil, "", 10)
	if len(held) != 1 || err != nil || held[0].Open.String() != "5" {
		t.Fatalf("HeldUsage() = %v, %v, want 5", held, err)
	}
	rows := reporter.Rows{
		Adjustments: []reporter.Adjustment{adjust(other, id, 2, meter.Quantity{}.Sub(q("5")))},
		Balances:    []reporter.Balance{{Subject: "a", Meter: "m", Quantity: q("5")}},
	}
	rows.Adjustments[0].Version = 8
	c := booking(2, 8, hour, rows)
	c.Kind = reporter.BookingDecision
	if err := book(t, b, c, rows); err != nil {
		t.Fatal(err)
	}
	if held, err := b.HeldUsage(t.Context(), nil, "", 10); len(held) != 0 || err != nil {
		t.Errorf("HeldUsage() = %v, %v, want none", held, err)
	}
	if faults := append(b.Violations(), b.CheckConservation(nil)...); len(faults) != 1 { // nobody sent the usage of 5
		t.Errorf("faults = %v, want only that no event says 5", faults)
	}
}

func TestLeaseRunsOut(t *testing.T) {
	t.Parallel()
	now := hour.Start
	leases := reportertest.NewLeases(func() time.Time { return now }, time.Minute)
	one, two := leases.Of("one"), leases.Of("two")
	hold := func(l reporter.Lease) bool {
		t.Helper()
		held, err := l.Hold(t.Context())
		if err != nil {
			t.Fatalf("Hold: %v", err)
		}
		return held
	}
	if !hold(one) || hold(two) || leases.Holder() != "one" {
		t.Error("the first to ask must hold the lease, and nobody else")
	}
	now = now.Add(time.Minute)
	if leases.Holder() != "" || !hold(two) || hold(one) {
		t.Error("a lease that ran out must go to whoever asks")
	}
	if err := two.Release(t.Context()); err != nil || !hold(one) {
		t.Errorf("Release = %v, and then the other must get it", err)
	}
}
