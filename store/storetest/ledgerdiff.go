package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// ledger is what the store and the reference books have in common.
type ledger interface {
	reporter.WindowBooks
	reporter.DeliveryBooks
	reporter.RecordReader
	reporter.LifeBooks
	reporter.AuditBooks
	reporter.DueCounter
}

// walk makes a random sequence of operations on two ledgers.
type walk struct {
	t       *testing.T
	random  *rand.Rand
	ledgers [2]ledger // the reference, then the store

	version uint64
	last    reporter.Booking
	states  map[reporter.MeteringSN]reporter.BillRecord // committed, with their last transitions
	held    []reporter.AdjustmentID
	sns     []reporter.MeteringSN
	ids     int
}

// testDifferential compares every answer of the store with that of the reference books, again and again during many random
// operations. The rows are random, too: the ledger doesn't judge amounts.
func testDifferential(t *testing.T, s *suite) {
	const seeds, steps, every = 1, 40, 5
	for seed := range uint64(seeds) {
		w := &walk{
			t: t, random: rand.New(rand.NewPCG(seed, 7)), ledgers: [2]ledger{reportertest.NewBooks(), s.store},
			states: map[reporter.MeteringSN]reporter.BillRecord{},
		}
		if seed > 0 { // a database of its own
			other := newSuite(t, s.backend, &recorder{})
			w.ledgers[1] = other.store
		}
		for step := range steps {
			w.step(step)
			if step%every == every-1 {
				w.compare(step)
			}
			if t.Failed() {
				t.Fatalf("seed %d differs after step %d", seed, step)
			}
		}
		s.record("seed %d: %d bookings, %d records, %d adjustments", seed, w.last.Number, len(w.sns), w.ids)
	}
}

func (w *walk) step(step int) {
	w.t.Helper()
	switch n := w.random.IntN(10); {
	case n < 6:
		w.book(step)
	case n < 8:
		w.deliver()
	case n < 9:
		w.live(step)
	default:
		entry := reporter.AuditEntry{At: w.at(step), Actor: "ann", Action: "void", Target: strconv.Itoa(step), Reason: "it's"}
		_ = w.both("AppendAudit", func(ctx context.Context, l ledger) error { return l.AppendAudit(ctx, []reporter.AuditEntry{entry}) })
	}
}

// at is an instant of its own for a step.
func (w *walk) at(step int) time.Time {
	return base.Add(time.Duration(step)*time.Hour + time.Duration(w.random.IntN(3_600_000_000_000)))
}

// both does the same to both ledgers, which must agree on whether it works.
func (w *walk) both(name string, do func(ctx context.Context, l ledger) error) (err error) {
	w.t.Helper()
	var errs [2]error
	for i, l := range w.ledgers {
		errs[i] = do(w.t.Context(), l)
	}
	if (errs[0] == nil) != (errs[1] == nil) || errors.Is(errs[0], reporter.ErrBookingTaken) != errors.Is(errs[1], reporter.ErrBookingTaken) {
		w.t.Fatalf("%s = %v in the reference, %v in the store", name, errs[0], errs[1])
	}
	return errs[1]
}

func (w *walk) book(step int) {
	kind := []reporter.BookingKind{
		reporter.BookingClose, reporter.BookingClose, reporter.BookingRecount, reporter.BookingRecount, reporter.BookingRecount,
		reporter.BookingRelease, reporter.BookingFreeze, reporter.BookingDecision, reporter.BookingResend,
	}[w.random.IntN(9)]
	hour := hourAt(step)
	if kind == reporter.BookingRecount {
		hour = hourAt(w.random.IntN(step/3 + 1))
	}
	w.version += 1 + w.random.Uint64N(5)
	b := reporter.Booking{
		Number: w.last.Number + 1, Version: w.version, Kind: kind, Window: hour, At: w.at(step), Events: w.random.Uint64N(100), Actor: "ann's", Reason: "\n",
	}
	if kind == reporter.BookingRelease || kind == reporter.BookingFreeze {
		b.InstanceID = w.instance()
	}
	rows := w.rows(b, step)
	b.Usages, b.Records, b.Adjustments = uint64(len(rows.Usage)), uint64(len(rows.Records)), uint64(len(rows.Adjustments))
	b.Balances, b.Covers = uint64(len(rows.Balances)), uint64(len(rows.Covers))
	fillIn(b, &rows)
	repeats := 1 + w.random.IntN(2)
	for range repeats {
		_ = w.both("WriteRows", func(ctx context.Context, l ledger) error { return l.WriteRows(ctx, b, rows) })
	}
	if w.random.IntN(5) == 0 {
		return // interrupted
	}
	for range repeats {
		if w.both("Commit", func(ctx context.Context, l ledger) error { return l.Commit(ctx, b) }) != nil {
			return
		}
	}
	rival := b
	rival.Version++
	_ = w.both("Commit of a rival", func(ctx context.Context, l ledger) error { return l.Commit(ctx, rival) })
	w.version, w.last = b.Version+1, b
	for _, r := range rows.Records {
		w.states[r.SN] = r
		w.sns = append(w.sns, r.SN)
	}
	for _, a := range rows.Adjustments {
		if a.Into == reporter.IntoHeld && a.Of == "" {
			w.held = append(w.held, a.ID)
		}
	}
}

