package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// newAdjustment makes the nth adjustment.
func newAdjustment(n int, into reporter.Destination, quantity string) reporter.Adjustment {
	return reporter.Adjustment{
		ID: reporter.AdjustmentID(fmt.Sprintf("%032x", n)), Hour: hourAt(-n), Subject: "a", Meter: "tokens", InstanceID: "instance-a",
		Quantity: meter.QuantityFromDecimal(decimal.RequireFromString(quantity)), Into: into, Reason: "it's late", At: base.Add(time.Duration(n)),
	}
}

func testAdjustments(t *testing.T, s *suite) {
	ctx := t.Context()
	first := s.book(t, reporter.BookingRecount, hourAt(0), reporter.Rows{Adjustments: []reporter.Adjustment{
		newAdjustment(1, reporter.IntoHeld, "5.5"), newAdjustment(2, reporter.IntoBalance, "-1"), newAdjustment(3, reporter.IntoHeld, "7"),
	}})
	other := newAdjustment(4, reporter.IntoHeld, "9")
	other.Subject = "b"
	// The same adjustments of a booking that was interrupted.
	dead := reporter.Rows{Adjustments: []reporter.Adjustment{other, newAdjustment(5, reporter.IntoHeld, "1")}}
	s.write(t, s.draft(t, reporter.BookingRecount, hourAt(1), &dead), dead)
	alive := reporter.Rows{Adjustments: []reporter.Adjustment{other}}
	b := s.draft(t, reporter.BookingRecount, hourAt(1), &alive)
	b.Version += 5
	fillIn(b, &alive)
	s.write(t, b, alive)
	if err := s.store.Commit(ctx, b); err != nil {
		t.Fatal(err)
	}
	held := func(name string, ids []reporter.AdjustmentID, after reporter.AdjustmentID, limit int, want ...string) {
		t.Helper()
		var got []string
		for _, h := range must(s.store.HeldUsage(ctx, ids, after, limit))(t) {
			got = append(got, fmt.Sprintf("%s %s of %s", h.ID[31:], h.Open, h.Quantity))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("HeldUsage %s (-want +got):\n%s", name, diff)
		}
	}
	id := func(n int) reporter.AdjustmentID { return newAdjustment(n, 0, "0").ID }
	held("at first", nil, "", 10, "1 5.5 of 5.5", "3 7 of 7", "4 9 of 9")
	held("limited", nil, "", 2, "1 5.5 of 5.5", "3 7 of 7")
	held("after", nil, id(1), 1, "3 7 of 7")
	held("after a booking", nil, id(3), 10, "4 9 of 9")
	held("chosen", []reporter.AdjustmentID{id(4), id(2), id(9)}, "", 10, "4 9 of 9")
	held("none chosen", []reporter.AdjustmentID{}, "", 10)
	// One decided about whole, one in part; what a decision puts elsewhere is no held usage.
	decide := func(n, of int, quantity string, into reporter.Destination) reporter.Adjustment {
		a := newAdjustment(n, into, quantity)
		a.Of, a.Actor = id(of), "ann"
		return a
	}
	decision := s.book(t, reporter.BookingDecision, hourAt(9), reporter.Rows{Adjustments: []reporter.Adjustment{
		decide(10, 1, "-5.5", reporter.IntoHeld), decide(11, 1, "5.5", reporter.IntoBalance),
		decide(12, 4, "-2", reporter.IntoHeld), decide(13, 4, "2", reporter.IntoWrittenOff),
	}})
	for _, when := range []string{"before a merge", "after a merge"} {
		held(when, nil, "", 10, "3 7 of 7", "4 7 of 9")
		held("chosen "+when, []reporter.AdjustmentID{id(1), id(4)}, "", 10, "4 7 of 9")
		s.optimize(t)
	}
	for name, c := range map[string]struct {
		filter reporter.AdjustmentFilter
		want   int
	}{
		"all":          {reporter.AdjustmentFilter{}, 8},
		"limited":      {reporter.AdjustmentFilter{Limit: 3}, 3},
		"held":         {reporter.AdjustmentFilter{Into: reporter.IntoHeld}, 5},
		"subject":      {reporter.AdjustmentFilter{Subject: "b", Meter: "tokens"}, 1},
		"meter":        {reporter.AdjustmentFilter{Meter: "calls"}, 0},
		"hours":        {reporter.AdjustmentFilter{Hours: meter.Window{Start: hourAt(-3).Start, End: hourAt(-1).Start}}, 2},
		"from booking": {reporter.AdjustmentFilter{FromBooking: decision.Number}, 4},
		"to booking":   {reporter.AdjustmentFilter{ToBooking: first.Number}, 3},
		"one booking":  {reporter.AdjustmentFilter{FromBooking: 2, ToBooking: 2, Into: reporter.IntoHeld}, 1},
		"beyond":       {reporter.AdjustmentFilter{FromBooking: 99}, 0},
	} {
		if list := must(s.store.Adjustments(ctx, c.filter))(t); len(list) != c.want {
			t.Errorf("Adjustments(%s) has %d, want %d: %+v", name, len(list), c.want, list)
		}
	}
	s.record("%d adjustments", len(must(s.store.Adjustments(ctx, reporter.AdjustmentFilter{}))(t)))
}

