package reporter_test

import (
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// Each history is short; the numbers were worked out by hand. Minutes count from 12:00.
func TestLateUsage(t *testing.T) {
	t.Parallel()
	hold := map[string]reporter.Terms{"tokens": {Late: reporter.LateHold}}
	tests := map[string]struct {
		terms map[string]reporter.Terms
		do    func(o *office)
		want  []string
	}{
		"carried into the next record, also of an idle hour": {
			do: func(o *office) {
				o.use("a", 10, "5")
				o.closeAt(65)
				o.use("a", 30, "2")
				o.closeAt(125)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 5+0=5&0 pending",
				"recount 12:00: adjust a 12:00 2 balance",
				"recount 12:00: balance a 2",
				"close 13:00: record a 13:00-14:00 0+2=2&0 pending",
				"close 13:00: balance a 0",
			},
		},
		"a record of its own when the window was idle": {
			do: func(o *office) {
				o.use("a", 10, "5.00004")
				o.closeAt(125)
				o.use("a", 70, "3.00003")
				o.closeAt(185)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 5.00004+0=5&0.00004 pending",
				"close 12:00: balance a 0.00004",
				"recount 13:00: record a 13:00-14:00 3.00003+0.00004=3&0.00007 pending",
				"recount 13:00: adjust a 13:00 3.00003 record",
				"recount 13:00: balance a 0.00007",
			},
		},
		"below one step it waits in the balance": {
			do: func(o *office) {
				o.use("b", 10, "1")
				o.closeAt(65)
				o.use("a", 10, "0.00003")
				o.closeAt(125)
			},
			want: []string{
				"close 12:00: record b 12:00-13:00 1+0=1&0 pending",
				"recount 12:00: adjust a 12:00 0.00003 balance",
				"recount 12:00: balance a 0.00003",
			},
		},
		"older than the marketplace takes": {
			do: func(o *office) {
				o.use("b", 10, "1")
				o.closeAt(65)
				o.closeAt(20*24*60 + 65) // a day of margin is left of 21
				o.use("a", 10, "3")
				o.closeAt(20*24*60 + 125)
			},
			want: []string{
				"close 12:00: record b 12:00-13:00 1+0=1&0 pending",
				"recount 12:00: adjust a 12:00 3 balance",
				"recount 12:00: balance a 3",
				"close 13:00+20: record a 13:00+20-14:00+20 0+3=3&0 pending",
				"close 13:00+20: balance a 0",
			},
		},
		"a void makes a credit that is netted": {
			do: func(o *office) {
				o.use("a", 10, "5")
				o.use("a", 20, "1")
				o.closeAt(65)
				o.void("a 10 5")
				o.use("a", 70, "3")
				o.closeAt(125)
				o.use("a", 130, "4")
				o.closeAt(185)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 6+0=6&0 pending",
				"recount 12:00: adjust a 12:00 -5 balance",
				"recount 12:00: balance a -5",
				"close 13:00: record a 13:00-14:00 3+-5=0&-2 carried",
				"close 13:00: balance a -2",
				"close 14:00: record a 14:00-15:00 4+-2=2&0 pending",
				"close 14:00: balance a 0",
			},
		},
		"held, approved, billed": {
			terms: hold,
			do: func(o *office) {
				o.use("a", 10, "5")
				o.closeAt(65)
				o.use("a", 30, "2")
				o.closeAt(125)
				o.decide(130, true)
				o.closeAt(185)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 5+0=5&0 pending",
				"recount 12:00: adjust a 12:00 2 held",
				"decision 14:00: adjust a 12:00 -2 held",
				"decision 14:00: adjust a 12:00 2 balance",
				"decision 14:00: balance a 2",
				"close 14:00: record a 14:00-15:00 0+2=2&0 pending",
				"close 14:00: balance a 0",
			},
		},
		"held although the window was idle, and written off": {
			terms: hold,
			do: func(o *office) {
				o.use("b", 10, "1")
				o.closeAt(65)
				o.use("a", 30, "2")
				o.closeAt(125)
				o.decide(130, false)
				o.closeAt(185)
			},
			want: []string{
				"close 12:00: record b 12:00-13:00 1+0=1&0 pending",
				"recount 12:00: adjust a 12:00 2 held",
				"decision 14:00: adjust a 12:00 -2 held",
				"decision 14:00: adjust a 12:00 2 written_off",
			},
		},
		"a void first takes back what is held of the hour": {
			terms: hold,
			do: func(o *office) {
				o.use("a", 10, "5")
				o.closeAt(65)
				o.use("a", 30, "2")
				o.use("a", 31, "1")
				o.closeAt(66)
				o.use("a", 32, "1.5")
				o.closeAt(125)
				o.void("a 30 2")
				o.closeAt(185)
				o.void("a 10 5")
				o.closeAt(245)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 5+0=5&0 pending",
				"recount 12:00: adjust a 12:00 3 held",
				"recount 12:00: adjust a 12:00 1.5 held",
				"recount 12:00: adjust a 12:00 -2 held",
				"recount 12:00: adjust a 12:00 -1 held",
				"recount 12:00: adjust a 12:00 -1.5 held",
				"recount 12:00: adjust a 12:00 -2.5 balance",
				"recount 12:00: balance a -2.5",
			},
		},
		"approved together after the release": {
			terms: hold,
			do: func(o *office) {
				o.use("b", 10, "1")
				o.closeAt(65)
				o.use("a", 30, "2")
				o.closeAt(66)
				o.use("a", 31, "1")
				o.closeAt(67)
				o.life(130, reporter.LifeReleased, "a", 125)
				o.decide(140, true)
			},
			want: []string{
				"close 12:00: record b 12:00-13:00 1+0=1&0 pending",
				"recount 12:00: adjust a 12:00 2 held",
				"recount 12:00: adjust a 12:00 1 held",
				"decision 14:00: record a 12:00-13:00 3+0=3&0 pending",
				"decision 14:00: adjust a 12:00 -1 held",
				"decision 14:00: adjust a 12:00 -2 held",
				"decision 14:00: adjust a 12:00 3 record",
			},
		},
		"a void after the approval is a credit": {
			terms: hold,
			do: func(o *office) {
				o.use("a", 10, "5")
				o.closeAt(65)
				o.use("a", 30, "2")
				o.closeAt(66)
				o.decide(70, true)
				o.void("a 30 2")
				o.closeAt(71)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 5+0=5&0 pending",
				"recount 12:00: adjust a 12:00 2 held",
				"decision 13:00: adjust a 12:00 -2 held",
				"decision 13:00: adjust a 12:00 2 balance",
				"decision 13:00: balance a 2",
				"recount 12:00: adjust a 12:00 -2 balance",
				"recount 12:00: balance a 0",
			},
		},
		"a void of what was written off is no credit": {
			terms: map[string]reporter.Terms{"tokens": {Late: reporter.LateWriteOff}},
			do: func(o *office) {
				o.use("a", 10, "5")
				o.closeAt(65)
				o.use("a", 30, "2")
				o.closeAt(66)
				o.void("a 30 2")
				o.closeAt(67)
				o.void("a 10 5")
				o.closeAt(68)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 5+0=5&0 pending",
				"recount 12:00: adjust a 12:00 2 written_off",
				"recount 12:00: adjust a 12:00 -2 written_off",
				"recount 12:00: adjust a 12:00 -5 balance",
				"recount 12:00: balance a -5",
			},
		},
		"a void of usage before the opening is no credit": {
			do: func(o *office) {
				o.life(130, reporter.LifeOpened, "a", 70)
				o.use("a", 10, "5")
				o.use("a", 80, "1")
				o.closeAt(185)
				o.void("a 10 5")
				o.closeAt(190)
			},
			want: []string{
				"close 12:00: adjust a 12:00 5 unbillable",
				"close 13:00: record a 13:10-14:00 1+0=1&0 pending",
				"recount 12:00: adjust a 12:00 -5 unbillable",
			},
		},
		"written off by policy": {
			terms: map[string]reporter.Terms{"tokens": {Late: reporter.LateWriteOff}},
			do: func(o *office) {
				o.use("a", 10, "5")
				o.closeAt(65)
				o.use("a", 30, "2")
				o.closeAt(125)
			},
			want: []string{
				"close 12:00: record a 12:00-13:00 5+0=5&0 pending",
				"recount 12:00: adjust a 12:00 2 written_off",
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, []meter.Meter{tokens("1")}, tc.terms)
			tc.do(o)
			o.wantStory(tc.want...)
			if again := o.closeAt(int(o.clock.Now().Sub(noon.Start) / time.Minute)); again.Recounts != 0 || again.Windows != 0 {
				t.Errorf("nothing new made %d recounts and %d closes", again.Recounts, again.Windows)
			}
		})
	}
}