func (w *walk) instance() string { return fmt.Sprintf("instance-%d", w.random.IntN(4)) }

func (w *walk) quantity() meter.Quantity {
	return meter.NewQuantity(int64(w.random.IntN(5)-2), -int32(w.random.IntN(19)))
}

func (w *walk) rows(b reporter.Booking, step int) reporter.Rows {
	var rows reporter.Rows
	for i := range w.random.IntN(4) {
		subject := fmt.Sprintf("s%d", i)
		hour := b.Window
		if b.Kind == reporter.BookingRelease && step > 0 {
			hour = hourAt(w.random.IntN(step))
		}
		rows.Usage = append(rows.Usage, reporter.HourlyUsage{Window: hour, Subject: subject, Meter: "tokens", Quantity: w.quantity(), Events: w.random.Uint64N(9)})
		rows.Balances = append(rows.Balances, reporter.Balance{Subject: subject, Meter: "tokens", Quantity: w.quantity()})
	}
	for i := range w.random.IntN(4) {
		r := newRecord(w.random.IntN(4), b.Window.Start)
		r.Revision = uint32(b.Version*10) + uint32(i)
		if w.random.IntN(3) == 0 {
			start := hourAt(w.random.IntN(step + 1)).Start
			if !start.After(b.Window.Start) {
				r.Window = meter.Window{Start: start.Add(13 * time.Second), End: start.Add(24 * time.Hour)}
			}
		}
		r.SN = r.Identity().SN()
		r.Last.SN = r.SN
		r.Last.State = []reporter.State{reporter.StatePending, reporter.StateHeld, reporter.StateUnbillable, reporter.StateCarried}[w.random.IntN(4)]
		rows.Records = append(rows.Records, r)
	}
	for range w.random.IntN(3) {
		w.ids++
		a := newAdjustment(1000-w.ids, reporter.Destination(1+w.random.IntN(4)), "1.5")
		a.Hour = b.Window
		rows.Adjustments = append(rows.Adjustments, a)
		if len(w.held) > 0 && w.random.IntN(2) == 0 {
			w.ids++
			decision := newAdjustment(1000-w.ids, reporter.IntoHeld, []string{"-1.5", "-0.5"}[w.random.IntN(2)])
			decision.Hour, decision.Of = b.Window, w.held[w.random.IntN(len(w.held))]
			rows.Adjustments = append(rows.Adjustments, decision)
		}
	}
	if b.Kind == reporter.BookingClose {
		rows.Covers = append(rows.Covers, reporter.Cover{Hour: b.Window, Touch: w.random.Uint64()})
	}
	return rows
}

