package reporter_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// to puts a record through states, as delivery does.
func (o *office) to(r reporter.BillRecord, states ...reporter.State) {
	o.t.Helper()
	for i, s := range states {
		row := reporter.Transition{SN: r.SN, Booked: r.Booked, Seq: r.Last.Seq + 1 + uint32(i), State: s, At: o.clock.Now()}
		if err := o.books.AppendTransitions(o.t.Context(), []reporter.Transition{row}); err != nil {
			o.t.Fatalf("AppendTransitions: %v", err)
		}
	}
}

// failed is an office with a record of 2 that was accepted.
func accepted(t *testing.T) (*office, reporter.BillRecord) {
	t.Helper()
	o := newOffice(t, []meter.Meter{tokens("1")}, nil)
	o.use("a", 10, "2.00003")
	o.closeAt(65)
	r := o.record("a")
	o.to(r, reporter.StateSending, reporter.StateAccepted)
	o.clock.Set(at(90))
	return o, r
}

func TestResendUnderTheNextRevision(t *testing.T) {
	t.Parallel()
	o, r := accepted(t)
	act := reporter.ResendAct{SNs: []reporter.MeteringSN{r.SN}, Actor: "ann", Reason: "code 009"}
	if _, err := o.desk.Resend(t.Context(), act); !errors.Is(err, reporter.ErrNotAllowed) {
		t.Errorf("Resend of an accepted record = %v, want a refusal", err)
	}
	fail := []reporter.Failure{{SN: r.SN, Code: "009", Message: "not of this seller"}}
	for range 2 { // the second one changes nothing
		if err := o.desk.Fail(t.Context(), fail, "ann"); err != nil {
			t.Fatalf("Fail: %v", err)
		}
	}
	first, err := o.desk.Resend(t.Context(), act)
	if err != nil {
		t.Fatalf("Resend: %v", err)
	}
	again, err := o.desk.Resend(t.Context(), act)
	if err != nil || again.Number != first.Number {
		t.Errorf("Resend again = booking %d, %v, want %d", again.Number, err, first.Number)
	}
	o.conserved()
	if path := o.path(r.SN); path != "pending sending accepted failed replaced" {
		t.Errorf("path of the old record = %s", path)
	}
	all := o.books.All()
	if len(all) != 2 {
		t.Fatalf("%d records, want 2", len(all))
	}
	n := all[1]
	want := r
	want.SN, want.Revision, want.Replaces, want.Booked, want.Version, want.Last = n.SN, 1, r.SN, meter.HourOf(at(90)), first.Version, n.Last
	if diff := cmp.Diff(want, n); diff != "" || n.SN == r.SN || n.Last.State != reporter.StatePending || n.Last.Actor != "ann" {
		t.Errorf("new record differs (-want +got):\n%s", diff)
	}
	if open, err := o.books.UnsettledBookings(t.Context()); err != nil || len(open) == 0 || open[len(open)-1].Number != first.Number {
		t.Errorf("unsettled: %v, %v, want the resend to be delivered", open, err)
	}
	// The new one may fail as well.
	o.to(n, reporter.StateSending, reporter.StateRejected)
	act.SNs = []reporter.MeteringSN{n.SN}
	if _, err := o.desk.Resend(t.Context(), act); err != nil {
		t.Fatalf("Resend of the resend: %v", err)
	}
	o.conserved()
}

func TestResendWithAMapping(t *testing.T) {
	t.Parallel()
	meters := []meter.Meter{billed("bytes", "")}
	o := newOffice(t, meters, nil)
	o.use("a", 10, "2")
	o.closeAt(65)
	r := o.record("a")
	act := reporter.ResendAct{SNs: []reporter.MeteringSN{r.SN}, Actor: "ann", Reason: "mapped"}
	if _, err := o.desk.Resend(t.Context(), act); !errors.Is(err, reporter.ErrNotAllowed) || !strings.Contains(err.Error(), "still has no marketplace instance") {
		t.Errorf("Resend without a mapping = %v, want a refusal", err)
	}
	move := reporter.RecordAct{SNs: act.SNs, To: reporter.StatePending, Actor: "ann", Reason: "send it"}
	if _, err := o.desk.MoveRecords(t.Context(), move); !errors.Is(err, reporter.ErrNotAllowed) || !strings.Contains(err.Error(), "names no marketplace instance") {
		t.Errorf("sending a record without an instance = %v, want a refusal", err)
	}
	o.closer.Mapper = mapper(t, meters, reporter.Mapping{Subject: "a", Meter: "bytes", InstanceID: "inst-a"})
	o.restart()
	for range 2 {
		if _, err := o.desk.Resend(t.Context(), act); err != nil {
			t.Fatalf("Resend: %v", err)
		}
	}
	o.conserved()
	if n := o.books.All()[1]; len(o.books.All()) != 2 || n.InstanceID != "inst-a" || n.Replaces != r.SN || n.Revision != 0 || !n.Billed.Equal(r.Billed) {
		t.Errorf("new record = %+v", n)
	}
	if path := o.path(r.SN); path != "held replaced" {
		t.Errorf("path of the old record = %s", path)
	}
}