func testBalances(t *testing.T, s *suite) {
	// Of each account the latest booking decides, however long ago it was; zero means nothing is left.
	open := map[string]meter.Quantity{}
	check := func(n int) (total int) {
		t.Helper()
		for range 2 { // the second time possibly from a checkpoint
			list := must(s.store.Balances(t.Context(), nil))(t)
			total = len(list)
			for i, b := range list {
				if !open[b.Subject].Equal(b.Quantity) || b.Quantity.IsZero() || b.Meter != "tokens" || i > 0 && list[i-1].Subject >= b.Subject {
					t.Errorf("Balances after %d bookings: %+v, want %s", n, b, open[b.Subject])
				}
			}
			want := 0
			for subject, q := range open {
				one := must(s.store.Balances(t.Context(), []string{subject, "nobody"}))(t)
				if !q.IsZero() {
					want++
				}
				if len(one) == 1 != !q.IsZero() || len(one) == 1 && !one[0].Quantity.Equal(q) {
					t.Errorf("Balances of %s after %d bookings = %+v, want %s", subject, n, one, q)
				}
			}
			if total != want {
				t.Errorf("Balances after %d bookings = %d, want %d", n, total, want)
			}
		}
		return total
	}
	check(0)
	left := 0
	for n := range 100 {
		var rows, dead reporter.Rows
		for _, i := range []int{n % 7, 7 + n/10, 100} {
			b := reporter.Balance{Subject: fmt.Sprintf("tenant-%03d", i), Meter: "tokens", Quantity: meter.NewQuantity(int64((n*i)%5-2), -18)}
			if len(rows.Balances) > 0 && rows.Balances[0].Subject == b.Subject {
				continue
			}
			rows.Balances = append(rows.Balances, b)
			dead.Balances = append(dead.Balances, reporter.Balance{Subject: b.Subject, Meter: "tokens", Quantity: meter.NewQuantity(99, 0)})
			open[b.Subject] = b.Quantity
		}
		// An interrupted booking of the same number leaves no trace.
		b := s.draft(t, reporter.BookingClose, hourAt(n), &rows)
		if n%9 == 0 {
			interrupted := b
			interrupted.Version -= 7
			s.write(t, interrupted, dead)
		}
		s.write(t, b, rows)
		if err := s.store.Commit(t.Context(), b); err != nil {
			t.Fatalf("Commit: %v", err)
		}
		if n%25 == 24 {
			left = check(n + 1)
		}
	}
	checkpoints, rows := s.count(t, "balance_checkpoints"), s.count(t, "checkpoint_balances")
	s.record("%d balances, %d checkpoints", left, checkpoints)
	if checkpoints < 4 || rows > 3*uint64(len(open)) {
		t.Errorf("%d checkpoints with %d rows for %d accounts, want at least 4 and the rows of 3", checkpoints, rows, len(open))
	}
	if list := must(s.store.Balances(t.Context(), []string{}))(t); len(list) != 0 {
		t.Errorf("Balances of nobody = %v", list)
	}
}