// deliver moves some records on, by the table of states, and settles bookings that have nothing due.
func (w *walk) deliver() {
	var ts []reporter.Transition
	for _, sn := range w.sns {
		r := w.states[sn]
		next := slices.DeleteFunc(reporter.States(), func(st reporter.State) bool { return !r.Last.State.CanBecome(st) })
		if len(next) == 0 || w.random.IntN(2) == 0 {
			continue
		}
		tr := transition(r, r.Last.Seq+1, next[w.random.IntN(len(next))])
		tr.At = r.Last.At.Add(time.Second)
		r.Last = tr
		w.states[sn] = r
		ts = append(ts, tr)
	}
	if len(ts) == 0 {
		return
	}
	for range 1 + w.random.IntN(2) {
		_ = w.both("AppendTransitions", func(ctx context.Context, l ledger) error { return l.AppendTransitions(ctx, ts) })
	}
	open, err := w.ledgers[0].UnsettledBookings(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range open {
		due, err := w.ledgers[0].DueRecords(w.t.Context(), b, "", 1)
		if err != nil || len(due) > 0 {
			continue
		}
		b.SettledAt = b.At.Add(time.Minute)
		_ = w.both("SettleBooking", func(ctx context.Context, l ledger) error { return l.SettleBooking(ctx, b) })
	}
}

func (w *walk) live(step int) {
	at := hourAt(w.random.IntN(step + 2)).Start
	change := reporter.LifeChange{
		InstanceID: w.instance(), Kind: reporter.LifeChangeKind(1 + w.random.IntN(4)), At: at, RecordedAt: w.at(step), Actor: "m", Reason: "it's",
	}
	_ = w.both("AppendLife", func(ctx context.Context, l ledger) error { return l.AppendLife(ctx, []reporter.LifeChange{change}) })
}

// compare asks both ledgers everything.
func (w *walk) compare(step int) {
	w.t.Helper()
	for name, ask := range w.questions(step) {
		var answers [2]any
		for i, l := range w.ledgers {
			answer, err := ask(w.t.Context(), l)
			if err != nil {
				w.t.Fatalf("%s: %v", name, err)
			}
			answers[i] = answer
		}
		// Nothing may be nil or empty.
		if diff := cmp.Diff(answers[0], answers[1], cmpopts.EquateEmpty()); diff != "" {
			w.t.Errorf("%s (-reference +store):\n%s", name, diff)
		}
	}
}

type question func(ctx context.Context, l ledger) (any, error)

func (w *walk) questions(step int) map[string]question {
	from, to := hourAt(w.random.IntN(step+1)).Start, hourAt(w.random.IntN(step+3)).Start
	state := reporter.States()[w.random.IntN(len(reporter.States()))]
	filter := reporter.RecordFilter{From: from, To: to, Limit: 1 + w.random.IntN(5)}
	after := reporter.RecordFilter{Limit: 3}
	if len(w.sns) > 0 {
		after.After = reporter.Cursor(w.states[w.sns[w.random.IntN(len(w.sns))]])
	}
	var heldAfter reporter.AdjustmentID
	if len(w.held) > 0 {
		heldAfter = w.held[w.random.IntN(len(w.held))]
	}
	q := map[string]question{
		"LastBooking": func(ctx context.Context, l ledger) (any, error) {
			b, ok, err := l.LastBooking(ctx)
			return []any{b, ok}, err
		},
		"LastClosed": func(ctx context.Context, l ledger) (any, error) {
			b, ok, err := l.LastClosed(ctx)
			return []any{b.Window, ok}, err
		},
		"BookedUsage": func(ctx context.Context, l ledger) (any, error) { return l.BookedUsage(ctx, meter.HourOf(from), nil) },
		"BookedUsage of some": func(ctx context.Context, l ledger) (any, error) {
			return l.BookedUsage(ctx, meter.HourOf(from), []string{"s1", "s2"})
		},
		"Balances":         func(ctx context.Context, l ledger) (any, error) { return l.Balances(ctx, nil) },
		"Balances of some": func(ctx context.Context, l ledger) (any, error) { return l.Balances(ctx, []string{"s0", "s2"}) },
		"RecordsBySN":      func(ctx context.Context, l ledger) (any, error) { return l.RecordsBySN(ctx, w.sns[len(w.sns)/2:]) },
		"HeldUsage":        func(ctx context.Context, l ledger) (any, error) { return l.HeldUsage(ctx, nil, "", 3) },
		"HeldUsage after":  func(ctx context.Context, l ledger) (any, error) { return l.HeldUsage(ctx, nil, heldAfter, 5) },
		"HeldUsage of some": func(ctx context.Context, l ledger) (any, error) {
			return l.HeldUsage(ctx, []reporter.AdjustmentID{heldAfter}, "", 5)
		},
		"Lives":                func(ctx context.Context, l ledger) (any, error) { return l.Lives(ctx, meter.HourOf(from), nil) },
		"LifeOf":               func(ctx context.Context, l ledger) (any, error) { return l.LifeOf(ctx, "instance-1") },
		"ReleasedWithoutFinal": func(ctx context.Context, l ledger) (any, error) { return l.ReleasedWithoutFinal(ctx, 4) },
		"Audit":                func(ctx context.Context, l ledger) (any, error) { return l.Audit(ctx, time.Time{}, time.Time{}, 10) },
		"UnsettledBookings":    func(ctx context.Context, l ledger) (any, error) { return l.UnsettledBookings(ctx) },
		"DueRecords":           func(ctx context.Context, l ledger) (any, error) { return l.DueRecords(ctx, w.last, "", 2) },
		"CountDue":             func(ctx context.Context, l ledger) (any, error) { return l.CountDue(ctx) },
		"Records":              func(ctx context.Context, l ledger) (any, error) { return l.Records(ctx, reporter.RecordFilter{}) },
		"Records of a period":  func(ctx context.Context, l ledger) (any, error) { return l.Records(ctx, filter) },
		"Records after":        func(ctx context.Context, l ledger) (any, error) { return l.Records(ctx, after) },
		"Records in a state": func(ctx context.Context, l ledger) (any, error) {
			return l.Records(ctx, reporter.RecordFilter{States: []reporter.State{state}})
		},
		"Records of one": func(ctx context.Context, l ledger) (any, error) {
			return l.Records(ctx, reporter.RecordFilter{InstanceID: "instance-00002"})
		},
		"Bookings": func(ctx context.Context, l ledger) (any, error) { return l.Bookings(ctx, from, to) },
		"Usage":    func(ctx context.Context, l ledger) (any, error) { return l.Usage(ctx, from, to, 7) },
		"Adjustments": func(ctx context.Context, l ledger) (any, error) {
			return l.Adjustments(ctx, reporter.AdjustmentFilter{})
		},
		"Adjustments of some": func(ctx context.Context, l ledger) (any, error) {
			return l.Adjustments(ctx, reporter.AdjustmentFilter{Into: reporter.IntoHeld, FromBooking: 2, ToBooking: w.last.Number / 2, Limit: 4})
		},
	}
	if len(w.sns) > 0 {
		sn := w.sns[w.random.IntN(len(w.sns))]
		q["Transitions"] = func(ctx context.Context, l ledger) (any, error) { return l.Transitions(ctx, sn) }
		q["Records by number"] = func(ctx context.Context, l ledger) (any, error) { return l.Records(ctx, reporter.RecordFilter{SN: sn}) }
	}
	return q
}
