package reporter_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// story is a bench whose books are explained.
type story struct {
	*bench

	desk *reporter.Desk
}

// newStory returns a bench with these meters and terms, and a desk.
func newStory(t *testing.T, terms map[string]reporter.Terms, meters ...meter.Meter) *story {
	t.Helper()
	s := &story{bench: newBench(t, meters)}
	s.books.SetClock(s.clock.Now)
	s.clock.Set(noon.Start)
	s.closer.Terms, s.closer.Lives = terms, s.books
	var err error
	s.desk, err = reporter.NewDesk(reporter.DeskOptions{Closer: s.newCloser(), Books: s.books, Logger: s.logs.logger()})
	if err != nil {
		t.Fatalf("NewDesk: %v", err)
	}
	return s
}

// clockAt is a time on the day of [noon].
func clockAt(hour, minute int) time.Time {
	return noon.Start.Add(time.Duration(hour-12)*time.Hour + time.Duration(minute)*time.Minute)
}

// closeAt sets the clock and closes what is due then.
func (s *story) closeAt(t time.Time) {
	s.t.Helper()
	s.clock.Set(t)
	s.close()
}

// of returns the record of the subject whose window starts then.
func (s *story) of(subject string, start time.Time) reporter.BillRecord {
	s.t.Helper()
	for _, r := range s.books.All() {
		if r.Subject == subject && r.Window.Start.Equal(start) && r.Last.State != reporter.StateReplaced {
			return r
		}
	}
	s.t.Fatalf("subject %s has no record that starts at %s", subject, start)
	return reporter.BillRecord{}
}

func (s *story) explain(sn reporter.MeteringSN) reporter.Explanation {
	s.t.Helper()
	e, err := reporter.Explain(s.t.Context(), s.books, sn)
	if err != nil {
		s.t.Fatalf("Explain(%s): %v", sn, err)
	}
	return e
}

// carried is the list of what was carried in, short.
func carried(e reporter.Explanation) []string {
	var lines []string
	for _, l := range e.Carried {
		line := l.Hour.Start.Format("15:04") + " " + l.Quantity.String()
		if l.Adjustment != nil {
			line += " " + l.Adjustment.Into.String()
		}
		lines = append(lines, line)
	}
	return lines
}

func TestExplainLateUsage(t *testing.T) {
	t.Parallel()
	s := newStory(t, nil, tokens("1"))
	s.books.AddUsage("i", "tokens", clockAt(12, 10), q("12.50003"))
	s.closeAt(clockAt(13, 5))
	s.books.AddUsage("i", "tokens", clockAt(13, 10), q("1"))
	s.books.AddUsage("i", "tokens", clockAt(12, 20), q("0.3")) // late
	s.closeAt(clockAt(14, 5))

	e := s.explain(s.of("i", clockAt(13, 0)).SN)
	if got, want := e.Record.Formula(), "usage 1 + carried in 0.30003 = 1.3 × 1 + carried out 0.00003"; got != want {
		t.Errorf("Formula = %q, want %q", got, want)
	}
	if e.Before == nil || e.Before.SN != s.of("i", clockAt(12, 0)).SN || !e.Unexplained.IsZero() || e.Booking.Kind != reporter.BookingClose {
		t.Errorf("before = %v, unexplained %s, booking %+v", e.Before, e.Unexplained, e.Booking)
	}
	if diff := cmp.Diff([]string{"12:00 0.3 balance"}, carried(e)); diff != "" {
		t.Errorf("carried (-want +got):\n%s", diff)
	}
	first := s.explain(e.Before.SN)
	if len(first.Usage) != 1 || first.Usage[0].Then.Quantity.String() != "12.50003" || first.Usage[0].Latest.Quantity.String() != "12.80003" {
		t.Errorf("usage = %+v, want 12.50003 then and 12.80003 now", first.Usage)
	}
	if first.Before != nil || len(first.Carried) != 0 || len(first.Adjustments) != 0 {
		t.Errorf("the first record has something before it: %+v", first)
	}
}

func TestExplainDailyRecord(t *testing.T) {
	t.Parallel()
	s := newStory(t, map[string]reporter.Terms{"tokens": {Cycle: reporter.CycleDaily}}, tokens("1"))
	for hour := 20; hour < 24; hour++ {
		s.books.AddUsage("i", "tokens", clockAt(hour, 10), q("1.5"))
		s.closeAt(clockAt(hour+1, 5))
	}
	e := s.explain(s.of("i", clockAt(0, 0)).SN)
	if diff := cmp.Diff([]string{"20:00 1.5", "21:00 1.5", "22:00 1.5"}, carried(e)); diff != "" {
		t.Errorf("carried (-want +got):\n%s", diff)
	}
	if len(e.Usage) != 4 || !e.Unexplained.IsZero() || e.Record.Billed.String() != "6" {
		t.Errorf("usage of %d hours, unexplained %s, billed %s; want 4 hours, 0, 6", len(e.Usage), e.Unexplained, e.Record.Billed)
	}
}