// failing makes every call of one name fail before anything is done.
func failing(name string) reportertest.Faults {
	return func(op string, _ int) reportertest.Fault {
		if op == name {
			return reportertest.FaultBefore
		}
		return reportertest.FaultNone
	}
}

// A record that was given an instance must not be given another one when the mapping changes: its amount would be billed twice.
func TestResendAfterTheMappingChanged(t *testing.T) {
	t.Parallel()
	for name, crashed := range map[string]bool{"done": false, "ended before the old record was marked": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			meters := []meter.Meter{billed("bytes", "")}
			o := newOffice(t, meters, nil)
			o.use("a", 10, "2")
			o.closeAt(65)
			r := o.record("a")
			act := reporter.ResendAct{SNs: []reporter.MeteringSN{r.SN}, Actor: "ann", Reason: "mapped"}
			for i, instance := range []string{"inst-a", "inst-b"} {
				o.closer.Mapper = mapper(t, meters, reporter.Mapping{Subject: "a", Meter: "bytes", InstanceID: instance})
				o.restart()
				if i == 0 && crashed {
					o.books.SetFaults(failing("AppendTransitions"))
				}
				_, err := o.desk.Resend(t.Context(), act)
				o.books.SetFaults(nil)
				if failed := i == 0 && crashed; failed != (err != nil) {
					t.Fatalf("Resend = %v", err)
				}
			}
			o.conserved()
			all := o.books.All()
			if len(all) != 2 || all[1].InstanceID != "inst-a" {
				t.Errorf("records = %+v, want the old one and one of inst-a", all)
			}
			if path := o.path(r.SN); path != "held replaced" {
				t.Errorf("path of the old record = %s", path)
			}
		})
	}
}

// Between a resend's booking and the mark on the old record the process may end. The old one must not be sent then.
func TestMoveOfARecordThatWasResent(t *testing.T) {
	t.Parallel()
	o := newOffice(t, []meter.Meter{tokens("1")}, nil)
	o.use("a", 10, "2")
	o.closeAt(65)
	r := o.record("a")
	o.to(r, reporter.StateSending, reporter.StateRejected)
	o.books.SetFaults(failing("AppendTransitions"))
	if _, err := o.desk.Resend(t.Context(), reporter.ResendAct{SNs: []reporter.MeteringSN{r.SN}, Actor: "ann", Reason: "again"}); err == nil {
		t.Fatal("Resend succeeded, want it to end before the mark")
	}
	o.books.SetFaults(nil)
	for _, to := range []reporter.State{reporter.StatePending, reporter.StateWrittenOff} {
		act := reporter.RecordAct{SNs: []reporter.MeteringSN{r.SN}, To: to, Actor: "ann", Reason: "send it"}
		if _, err := o.desk.MoveRecords(t.Context(), act); !errors.Is(err, reporter.ErrNotAllowed) || !strings.Contains(err.Error(), "reported again as") {
			t.Errorf("MoveRecords to %s = %v, want a refusal", to, err)
		}
	}
	if path := o.path(r.SN); path != "pending sending rejected" {
		t.Errorf("path of the old record = %s", path)
	}
}

