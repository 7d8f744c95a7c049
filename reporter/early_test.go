package reporter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

const (
	opened   = reporter.LifeOpened
	frozen   = reporter.LifeFrozen
	unfrozen = reporter.LifeUnfrozen
	released = reporter.LifeReleased
)

// Each history is short; the numbers were worked out by hand. Minutes count from 12:00.
func TestLives(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		do     func(o *office)
		want   []string
		reason string // of something unbillable
	}{
		"released: a final record at once, the rest and what comes later is unbillable": {
			do: func(o *office) {
				o.use("a", 10, "2.50003")
				o.use("b", 10, "1")
				o.life(41, released, "a", 40)
				o.use("a", 20, "3") // before the release, too late for the final record
				o.use("a", 45, "4") // after it
				o.closeAt(65)
				o.use("a", 70, "5") // in an hour after it
				o.closeAt(125)
				o.void("a 10 2.50003")
				o.closeAt(185)
			},
			want: []string{
				"release 12:00: record a 12:00-12:40 2.50003+0=2.5&0.00003 pending",
				"release 12:00: adjust a 12:00 0.00003 unbillable",
				"close 12:00: record b 12:00-13:00 1+0=1&0 pending",
				"close 12:00: adjust a 12:00 7 unbillable",
				"close 13:00: adjust a 13:00 5 unbillable",
				"recount 12:00: adjust a 12:00 -2.50003 unbillable",
			},
			reason: "its window was billed already",
		},
		"released in the grace period of the hour before": {
			do: func(o *office) {
				o.use("a", 10, "2")
				o.use("a", 61, "3")
				o.life(62, released, "a", 62)
				o.closeAt(65)
				o.closeAt(125)
			},
			want: []string{
				"release 13:00: record a 12:00-13:00 2+0=2&0 pending",
				"release 13:00: record a 13:00-13:02 3+0=3&0 pending",
			},
		},
		"released on the hour": {
			do: func(o *office) {
				o.use("a", 10, "2")
				o.use("a", 61, "3")
				o.life(62, released, "a", 60)
				o.closeAt(125)
			},
			want: []string{
				"release 13:00: record a 12:00-13:00 2+0=2&0 pending",
				"close 13:00: adjust a 13:00 3 unbillable",
			},
			reason: "the instance was released at 2026-03-01T13:00:00Z",
		},
		"released in a closed hour: the balance is billed if the window is free": {
			do: func(o *office) {
				o.use("b", 10, "1")
				o.use("a", 10, "2")
				o.closeAt(65)
				o.use("a", 70, "3")
				o.closeAt(125)
				o.use("a", 11, "0.00005") // goes into the balance
				o.use("b", 75, "0.00005")
				o.closeAt(126)
				o.life(127, released, "a", 100)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 2+0=2&0 pending",
				"close 12:00: record b 12:00-13:00 1+0=1&0 pending",
				"close 13:00: record a 13:00-14:00 3+0=3&0 pending",
				"recount 12:00: adjust a 12:00 0.00005 balance",
				"recount 12:00: balance a 0.00005",
				"recount 13:00: adjust b 13:00 0.00005 balance",
				"recount 13:00: balance b 0.00005",
				"release 13:00: adjust a 13:00 0.00005 unbillable",
				"release 13:00: balance a 0",
			},
		},
		"late usage of a released instance's idle window goes as itself": {
			do: func(o *office) {
				o.use("b", 10, "1")
				o.closeAt(65)
				o.use("b", 70, "1")
				o.life(71, released, "a", 70)
				o.closeAt(125)
				o.use("a", 10, "2.00003")
				o.use("a", 20, "1") // together they are one difference
				o.closeAt(185)
				o.use("a", 30, "1")
				o.closeAt(186)
			},
			want: []string{
				"close 12:00: record b 12:00-13:00 1+0=1&0 pending",
				"close 13:00: record b 13:00-14:00 1+0=1&0 pending",
				"recount 12:00: record a 12:00-13:00 3.00003+0=3&0.00003 pending",
				"recount 12:00: adjust a 12:00 3.00003 record",
				"recount 12:00: balance a 0.00003",
				"close 14:00: adjust a 14:00 0.00003 unbillable",
				"close 14:00: balance a 0",
				"recount 12:00: adjust a 12:00 1 unbillable",
			},
		},
		"late usage that arrives before the release goes into the final record": {
			do: func(o *office) {
				o.use("a", 10, "1")
				o.closeAt(65)
				o.use("a", 20, "2")
				o.life(71, released, "a", 70)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 1+0=1&0 pending",
				"recount 12:00: adjust a 12:00 2 balance",
				"recount 12:00: balance a 2",
				"release 13:00: record a 13:00-13:10 0+2=2&0 pending",
				"release 13:00: balance a 0",
			},
		},
		"opened: the first record begins then, usage of earlier hours is unbillable": {
			do: func(o *office) {
				o.use("a", 10, "1")
				o.use("a", 70, "2")
				o.life(85, opened, "a", 80)
				o.closeAt(125)
			},
			want: []string{
				"close 12:00: adjust a 12:00 1 unbillable",
				"close 13:00: record a 13:20-14:00 2+0=2&0 pending",
			},
			reason: "opened only at 2026-03-01T13:20:00Z",
		},
		"frozen and unfrozen in one hour: two records": {
			do: func(o *office) {
				o.use("a", 5, "1")
				o.life(10, frozen, "a", 10)
				o.life(20, unfrozen, "a", 20)
				o.use("a", 30, "2")
				o.closeAt(65)
			},
			want: []string{
				"freeze 12:00: record a 12:00-12:10 1+0=1&0 pending",
				"close 12:00: record a 12:20-13:00 2+0=2&0 pending",
			},
		},
		"late for the hour of a freeze": {
			do: func(o *office) {
				o.use("a", 5, "1")
				o.life(10, frozen, "a", 10)
				o.use("a", 6, "3")
				o.closeAt(65)
				o.life(70, unfrozen, "a", 70)
				o.closeAt(125)
			},
			want: []string{
				"freeze 12:00: record a 12:00-12:10 1+0=1&0 pending",
				"close 12:00: adjust a 12:00 3 balance",
				"close 12:00: balance a 3",
				"close 13:00: record a 13:10-14:00 0+3=3&0 pending",
				"close 13:00: balance a 0",
			},
		},
		"used while frozen is held, and billed when approved": {
			do: func(o *office) {
				o.use("a", 5, "1")
				o.life(10, frozen, "a", 10)
				o.use("a", 70, "2")
				o.closeAt(125)
				o.life(130, unfrozen, "a", 130)
				o.decide(131, true)
				o.closeAt(185)
			},
			want: []string{
				"freeze 12:00: record a 12:00-12:10 1+0=1&0 pending",
				"close 13:00: adjust a 13:00 2 held",
				"decision 14:00: adjust a 13:00 -2 held",
				"decision 14:00: adjust a 13:00 2 balance",
				"decision 14:00: balance a 2",
				"close 14:00: record a 14:10-15:00 0+2=2&0 pending",
				"close 14:00: balance a 0",
			},
		},
		"approved after the release": {
			do: func(o *office) {
				o.use("a", 5, "1")
				o.life(10, frozen, "a", 10)
				o.use("a", 70, "2")
				o.closeAt(125)
				o.life(130, released, "a", 130)
				o.decide(131, true)
			},
			want: []string{
				"freeze 12:00: record a 12:00-12:10 1+0=1&0 pending",
				"close 13:00: adjust a 13:00 2 held",
				"decision 14:00: adjust a 13:00 -2 held",
				"decision 14:00: adjust a 13:00 2 unbillable",
			},
			reason: "the instance was released at 2026-03-01T14:10:00Z, and the instance was frozen",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, []meter.Meter{tokens("1")}, nil)
			tc.do(o)
			o.wantStory(tc.want...)
			if tc.reason != "" {
				o.wantReason(reporter.IntoUnbillable, tc.reason)
			}
			for _, r := range o.books.All() {
				if r.RecordTime.Before(r.Window.End) {
					t.Errorf("record of %s was produced at %s, before its end", r.Window, r.RecordTime)
				}
			}
		})
	}
}