func TestExplainHeldAndApproved(t *testing.T) {
	t.Parallel()
	s := newStory(t, map[string]reporter.Terms{"tokens": {Late: reporter.LateHold}}, tokens("1"))
	s.books.AddUsage("i", "tokens", clockAt(12, 10), q("2"))
	s.closeAt(clockAt(13, 5))
	s.books.AddUsage("i", "tokens", clockAt(12, 20), q("0.5"))
	s.books.AddUsage("i", "tokens", clockAt(12, 30), q("0.25"))
	s.closeAt(clockAt(14, 5))
	held, err := s.books.HeldUsage(t.Context(), nil, "", 10)
	if err != nil || len(held) != 1 {
		t.Fatalf("HeldUsage = %v, %v, want one", held, err)
	}
	ids := []reporter.AdjustmentID{held[0].ID}
	if _, err := s.desk.Decide(t.Context(), reporter.Decision{IDs: ids, Approve: true, Actor: "ann", Reason: "checked"}); err != nil {
		t.Fatalf("Decide: %v", err)
	}
	s.books.AddUsage("i", "tokens", clockAt(14, 10), q("1"))
	s.closeAt(clockAt(15, 5))
	e := s.explain(s.of("i", clockAt(14, 0)).SN)
	if diff := cmp.Diff([]string{"12:00 0.75 balance"}, carried(e)); diff != "" {
		t.Errorf("carried (-want +got):\n%s", diff)
	}
	if !e.Unexplained.IsZero() || len(e.Adjustments) != 3 {
		t.Errorf("unexplained %s, %d adjustments; want 0 and 3: held, taken from held, approved", e.Unexplained, len(e.Adjustments))
	}
	text := explained(t, e)
	for _, want := range []string{"usage 1 + carried in 0.75 = 1.75 × 1 + carried out 0", "(ann)", "approved", "carried out of the record before"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
}

func explained(t *testing.T, e reporter.Explanation) string {
	t.Helper()
	var b strings.Builder
	if err := e.WriteText(&b); err != nil {
		t.Fatalf("WriteText: %v", err)
	}
	return b.String()
}

func TestExplainResend(t *testing.T) {
	t.Parallel()
	s := newStory(t, nil, tokens("1"))
	s.options.Books = s.books
	s.books.AddUsage("i", "tokens", clockAt(12, 10), q("2.00001"))
	s.closeAt(clockAt(13, 5))
	s.once(s.newReporter())
	old := s.of("i", clockAt(12, 0))
	if err := s.desk.Fail(t.Context(), []reporter.Failure{{SN: old.SN, Code: "007", Message: "no such instance"}}, "import"); err != nil {
		t.Fatalf("Fail: %v", err)
	}
	act := reporter.ResendAct{SNs: []reporter.MeteringSN{old.SN}, Actor: "ann", Reason: "instance repaired"}
	if _, err := s.desk.Resend(t.Context(), act); err != nil {
		t.Fatalf("Resend: %v", err)
	}
	s.books.AddUsage("i", "tokens", clockAt(13, 10), q("1"))
	s.closeAt(clockAt(14, 5))

	again := s.explain(s.of("i", clockAt(12, 0)).SN)
	if again.Replaces == nil || again.Replaces.SN != old.SN || len(again.Usage) != 1 || !again.Unexplained.IsZero() {
		t.Errorf("Explain of the new record = %+v, want the old record and its usage", again)
	}
	if e := s.explain(old.SN); e.ReplacedBy == nil || e.ReplacedBy.SN != again.Record.SN {
		t.Errorf("replaced by = %+v, want %s", e.ReplacedBy, again.Record.SN)
	}
	next := s.explain(s.of("i", clockAt(13, 0)).SN)
	if next.Before.SN != old.SN || !next.Unexplained.IsZero() || next.Record.CarriedIn.String() != "0.00001" {
		t.Errorf("the next record's before = %s, unexplained %s, carried in %s", next.Before.SN, next.Unexplained, next.Record.CarriedIn)
	}
	text := explained(t, again)
	for _, want := range []string{"Bill record " + string(again.Record.SN) + ": pending", "replaces   " + string(old.SN), "booking 2 (resend)", "by ann: instance repaired"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	if text := explained(t, s.explain(old.SN)); !strings.Contains(text, "attempt 1") || !strings.Contains(text, "failed") {
		t.Errorf("the text lacks the attempt or the failure:\n%s", text)
	}
}

func TestExplainUnknown(t *testing.T) {
	t.Parallel()
	_, err := reporter.Explain(t.Context(), reportertest.NewBooks(), "00000000000000000000000000000000")
	if !errors.Is(err, reporter.ErrUnknownRecord) {
		t.Errorf("Explain = %v, want ErrUnknownRecord", err)
	}
}

func TestExplainFailingBooks(t *testing.T) {
	t.Parallel()
	s := newStory(t, nil, tokens("1"))
	s.books.AddUsage("i", "tokens", clockAt(12, 10), q("2"))
	s.closeAt(clockAt(13, 5))
	s.books.AddUsage("i", "tokens", clockAt(13, 10), q("2"))
	s.closeAt(clockAt(14, 5))
	sn := s.of("i", clockAt(13, 0)).SN
	ops := []string{"RecordsBySN", "Transitions", "ReplacedBy", "BookingByVersion", "RecordBefore", "Adjustments", "UsageHistory"}
	for _, failing := range ops {
		s.books.SetFaults(func(op string, _ int) reportertest.Fault {
			if op == failing {
				return reportertest.FaultBefore
			}
			return reportertest.FaultNone
		})
		if _, err := reporter.Explain(t.Context(), s.books, sn); !errors.Is(err, reportertest.ErrInjected) {
			t.Errorf("Explain with failing %s = %v, want the fault", failing, err)
		}
	}
}

// TestExplainEveryRecord lets anything happen to a few accounts and expects that each record made of it is explained to
// the last decimal, and that the books are exact.
func TestExplainEveryRecord(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		daily := tokens("1")
		daily.Slug, daily.EventType, daily.Instance = "daily", "day", "{subject}-day"
		held := tokens("0.5")
		held.Slug, held.EventType, held.Instance = "held", "held", "{subject}-held"
		s := newStory(t, map[string]reporter.Terms{
			"daily": {Cycle: reporter.CycleDaily}, "held": {Late: reporter.LateHold},
		}, tokens("1"), daily, held)
		slugs := []string{"tokens", "daily", "held"}
		released := map[string]bool{}
		var keys []reportertest.EventKey
		for i := range rapid.IntRange(2, 40).Draw(rt, "hours") {
			s.clock.Set(noon.Start.Add(time.Duration(i)*time.Hour + 50*time.Minute))
			for n := range rapid.IntRange(0, 4).Draw(rt, "events") {
				e := reportertest.Event{
					Source: "s", ID: fmt.Sprintf("%d-%d", i, n), Subject: rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "subject"),
					Time:   s.clock.Now().Add(-time.Duration(rapid.IntRange(0, min(i, 6)).Draw(rt, "late")) * time.Hour),
					Values: map[string]meter.Quantity{rapid.SampledFrom(slugs).Draw(rt, "meter"): meter.NewQuantity(rapid.Int64Range(0, 1e6).Draw(rt, "amount"), -5)},
				}
				s.books.AddEvent(e)
				keys = append(keys, e.Key())
			}
			s.someAct(rt, keys, released)
			s.closeAt(noon.Start.Add(time.Duration(i+1)*time.Hour + 5*time.Minute))
		}
		s.checkAll(rt)
	})
}