func TestMoveRecords(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		path  []reporter.State
		to    reporter.State
		wants string // the path afterwards, or part of the error
		err   error
	}{
		"rejected, sent again":     {[]reporter.State{reporter.StateSending, reporter.StateRejected}, reporter.StatePending, "pending sending rejected pending", nil},
		"expired, written off":     {[]reporter.State{reporter.StateExpired}, reporter.StateWrittenOff, "pending expired written_off", nil},
		"held, unbillable":         {[]reporter.State{reporter.StateHeld}, reporter.StateUnbillable, "pending held unbillable", nil},
		"already there":            {[]reporter.State{reporter.StateWrittenOff}, reporter.StateWrittenOff, "pending written_off", nil},
		"delivery's":               {nil, reporter.StateWrittenOff, "delivery works on it", reporter.ErrNotAllowed},
		"accepted can't be undone": {[]reporter.State{reporter.StateSending, reporter.StateAccepted}, reporter.StateWrittenOff, "accepted can't become written_off", reporter.ErrNotAllowed},
		"no state of a person":     {[]reporter.State{reporter.StateHeld}, reporter.StateAccepted, "can't make records accepted", reporter.ErrNotAllowed},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, []meter.Meter{tokens("1")}, nil)
			o.use("a", 10, "2")
			o.closeAt(65)
			r := o.record("a")
			o.to(r, tc.path...)
			got, err := o.desk.MoveRecords(t.Context(), reporter.RecordAct{SNs: []reporter.MeteringSN{r.SN}, To: tc.to, Actor: "ann", Reason: "why"})
			o.conserved()
			audit, _ := o.books.Audit(t.Context(), at(0), at(600), 10)
			if tc.err != nil {
				if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.wants) || len(audit) != 0 {
					t.Errorf("MoveRecords = %v (%d audited), want %q", err, len(audit), tc.wants)
				}
				return
			}
			if err != nil || len(got) != 1 || got[0].Last.State != tc.to || o.path(r.SN) != tc.wants || len(audit) != 1 {
				t.Errorf("MoveRecords = %v, %v; path %s, want %s; %d audited", got, err, o.path(r.SN), tc.wants, len(audit))
			}
		})
	}
}

func TestActsAreCheckedBeforeAnythingIsDone(t *testing.T) {
	t.Parallel()
	o, r := accepted(t)
	before := fmt.Sprint(o.story())
	many := make([]reporter.MeteringSN, 1001)
	for i := range many {
		many[i] = reporter.MeteringSN(strconv.Itoa(i))
	}
	sns := []reporter.MeteringSN{r.SN}
	ctx := t.Context()
	resend := func(a reporter.ResendAct) error { _, err := o.desk.Resend(ctx, a); return err }
	decide := func(d reporter.Decision) error { _, err := o.desk.Decide(ctx, d); return err }
	life := func(a reporter.LifeAct) error { _, _, err := o.desk.ChangeLife(ctx, a); return err }
	tests := map[string]struct {
		got, want error
	}{
		"no actor":        {resend(reporter.ResendAct{SNs: sns, Reason: "x"}), reporter.ErrNotAllowed},
		"no reason":       {resend(reporter.ResendAct{SNs: sns, Actor: "ann", Reason: " "}), reporter.ErrNotAllowed},
		"nothing":         {resend(reporter.ResendAct{Actor: "ann", Reason: "x"}), reporter.ErrNotAllowed},
		"twice":           {resend(reporter.ResendAct{SNs: append(sns, r.SN), Actor: "ann", Reason: "x"}), reporter.ErrNotAllowed},
		"too many":        {resend(reporter.ResendAct{SNs: many, Actor: "ann", Reason: "x"}), reporter.ErrNotAllowed},
		"unknown record":  {resend(reporter.ResendAct{SNs: many[:1], Actor: "ann", Reason: "x"}), reporter.ErrNotFound},
		"unknown held":    {decide(reporter.Decision{IDs: []reporter.AdjustmentID{"x"}, Actor: "ann", Reason: "x"}), reporter.ErrNotFound},
		"unknown failure": {o.desk.Fail(ctx, []reporter.Failure{{SN: "x", Code: "001"}}, "ann"), reporter.ErrNotFound},
		"future life":     {life(reporter.LifeAct{InstanceID: "a", Kind: released, At: at(91), Actor: "ann", Reason: "x"}), reporter.ErrFuture},
		"no kind":         {life(reporter.LifeAct{InstanceID: "a", At: at(80), Actor: "ann", Reason: "x"}), reporter.ErrNotAllowed},
		"no time":         {life(reporter.LifeAct{InstanceID: "a", Kind: released, Actor: "ann", Reason: "x"}), reporter.ErrNotAllowed},
	}
	for name, tc := range tests {
		if !errors.Is(tc.got, tc.want) {
			t.Errorf("%s: %v, want %v", name, tc.got, tc.want)
		}
	}
	audit, err := o.books.Audit(ctx, at(0), at(600), 100)
	if err != nil || len(audit) != 0 || fmt.Sprint(o.story()) != before || o.path(r.SN) != "pending sending accepted" {
		t.Errorf("something was done: %v, %v, %v", audit, err, o.story())
	}
}