// A daily record covers the day of the zone, which begins at 16:00 UTC; hours only feed the balance.
func TestDailyCycle(t *testing.T) {
	t.Parallel()
	o := newOffice(t, []meter.Meter{tokens("1")}, map[string]reporter.Terms{"tokens": {Cycle: reporter.CycleDaily}})
	o.closer.DayZone = time.FixedZone("UTC+8", 8*3600)
	o.restart()
	o.use("a", 10, "5")
	o.use("b", 20, "1.00005")
	o.closeAt(125)
	o.use("a", 15, "1") // late, and the day goes on
	o.use("a", 239, "2")
	o.use("a", 250, "7") // the next day
	o.closeAt(305)
	o.use("a", 20, "4") // late for a day that is billed
	o.closeAt(365)
	o.wantStory(
		"close 12:00: balance a 5",
		"close 12:00: balance b 1.00005",
		"recount 12:00: adjust a 12:00 1 balance",
		"recount 12:00: balance a 6",
		"close 15:00: record a 16:00-1-16:00 2+6=8&0 pending",
		"close 15:00: record b 16:00-1-16:00 0+1.00005=1&0.00005 pending",
		"close 15:00: balance a 0",
		"close 15:00: balance b 0.00005",
		"close 16:00: balance a 7",
		"recount 12:00: adjust a 12:00 4 balance",
		"recount 12:00: balance a 11",
	)
	o.wantReason(reporter.IntoBalance, "the day is not billed yet")
	o.wantReason(reporter.IntoBalance, "running day")
	for _, r := range o.books.All() {
		if want := at(245); !r.RecordTime.Equal(want) {
			t.Errorf("record time %s, want the end of the day and the grace, %s", r.RecordTime, want)
		}
	}
	o.life(370, reporter.LifeReleased, "a", 365)
	lines := o.story()
	o.wantStory(append(lines[:len(lines)-2], "release 18:00: record a 16:00-18:05 0+11=11&0 pending", "release 18:00: balance a 0")...)
}