// someAct lets a person do something, perhaps.
func (s *story) someAct(rt *rapid.T, keys []reportertest.EventKey, released map[string]bool) {
	var err error
	switch rapid.IntRange(0, 5).Draw(rt, "act") {
	case 0:
		if len(keys) > 0 {
			s.books.Void(rapid.SampledFrom(keys).Draw(rt, "voided"))
		}
	case 1:
		held, _ := s.books.HeldUsage(context.Background(), nil, "", 1)
		if len(held) > 0 {
			_, err = s.desk.Decide(context.Background(), reporter.Decision{
				IDs: []reporter.AdjustmentID{held[0].ID}, Approve: rapid.Bool().Draw(rt, "approve"), Actor: "ann", Reason: "test",
			})
		}
	case 2:
		instance := rapid.SampledFrom([]string{"a", "b-day", "b-held"}).Draw(rt, "released")
		if !released[instance] && rapid.IntRange(0, 9).Draw(rt, "really") == 0 {
			released[instance] = true
			_, _, err = s.desk.ChangeLife(context.Background(), reporter.LifeAct{
				InstanceID: instance, Kind: reporter.LifeReleased, At: s.clock.Now(), Actor: "ann", Reason: "test",
			})
		}
	}
	if err != nil {
		rt.Fatalf("a person's act: %v", err)
	}
}

// checkAll explains every record and verifies the books.
func (s *story) checkAll(rt *rapid.T) {
	for _, r := range s.books.All() {
		e, err := reporter.Explain(context.Background(), s.books, r.SN)
		if err != nil {
			rt.Fatalf("Explain: %v", err)
		}
		if !e.Unexplained.IsZero() {
			var b strings.Builder
			_ = e.WriteText(&b)
			rt.Fatalf("unexplained: %s\n%s", e.Unexplained, b.String())
		}
	}
	report, err := reporter.Verify(context.Background(), s.books, reporter.VerifyOptions{Meters: s.meters, Recount: true, Clock: s.clock})
	if err != nil || !report.OK {
		rt.Fatalf("Verify = %+v, %v", report, err)
	}
}