func TestLivesThatContradictAreRefused(t *testing.T) {
	t.Parallel()
	type step struct {
		kind   reporter.LifeChangeKind
		minute int
		ok     bool
	}
	tests := map[string][]step{
		"released twice":       {{released, 10, true}, {released, 20, false}, {released, 10, true}},
		"used after release":   {{released, 10, true}, {frozen, 20, false}, {frozen, 5, true}},
		"release before":       {{frozen, 20, true}, {released, 10, false}},
		"opened late":          {{frozen, 20, true}, {opened, 30, false}, {opened, 10, true}, {opened, 11, false}},
		"frozen before opened": {{opened, 10, true}, {frozen, 5, false}},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, []meter.Meter{tokens("1")}, nil)
			o.clock.Set(at(40))
			for i, s := range steps {
				_, _, err := o.desk.ChangeLife(t.Context(), reporter.LifeAct{
					InstanceID: "a", Kind: s.kind, At: at(s.minute), Actor: "ann", Reason: "x",
				})
				if (err == nil) != s.ok || err != nil && !errors.Is(err, reporter.ErrNotAllowed) {
					t.Errorf("step %d: %v, want success: %v", i, err, s.ok)
				}
			}
		})
	}
}

// A desk that is interrupted anywhere, and asked again, comes to the same end.
func TestInterruptedResendIsFinished(t *testing.T) {
	t.Parallel()
	play := func(t *testing.T, fault reportertest.Fault, call int) (o *office, calls int) {
		t.Helper()
		o, r := accepted(t)
		if err := o.desk.Fail(t.Context(), []reporter.Failure{{SN: r.SN, Code: "001"}}, "ann"); err != nil {
			t.Fatal(err)
		}
		o.books.SetFaults(func(string, int) reportertest.Fault {
			if calls++; calls == call {
				return fault
			}
			return reportertest.FaultNone
		})
		act := reporter.ResendAct{SNs: []reporter.MeteringSN{r.SN}, Actor: "ann", Reason: "x"}
		_ = safely(func() error { _, err := o.desk.Resend(t.Context(), act); return err })
		o.books.SetFaults(nil)
		o.restart()
		if _, err := o.desk.Resend(t.Context(), act); err != nil {
			t.Fatalf("fault %d in call %d: Resend again: %v", fault, call, err)
		}
		o.conserved()
		if path := o.path(r.SN); path != "pending sending accepted failed replaced" || len(o.books.All()) != 2 {
			t.Errorf("fault %d in call %d: path %s, %d records", fault, call, path, len(o.books.All()))
		}
		return o, calls
	}
	_, calls := play(t, reportertest.FaultNone, 0)
	for _, fault := range []reportertest.Fault{
		reportertest.FaultBefore, reportertest.FaultHalf, reportertest.FaultAfter, reportertest.FaultPanic,
	} {
		for call := 1; call <= calls; call++ {
			play(t, fault, call)
		}
	}
}

// A record without an answer may be on its way again in the same moment: nobody may call it failed before delivery has settled it.
func TestFailWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	for _, states := range [][]reporter.State{{reporter.StateSending}, {reporter.StateSending, reporter.StateUnknown}} {
		o := newOffice(t, []meter.Meter{tokens("1")}, nil)
		o.use("a", 10, "2")
		o.closeAt(65)
		r := o.record("a")
		o.to(r, states...)
		err := o.desk.Fail(t.Context(), []reporter.Failure{{SN: r.SN, Code: "001"}}, "ann")
		if !errors.Is(err, reporter.ErrNotAllowed) {
			t.Errorf("Fail of a record in %v = %v, want %v", states, err, reporter.ErrNotAllowed)
		}
	}
}
