package reporter_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// modesBench has due records of three products in the hour of noon: 12 live, 15 shadow, 3 dry-run.
func modesBench(t *testing.T) (b *bench, shadow *reportertest.Marketplace) {
	t.Helper()
	meters := []meter.Meter{tokens("1")}
	terms := map[string]reporter.Terms{}
	for slug, mode := range map[string]reporter.Mode{"seats": reporter.ModeShadow, "trials": reporter.ModeDryRun} {
		m := tokens("1")
		m.Slug, m.Instance = slug, "{subject}-"+slug
		meters = append(meters, m)
		terms[slug] = reporter.Terms{Product: slug, Mode: mode}
	}
	b = newBench(t, meters)
	b.closer.Terms = terms
	shadow = reportertest.NewMarketplace(reportertest.DefaultLimits())
	t.Cleanup(func() {
		for _, v := range shadow.Violations() {
			t.Errorf("rule broken at the shadow destination: %s", v)
		}
	})
	for slug, n := range map[string]int{"tokens": 12, "seats": 15, "trials": 3} {
		for i := range n {
			b.books.AddUsage(subjectName(i), slug, at(30), q("1"))
		}
	}
	b.close()
	return b, shadow
}

// takenBy are the meters of the records that a destination took.
func takenBy(b *bench, m *reportertest.Marketplace) map[string]int {
	counts := map[string]int{}
	for _, r := range b.books.All() {
		if _, ok := m.Taken()[r.SN]; ok {
			counts[r.Meter]++
		}
	}
	return counts
}

func TestModesGoWhereTheyBelong(t *testing.T) {
	t.Parallel()
	b, shadow := modesBench(t)
	b.options.Shadow = shadow
	sum := b.once(b.newReporter())
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 12, reporter.StateShadowed: 15, reporter.StateDryRun: 3})
	want := reporter.PassSummary{
		Windows: 1, Calls: 2, Accepted: 12,
		Shadow: &reporter.PassSummary{Windows: 1, Settled: 1, Calls: 2, Shadowed: 15},
	}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Errorf("RunOnce differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"tokens": 12}, takenBy(b, b.market)); diff != "" {
		t.Errorf("the marketplace took (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"seats": 15}, takenBy(b, shadow)); diff != "" {
		t.Errorf("the shadow destination took (-want +got):\n%s", diff)
	}
	if path := b.path(shadowRecord(b).SN); path != "pending sending shadowed" {
		t.Errorf("path = %s", path)
	}
}

func shadowRecord(b *bench) reporter.BillRecord {
	for _, r := range b.books.All() {
		if r.Mode == reporter.ModeShadow {
			return r
		}
	}
	b.t.Fatal("no shadow record")
	return reporter.BillRecord{}
}

func TestShadowWithoutDestination(t *testing.T) {
	t.Parallel()
	b, _ := modesBench(t)
	r := b.newReporter()
	sum := b.once(r)
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 12, reporter.StateShadowed: 15, reporter.StateDryRun: 3})
	if sum.Shadow == nil || sum.Shadow.Shadowed != 15 || sum.Shadow.Calls != 0 || sum.Left() {
		t.Errorf("RunOnce = %+v, want 15 shadowed without a call", sum)
	}
	if path := b.path(shadowRecord(b).SN); path != "pending shadowed" {
		t.Errorf("path = %s", path)
	}
	if r.Status().Shadow != nil {
		t.Error("the status tells of a shadow destination")
	}
}

// The destination of records whose answer got lost is taken out of the configuration.
func TestShadowDestinationGoesAway(t *testing.T) {
	t.Parallel()
	b, shadow := modesBench(t)
	shadow.Script(func(int, []reporter.UsageRecord) reportertest.Answer { return reportertest.LoseAnswer() })
	b.options.Shadow = shadow
	b.once(b.newReporter())
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 12, reporter.StateUnknown: 15, reporter.StateDryRun: 3})
	b.options.Shadow = nil
	b.once(b.newReporter())
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 12, reporter.StateShadowed: 15, reporter.StateDryRun: 3})
}