func testLives(t *testing.T, s *suite) {
	ctx := t.Context()
	at := func(minutes int) time.Time { return base.Add(time.Duration(minutes) * time.Minute) }
	change := func(id string, kind reporter.LifeChangeKind, minutes int) reporter.LifeChange {
		return reporter.LifeChange{InstanceID: id, Kind: kind, At: at(minutes), RecordedAt: at(minutes).Add(time.Second), Actor: "market", Reason: "it's so"}
	}
	const opened, frozen, unfrozen, released = reporter.LifeOpened, reporter.LifeFrozen, reporter.LifeUnfrozen, reporter.LifeReleased
	changes := []reporter.LifeChange{ // in no order
		change("b-frozen-twice", frozen, 200), change("b-frozen-twice", unfrozen, 130), change("b-frozen-twice", frozen, 70), change("b-frozen-twice", frozen, 75),
		change("a-released", released, 90), change("a-released", opened, 30), change("a-released", opened, 45),
		change("c-open-before", opened, 10), change("d-thawed-before", frozen, 10), change("d-thawed-before", unfrozen, 60),
		change("e-opened-within", opened, 61), change("f-released-at-end", released, 120), change("g-frozen-at-end", frozen, 120),
		change("h-thawed-at-once", frozen, 80), change("h-thawed-at-once", unfrozen, 80),
		change("i-frozen-before", frozen, 1), change("j-released-long-ago", released, -9000),
	}
	for _, list := range [][]reporter.LifeChange{changes[:5], changes[5:], changes[2:9]} { // some twice
		if err := s.store.AppendLife(ctx, list); err != nil {
			t.Fatalf("AppendLife: %v", err)
		}
	}
	again := changes[4]
	again.RecordedAt, again.Reason = again.RecordedAt.Add(time.Hour), "reported again"
	if err := s.store.AppendLife(ctx, []reporter.LifeChange{again}); err != nil {
		t.Fatal(err)
	}
	want := []reporter.Life{
		{InstanceID: "a-released", Opened: at(30), Released: at(90)},
		{InstanceID: "b-frozen-twice", Frozen: []meter.Window{{Start: at(70), End: at(130)}, {Start: at(200)}}},
		{InstanceID: "e-opened-within", Opened: at(61)},
		{InstanceID: "i-frozen-before", Frozen: []meter.Window{{Start: at(1)}}},
		{InstanceID: "j-released-long-ago", Released: at(-9000)},
	}
	for _, when := range []string{"before a merge", "after a merge"} {
		if diff := cmp.Diff(want, must(s.store.Lives(ctx, hourAt(1), nil))(t)); diff != "" {
			t.Errorf("Lives %s (-want +got):\n%s", when, diff)
		}
		some := []string{"nobody", "j-released-long-ago", "it's \\ one", "b-frozen-twice", "f-released-at-end"}
		if diff := cmp.Diff([]reporter.Life{want[1], want[4]}, must(s.store.Lives(ctx, hourAt(1), some))(t)); diff != "" {
			t.Errorf("Lives of some %s (-want +got):\n%s", when, diff)
		}
		if lives := must(s.store.Lives(ctx, hourAt(1), []string{}))(t); len(lives) != 0 {
			t.Errorf("Lives of nobody %s = %v", when, lives)
		}
		if diff := cmp.Diff([]reporter.LifeChange{changes[5], changes[6], changes[4]}, must(s.store.LifeOf(ctx, "a-released"))(t)); diff != "" {
			t.Errorf("LifeOf %s (-want +got):\n%s", when, diff)
		}
		s.optimize(t)
	}
	s.record("%d lives", len(want))
	for name, c := range map[string]reporter.LifeChange{
		"no instance": {Kind: opened, At: base}, "no kind": {InstanceID: "x", At: base}, "no time": {InstanceID: "x", Kind: opened},
		"before 1970": {InstanceID: "x", Kind: opened, At: time.Unix(-1, 0)},
	} {
		if err := s.store.AppendLife(ctx, []reporter.LifeChange{c}); !errors.Is(err, meter.ErrRefused) {
			t.Errorf("AppendLife with %s = %v, want ErrRefused", name, err)
		}
	}
	s.withoutFinal(t, at)
}