func TestReleaseIsIdempotent(t *testing.T) {
	t.Parallel()
	o := newOffice(t, []meter.Meter{tokens("1")}, nil)
	o.use("a", 10, "2")
	first := o.life(41, released, "a", 40)
	o.use("a", 11, "2")
	again := o.life(50, released, "a", 40)
	if first.Number != again.Number || len(o.books.Log()) != 1 {
		t.Errorf("releasing again made booking %d of %d, want the first one", again.Number, len(o.books.Log()))
	}
	if r := o.record("a"); !r.RecordTime.Equal(at(40)) || r.Booked != noon {
		t.Errorf("record time %s, booked under %s", r.RecordTime, r.Booked)
	}
	if audit, err := o.books.Audit(t.Context(), at(0), at(600), 10); err != nil || len(audit) != 1 || audit[0].Action != "release" || audit[0].Actor != "ann" {
		t.Errorf("audit = %+v, %v, want one release by ann", audit, err)
	}
}

func TestCloseInstanceRefusals(t *testing.T) {
	t.Parallel()
	o := newOffice(t, []meter.Meter{tokens("1")}, nil)
	o.clock.Set(at(30))
	for name, tc := range map[string]struct {
		e    reporter.EarlyClose
		want error
	}{
		"future":      {reporter.EarlyClose{InstanceID: "a", At: at(31)}, reporter.ErrFuture},
		"no instance": {reporter.EarlyClose{At: at(3)}, nil},
		"no time":     {reporter.EarlyClose{InstanceID: "a"}, nil},
	} {
		if _, err := o.c.CloseInstance(t.Context(), tc.e); err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want an error like %v", name, err, tc.want)
		}
	}
	if len(o.books.Log()) != 0 {
		t.Error("something was booked")
	}
	b, err := o.c.CloseInstance(t.Context(), reporter.EarlyClose{InstanceID: "unknown", At: at(3), Release: true})
	if err != nil || b.Kind != reporter.BookingRelease || b.InstanceID != "unknown" {
		t.Errorf("an instance that nothing is billed to: %+v, %v, want an empty booking", b, err)
	}
}