func TestModes(t *testing.T) {
	t.Parallel()
	meters := []meter.Meter{billed("live", "{subject}-l"), billed("shadow", "{subject}-s"), billed("dry", "")}
	o := newOffice(t, meters, map[string]reporter.Terms{"shadow": {Mode: reporter.ModeShadow}, "dry": {Mode: reporter.ModeDryRun}})
	for _, m := range meters {
		o.books.AddUsage("a", m.Slug, at(1), q("3"))
	}
	o.closeAt(65)
	want := map[string]reporter.State{"live": reporter.StatePending, "shadow": reporter.StatePending, "dry": reporter.StateDryRun}
	for _, r := range o.books.All() {
		if r.Last.State != want[r.Meter] || r.Mode.String() != map[string]string{"live": "live", "shadow": "shadow", "dry": "dry_run"}[r.Meter] {
			t.Errorf("%s: mode %s, state %s, want %s", r.Meter, r.Mode, r.Last.State, want[r.Meter])
		}
	}
	o.conserved()
}

// Usage beyond what the store can hold stops nothing else, and is billed once the wrong event is void.
func TestOverflowIsHeld(t *testing.T) {
	t.Parallel()
	o := newOffice(t, []meter.Meter{tokens("1")}, nil)
	huge := reportertest.Event{
		Source: "s", ID: "huge", Subject: "a", Time: at(10), Values: map[string]meter.Quantity{"tokens": meter.NewQuantity(1, 20)},
	}
	o.books.AddEvent(huge)
	o.use("a", 20, "5")
	o.use("b", 10, "1")
	o.closeAt(65)
	o.use("a", 30, "1")
	o.clock.Set(at(125))
	if _, err := o.c.CloseDue(t.Context(), at(125)); err != nil {
		t.Fatal(err)
	}
	o.books.Void(huge.Key())
	o.closeAt(185)
	o.wantStory(
		"close 12:00: record a 12:00-13:00 0+0=0&0 held",
		"close 12:00: record b 12:00-13:00 1+0=1&0 pending",
		"recount 12:00: record a 12:00-13:00 6+0=6&0 pending",
		"recount 12:00: adjust a 12:00 6 record",
	)
}

// A close reads the touches before it counts: what comes in between is counted by a recount.
func TestEventBetweenCountAndTouch(t *testing.T) {
	t.Parallel()
	o := newOffice(t, []meter.Meter{tokens("1")}, nil)
	o.use("a", 10, "1")
	o.clock.Set(at(65))
	e := reportertest.Event{Source: "s", ID: "late", Subject: "a", Time: at(20), Values: map[string]meter.Quantity{"tokens": q("2")}}
	seen := false
	o.books.SetFaults(func(op string, _ int) reportertest.Fault {
		seen = seen || op == "AggregateWindow"
		return reportertest.FaultNone
	})
	o.books.InsertOnly(e) // the touch follows after the close
	if _, err := o.c.CloseDue(t.Context(), at(65)); err != nil || !seen {
		t.Fatal(err, seen)
	}
	o.books.SetFaults(nil)
	o.books.TouchFor(e)
	sum := o.closeAt(66)
	if sum.Recounts != 1 || sum.Adjustments != 0 {
		t.Errorf("CloseDue = %+v, want a recount that finds nothing", sum)
	}
	o.wantStory("close 12:00: record a 12:00-13:00 3+0=3&0 pending")
}