// Neither lane waits for the other: not behind a breaker, not behind a throttle, not behind a misconfiguration.
func TestLanesDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	answers := map[string]reportertest.Answer{
		"sick":          reportertest.Refuse(reporter.ClassUnavailable, "0999"),
		"misconfigured": reportertest.Refuse(reporter.ClassMisconfigured, "0102"),
		"throttled": {Result: reporter.Result{
			Class: reporter.ClassUnavailable, Code: "0250", RetryAfter: time.Hour,
		}},
	}
	for name, answer := range answers {
		for _, sickLane := range []string{"live", "shadow"} {
			t.Run(name+"/"+sickLane, func(t *testing.T) {
				t.Parallel()
				b, shadow := modesBench(t)
				b.options.Shadow, b.options.BreakerFailures = shadow, 1
				sick, want := b.market, map[reporter.State]int{
					reporter.StatePending: 12, reporter.StateShadowed: 15, reporter.StateDryRun: 3,
				}
				if sickLane == "shadow" {
					sick, want = shadow, map[reporter.State]int{
						reporter.StateAccepted: 12, reporter.StatePending: 15, reporter.StateDryRun: 3,
					}
				}
				sick.Script(func(int, []reporter.UsageRecord) reportertest.Answer { return answer })
				r := b.newReporter()
				sum := b.once(r)
				b.once(r)
				b.wantStates(want)
				if !sum.Left() {
					t.Errorf("summary %+v says that nothing is left", sum)
				}
				st := r.Status()
				if st.Shadow == nil {
					t.Fatal("no status of the shadow destination")
				}
				if sickLane == "shadow" && (st.Breaker != reporter.BreakerClosed || st.Misconfigured != nil || !st.ThrottledUntil.IsZero()) {
					t.Errorf("status of the marketplace = %+v, want nothing wrong", st)
				}
				sick.Script(nil)
				r.ResetBreaker("operator")
				b.once(r)
				if left := b.states()[reporter.StatePending]; left != 0 {
					t.Errorf("%d records are left after the recovery", left)
				}
			})
		}
	}
}

// An outage of the marketplace doesn't make every pass read all that waits for it in search of shadow records.
func TestShadowSearchIsRemembered(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	for hour := range 20 {
		b.books.AddUsage("inst-a", "tokens", at(hour*60), q("1"))
	}
	b.clock.Set(at(20*60 + 5))
	b.close()
	b.options.Shadow = reportertest.NewMarketplace(reportertest.DefaultLimits())
	b.options.BreakerFailures, b.options.BreakerTimeout = 1, time.Hour
	b.market.Script(func(int, []reporter.UsageRecord) reportertest.Answer {
		return reportertest.Refuse(reporter.ClassUnavailable, "0999")
	})
	r := b.newReporter()
	b.once(r)
	reads := 0
	b.books.SetFaults(func(op string, _ int) reportertest.Fault {
		if op == "DueRecords" {
			reads++
		}
		return reportertest.FaultNone
	})
	for range 10 {
		b.once(r)
	}
	if reads > 15 {
		t.Errorf("%d reads of due records in ten passes against an open breaker, want about one a pass", reads)
	}
}

// A shadow record that becomes due again in a settled booking is found.
func TestShadowRecordReleasedByAPerson(t *testing.T) {
	t.Parallel()
	b, shadow := modesBench(t)
	b.options.Shadow = shadow
	refusing := true
	shadow.Script(func(_ int, batch []reporter.UsageRecord) reportertest.Answer {
		if refusing && len(batch) == 1 {
			return reportertest.Refuse(reporter.ClassRecordBad, "9001")
		}
		return reportertest.Accept()
	})
	b.options.MaxBatch = 1
	r := b.newReporter()
	b.once(r)
	b.wantStates(map[reporter.State]int{reporter.StateAccepted: 12, reporter.StateRejected: 15, reporter.StateDryRun: 3})
	refusing = false
	rec := shadowRecord(b)
	next := reporter.Transition{
		SN: rec.SN, Booked: rec.Booked, Seq: rec.Last.Seq + 1, State: reporter.StatePending, At: b.clock.Now(),
		Attempt: rec.Last.Attempt, Actor: "operator", Message: "the sandbox knows it now",
	}
	if err := b.books.AppendTransitions(t.Context(), []reporter.Transition{next}); err != nil {
		t.Fatal(err)
	}
	b.once(r)
	b.wantStates(map[reporter.State]int{
		reporter.StateAccepted: 12, reporter.StateRejected: 14, reporter.StateShadowed: 1, reporter.StateDryRun: 3,
	})
}