// The life is durable before anything is booked: whatever is interrupted is done later, and comes to the same.
func TestInterruptedReleaseIsCaughtUp(t *testing.T) {
	t.Parallel()
	play := func(t *testing.T, fault reportertest.Fault, call int) (o *office, calls int) {
		t.Helper()
		o = newOffice(t, []meter.Meter{tokens("1")}, nil)
		o.use("a", 10, "2.00003")
		o.use("b", 10, "1")
		o.closeAt(65)
		o.use("a", 20, "1")
		o.use("a", 70, "4")
		o.clock.Set(at(81))
		o.books.SetFaults(func(string, int) reportertest.Fault {
			if calls++; calls == call {
				return fault
			}
			return reportertest.FaultNone
		})
		act := reporter.LifeAct{InstanceID: "a", Kind: released, At: at(80), Actor: "ann", Reason: "order"}
		err := safely(func() error { _, _, err := o.desk.ChangeLife(t.Context(), act); return err })
		o.books.SetFaults(nil)
		if life, _ := o.books.LifeOf(t.Context(), "a"); err != nil && len(life) == 0 {
			if _, _, err := o.desk.ChangeLife(t.Context(), act); err != nil { // the person does it again
				t.Fatalf("ChangeLife again: %v", err)
			}
		}
		o.restart()
		if _, err := o.c.CatchUpLives(t.Context()); err != nil {
			t.Fatalf("CatchUpLives: %v", err)
		}
		o.closeAt(125)
		if open, err := o.books.ReleasedWithoutFinal(t.Context(), 10); err != nil || len(open) != 0 {
			t.Errorf("still to be done: %v, %v", open, err)
		}
		return o, calls
	}
	plain, calls := play(t, reportertest.FaultNone, 0)
	want := records(plain.bench)
	if len(want) != 3 || calls < 15 {
		t.Fatalf("%d records after %d calls, want 3 after at least 15", len(want), calls)
	}
	for _, fault := range []reportertest.Fault{
		reportertest.FaultBefore, reportertest.FaultHalf, reportertest.FaultAfter, reportertest.FaultPanic,
	} {
		for call := 1; call <= calls; call++ {
			o, _ := play(t, fault, call)
			if got := records(o.bench); len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
				t.Errorf("fault %d in call %d: records %v, want %v", fault, call, got, want)
			}
		}
	}
}

// An instance that another subject could claim, and doesn't, is billed like any other.
func TestLateUsageOfAnInstanceWithTwoTemplates(t *testing.T) {
	t.Parallel()
	o := newOffice(t, []meter.Meter{billed("peak", "{subject}-peak"), billed("tokens", "{subject}")}, nil)
	o.use("b", 10, "1")
	o.closeAt(65)
	o.life(71, released, "a-peak", 70)
	o.use("a", 10, "3")
	o.closeAt(125)
	o.wantStory(
		"close 12:00: record b 12:00-13:00 1+0=1&0 pending",
		"recount 12:00: record a 12:00-13:00 3+0=3&0 pending",
		"recount 12:00: adjust a 12:00 3 record",
	)
}

func TestLifeClipsToSeconds(t *testing.T) {
	t.Parallel()
	o := newOffice(t, []meter.Meter{tokens("1")}, nil)
	change := func(kind reporter.LifeChangeKind, at time.Time) {
		c := reporter.LifeChange{InstanceID: "a", Kind: kind, At: at, RecordedAt: at, Actor: "ann", Reason: "order"}
		if err := o.books.AppendLife(t.Context(), []reporter.LifeChange{c}); err != nil {
			t.Fatal(err)
		}
	}
	change(opened, at(10).Add(time.Millisecond))
	change(released, at(50).Add(999*time.Millisecond))
	o.use("a", 20, "1")
	o.closeAt(65)
	if r := o.record("a"); !r.Window.Start.Equal(at(10).Add(time.Second)) || !r.Window.End.Equal(at(50)) {
		t.Errorf("window %s, want it rounded inwards to whole seconds", r.Window)
	}
}