func (s *suite) withoutFinal(t *testing.T, at func(int) time.Time) {
	t.Helper()
	check := func(when string, want ...string) {
		t.Helper()
		var got []string
		for _, c := range must(s.store.ReleasedWithoutFinal(t.Context(), 100))(t) {
			got = append(got, fmt.Sprintf("%s %s %d", c.InstanceID, c.Kind, int(c.At.Sub(base).Minutes())))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ReleasedWithoutFinal %s (-want +got):\n%s", when, diff)
		}
	}
	all := []string{
		"j-released-long-ago released -9000", "i-frozen-before frozen 1", "d-thawed-before frozen 10", "b-frozen-twice frozen 70",
		"b-frozen-twice frozen 75", "h-thawed-at-once frozen 80", "a-released released 90", "f-released-at-end released 120",
		"g-frozen-at-end frozen 120", "b-frozen-twice frozen 200",
	}
	check("at first", all...)
	if list := must(s.store.ReleasedWithoutFinal(t.Context(), 2))(t); len(list) != 2 {
		t.Errorf("ReleasedWithoutFinal with limit 2 = %v", list)
	}
	final := func(kind reporter.BookingKind, id string, minutes int) {
		b := s.draft(t, kind, hourAt(200), &reporter.Rows{})
		b.InstanceID, b.At = id, at(minutes)
		if err := s.store.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	final(reporter.BookingFreeze, "b-frozen-twice", 100) // both freezes before, not the one after
	final(reporter.BookingFreeze, "a-released", 100)     // a freeze is no release
	final(reporter.BookingRelease, "i-frozen-before", 100)
	final(reporter.BookingRelease, "f-released-at-end", 119) // before it was recorded
	final(reporter.BookingClose, "g-frozen-at-end", 500)
	check("after some bookings", all[0], all[2], all[5], all[6], all[7], all[8], all[9])
}

func testAudit(t *testing.T, s *suite) {
	ctx := t.Context()
	var entries []reporter.AuditEntry
	for i, text := range hostileTexts() {
		entries = append(entries, reporter.AuditEntry{
			At: base.Add(time.Duration(i) * time.Minute), Actor: "ann " + text, Action: "void", Target: text, Reason: text, Detail: text,
		})
	}
	for range 2 { // the second time changes nothing
		if err := s.store.AppendAudit(ctx, entries); err != nil {
			t.Fatalf("AppendAudit: %v", err)
		}
	}
	if err := s.store.AppendAudit(ctx, nil); err != nil {
		t.Errorf("AppendAudit of nothing: %v", err)
	}
	var want []reporter.AuditEntry
	for i := range entries {
		want = append(want, entries[len(entries)-1-i])
	}
	if diff := cmp.Diff(want, must(s.store.Audit(ctx, time.Time{}, time.Time{}, 100))(t)); diff != "" {
		t.Errorf("Audit (-want +got):\n%s", diff)
	}
	got := must(s.store.Audit(ctx, base.Add(time.Minute), base.Add(5*time.Minute), 3))(t)
	if len(got) != 3 || got[0].At != base.Add(4*time.Minute) || got[2].At != base.Add(2*time.Minute) {
		t.Errorf("Audit of four minutes with limit 3 = %+v", got)
	}
	if err := s.store.AppendAudit(ctx, []reporter.AuditEntry{{At: base, Action: "void"}}); !errors.Is(err, meter.ErrRefused) {
		t.Errorf("AppendAudit without an actor = %v, want ErrRefused", err)
	}
	s.record("%d entries", len(want))
}
