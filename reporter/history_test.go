package reporter_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// interleaved are books of one daemon; between two of its calls another daemon acts.
type interleaved struct {
	*reportertest.Books
	left  int // calls until then
	other func()
}

func (i *interleaved) call() {
	if i.left--; i.left == 0 {
		i.other()
	}
}

func (i *interleaved) LastBooking(ctx context.Context) (reporter.Booking, bool, error) {
	i.call()
	return i.Books.LastBooking(ctx)
}

func (i *interleaved) Touches(ctx context.Context, w meter.Window) ([]uint64, error) {
	i.call()
	return i.Books.Touches(ctx, w)
}

func (i *interleaved) AggregateWindow(ctx context.Context, sc reporter.Scope, m []meter.Meter, yield func(reporter.WindowUsage) error) error {
	i.call()
	return i.Books.AggregateWindow(ctx, sc, m, yield)
}

func (i *interleaved) WriteRows(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	i.call()
	return i.Books.WriteRows(ctx, b, rows)
}

func (i *interleaved) Commit(ctx context.Context, b reporter.Booking) error {
	i.call()
	return i.Books.Commit(ctx, b)
}

// daemon is one process at work on the books.
type daemon struct {
	books *interleaved
	c     *reporter.Closer
	desk  *reporter.Desk
}

// history is a random history of two daemons on one set of books: events in time, late and void, lives, closes, decisions,
// resends, faults of the books and restarts, in any order.
type history struct {
	t       *rapid.T
	books   *reportertest.Books
	clock   *reportertest.Clock
	meters  []meter.Meter
	terms   map[string]reporter.Terms
	mapper  *reporter.Mapper
	daemons [2]*daemon
	random  uint64
	keys    []reportertest.EventKey
}

func newHistory(t *rapid.T) *history {
	h := &history{t: t, books: reportertest.NewBooks(), clock: reportertest.NewClock(at(30))}
	h.books.SetClock(h.clock.Now)
	kind := func(slug, instance, scale string, a meter.Aggregation) meter.Meter {
		m := tokens(scale)
		m.Slug, m.Instance, m.Aggregation = slug, instance, a
		return m
	}
	h.meters = []meter.Meter{
		kind("tokens", "{subject}", "3", meter.Sum), kind("peak", "{subject}-peak", "1", meter.Max),
		kind("day", "{subject}-day", "1000", meter.Sum), kind("bytes", "", "0.7", meter.Sum), kind("seen", "", "1", meter.Count),
	}
	h.meters[4].Billed = false
	policy := rapid.SampledFrom([]reporter.LatePolicy{reporter.LateCarry, reporter.LateHold, reporter.LateWriteOff})
	mode := rapid.SampledFrom([]reporter.Mode{reporter.ModeLive, reporter.ModeLive, reporter.ModeDryRun})
	h.terms = map[string]reporter.Terms{
		"peak": {Late: policy.Draw(t, "late")}, "day": {Cycle: reporter.CycleDaily, Late: policy.Draw(t, "late")},
		"bytes": {Late: policy.Draw(t, "late"), Mode: mode.Draw(t, "mode")},
	}
	var err error
	h.mapper, err = reporter.NewMapper(h.meters, []reporter.Mapping{{Subject: "a", Meter: "bytes", InstanceID: "a-bytes"}})
	if err != nil {
		t.Fatalf("NewMapper: %v", err)
	}
	h.restart(0)
	h.restart(1)
	return h
}

// restart begins with a new process.
func (h *history) restart(i int) {
	d := &daemon{books: &interleaved{Books: h.books}}
	var err error
	d.c, err = reporter.NewCloser(reporter.CloserOptions{
		Books: d.books, Lives: d.books, Meters: h.meters, Terms: h.terms, Mapper: h.mapper,
		Rules: reportertest.NewMarketplace(reportertest.DefaultLimits()), Seller: "acme", Grace: 5 * time.Minute,
		DayZone: time.FixedZone("UTC+8", 8*3600), ChunkRows: rapid.IntRange(1, 5).Draw(h.t, "chunk"), Now: h.clock.Now,
		Random: func() uint64 { h.random++; return h.random * 7919 }, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		d.desk, err = reporter.NewDesk(reporter.DeskOptions{Closer: d.c, Books: d.books, Logger: slog.New(slog.DiscardHandler)})
	}
	if err != nil {
		h.t.Fatalf("a new daemon: %v", err)
	}
	h.daemons[i] = d
}

var (
	historySubjects  = []string{"a", "a-peak", "b", "c"}
	historyInstances = []string{"a", "a-peak", "a-day", "a-bytes", "b", "b-peak", "b-day", "c", "none"}
)

// addEvents stores events of the last hours.
func (h *history) addEvents() {
	for range rapid.IntRange(1, 8).Draw(h.t, "events") {
		e := reportertest.Event{
			Source: "s", ID: strconv.Itoa(rapid.IntRange(0, 40).Draw(h.t, "id")),
			Subject: rapid.SampledFrom(historySubjects).Draw(h.t, "subject"),
			Time:    h.clock.Now().Add(-time.Duration(rapid.IntRange(0, 400).Draw(h.t, "minutes ago")) * time.Minute),
			Values:  map[string]meter.Quantity{},
		}
		for _, m := range h.meters {
			if rapid.Bool().Draw(h.t, "feeds") {
				e.Values[m.Slug] = meter.NewQuantity(rapid.Int64Range(0, 9999999).Draw(h.t, "amount"), int32(rapid.IntRange(-9, -2).Draw(h.t, "exp")))
			}
		}
		h.books.AddEvent(e)
		h.keys = append(h.keys, e.Key())
	}
}

// act is one random thing that a daemon does.
func (h *history) act(ctx context.Context, d *daemon) error {
	switch rapid.SampledFrom([]string{"close", "close", "close", "life", "life", "decide", "resend", "move", "catch up"}).Draw(h.t, "act") {
	case "close":
		_, err := d.c.CloseDue(ctx, h.clock.Now())
		return err
	case "life":
		_, _, err := d.desk.ChangeLife(ctx, reporter.LifeAct{
			InstanceID: rapid.SampledFrom(historyInstances).Draw(h.t, "instance"),
			Kind:       rapid.SampledFrom([]reporter.LifeChangeKind{opened, frozen, frozen, unfrozen, unfrozen, released}).Draw(h.t, "kind"),
			At:         h.clock.Now().Add(-time.Duration(rapid.IntRange(0, 90).Draw(h.t, "minutes before")) * time.Minute),
			Actor:      "ann", Reason: "order",
		})
		return err
	case "decide":
		held, err := h.books.HeldUsage(ctx, nil, "", 3)
		if err != nil || len(held) == 0 {
			return err
		}
		dn := reporter.Decision{Approve: rapid.Bool().Draw(h.t, "approve"), Actor: "ann", Reason: "checked"}
		for _, u := range held {
			dn.IDs = append(dn.IDs, u.ID)
		}
		_, err = d.desk.Decide(ctx, dn)
		return err
	case "resend", "move":
		return h.actOnRecord(ctx, d)
	default:
		_, err := d.c.CatchUpLives(ctx)
		return err
	}
}

// actOnRecord lets a record be delivered in some way, and then somebody acts on it.
func (h *history) actOnRecord(ctx context.Context, d *daemon) error {
	all := h.books.All()
	if len(all) == 0 {
		return nil
	}
	r := rapid.SampledFrom(all).Draw(h.t, "record")
	if r.Last.State == reporter.StatePending {
		for i, s := range []reporter.State{
			reporter.StateSending, rapid.SampledFrom([]reporter.State{reporter.StateAccepted, reporter.StateRejected}).Draw(h.t, "answer"),
		} {
			row := reporter.Transition{SN: r.SN, Booked: r.Booked, Seq: r.Last.Seq + 1 + uint32(i), State: s, At: h.clock.Now()}
			if err := h.books.AppendTransitions(ctx, []reporter.Transition{row}); err != nil {
				return err
			}
		}
	}
	sns := []reporter.MeteringSN{r.SN}
	if rapid.Bool().Draw(h.t, "move") {
		to := rapid.SampledFrom([]reporter.State{reporter.StatePending, reporter.StateWrittenOff, reporter.StateUnbillable}).Draw(h.t, "to")
		_, err := d.desk.MoveRecords(ctx, reporter.RecordAct{SNs: sns, To: to, Actor: "ann", Reason: "x"})
		return err
	}
	failErr := d.desk.Fail(ctx, []reporter.Failure{{SN: r.SN, Code: "001"}}, "ann")
	_, err := d.desk.Resend(ctx, reporter.ResendAct{SNs: sns, Actor: "ann", Reason: "x"})
	return errors.Join(failErr, err)
}

// permitted reports whether an act may end with the error: what a person asked for is not possible, others were first, or a
// fault was injected.
func permitted(err error, faulty bool) bool {
	return err == nil || faulty || errors.Is(err, reporter.ErrNotAllowed) || errors.Is(err, reporter.ErrNotFound)
}

// turn lets one daemon act, maybe with a fault of the books, maybe while the other one acts in between.
func (h *history) turn(ctx context.Context) {
	i := rapid.IntRange(0, 1).Draw(h.t, "daemon")
	d, other := h.daemons[i], h.daemons[1-i]
	d.books.left = rapid.IntRange(0, 20).Draw(h.t, "interleaved at")
	d.books.other = func() {
		if err := h.act(ctx, other); !permitted(err, false) {
			h.t.Errorf("the other daemon: %v", err)
		}
	}
	call, fault := rapid.IntRange(0, 60).Draw(h.t, "faulty call"), reportertest.FaultNone
	if call > 0 {
		fault = reportertest.Fault(rapid.IntRange(0, int(reportertest.FaultPanic)).Draw(h.t, "fault"))
		d.books.left = 0 // one thing at a time
	}
	n := 0
	h.books.SetFaults(func(string, int) reportertest.Fault {
		if n++; n == call {
			return fault
		}
		return reportertest.FaultNone
	})
	err := safely(func() error { return h.act(ctx, d) })
	h.books.SetFaults(nil)
	d.books.left = 0
	if !permitted(err, fault != reportertest.FaultNone) {
		h.t.Errorf("daemon %d: %v", i, err)
	}
	if fault == reportertest.FaultPanic {
		h.restart(i)
	}
}

// check checks what must be true at any time.
func (h *history) check() {
	for _, v := range append(h.books.Violations(), h.books.CheckConservation(h.meters)...) {
		h.t.Errorf("rule broken: %s", v)
	}
	for _, r := range h.books.All() {
		if r.RecordTime.Before(r.Window.End) || r.RecordTime.After(h.clock.Now()) || !r.Window.Start.Before(r.Window.End) {
			h.t.Errorf("record %s of %s was produced at %s, it is %s", r.SN, r.Window, r.RecordTime, h.clock.Now())
		}
	}
	h.checkOverlap()
	h.checkLives()
	if h.t.Failed() {
		h.t.FailNow()
	}
}

// checkOverlap checks that no two windows of one instance overlap, unless one replaces the other.
func (h *history) checkOverlap() {
	replaced := map[reporter.MeteringSN]bool{}
	all := h.books.All()
	for _, r := range all {
		replaced[r.Replaces] = true
	}
	byInstance := map[string][]reporter.BillRecord{}
	for _, r := range all {
		if r.InstanceID != "" && !replaced[r.SN] && !r.Billed.IsZero() {
			byInstance[r.InstanceID] = append(byInstance[r.InstanceID], r)
		}
	}
	for id, records := range byInstance {
		slices.SortFunc(records, func(x, y reporter.BillRecord) int { return x.Window.Start.Compare(y.Window.Start) })
		for i := 1; i < len(records); i++ {
			if records[i].Window.Start.Before(records[i-1].Window.End) {
				h.t.Errorf("instance %s: windows %s and %s overlap", id, records[i-1].Window, records[i].Window)
			}
		}
	}
}

// checkLives checks that records made since a release or an opening was known keep to it.
func (h *history) checkLives() {
	madeAt := map[uint64]time.Time{}
	for _, b := range h.books.Log() {
		madeAt[b.Version] = b.At
	}
	for _, r := range h.books.All() {
		life, err := h.books.LifeOf(context.Background(), r.InstanceID)
		if err != nil {
			h.t.Fatalf("LifeOf: %v", err)
		}
		for _, c := range life {
			if r.Replaces != "" || r.Billed.IsZero() || !madeAt[r.Version].After(c.RecordedAt) {
				continue
			}
			if c.Kind == released && r.Window.End.After(c.At) || c.Kind == opened && r.Window.Start.Before(c.At) {
				h.t.Errorf("record %s of %s: the instance was %s at %s", r.SN, r.Window, c.Kind, c.At)
			}
		}
	}
}

// settle lets everything be booked and checks that nothing is left to do.
func (h *history) settle(ctx context.Context) {
	h.clock.Advance(3 * time.Hour)
	d := h.daemons[0]
	if _, err := d.c.CatchUpLives(ctx); err != nil {
		h.t.Fatalf("CatchUpLives: %v", err)
	}
	if _, err := d.c.CloseDue(ctx, h.clock.Now()); err != nil {
		h.t.Fatalf("CloseDue: %v", err)
	}
	before := len(h.books.Log())
	if sum, err := d.c.CloseDue(ctx, h.clock.Now()); err != nil || len(h.books.Log()) != before {
		h.t.Errorf("CloseDue again booked %+v, %v", sum, err)
	}
	if open, err := h.books.ReleasedWithoutFinal(ctx, 10); err != nil || len(open) > 0 {
		h.t.Errorf("lives without a booking: %v, %v", open, err)
	}
	for _, s := range h.books.Sums(true, h.meters) {
		if !s.Stored.Equal(s.Booked) {
			h.t.Errorf("%s/%s: the events say %s, %s is booked", s.Subject, s.Meter, s.Stored, s.Booked)
		}
	}
	// What a recount left of a released instance, the next close sweeps.
	h.clock.Advance(time.Hour)
	if _, err := d.c.CloseDue(ctx, h.clock.Now()); err != nil {
		h.t.Fatalf("CloseDue: %v", err)
	}
	for _, b := range h.books.Log() {
		if b.Kind != reporter.BookingRelease {
			continue
		}
		for _, a := range h.mapper.Claimants(b.InstanceID) {
			for _, s := range h.books.Sums(false, h.meters) {
				if s.Subject == a.Subject && s.Meter == a.Meter && !s.Balance.IsZero() {
					h.t.Errorf("instance %s was released, and %s has a balance of %s", b.InstanceID, a, s.Balance)
				}
			}
		}
	}
}

func TestTwoDaemonsNeverBreakTheBooks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t)
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"events", "events", "tick", "tick", "turn", "turn", "turn", "void"}).Draw(t, "step") {
			case "events":
				h.addEvents()
			case "tick":
				h.clock.Advance(time.Duration(rapid.IntRange(1, 75).Draw(t, "minutes")) * time.Minute)
			case "void":
				if len(h.keys) > 0 {
					h.books.Void(rapid.SampledFrom(h.keys).Draw(t, "void"))
				}
			case "turn":
				h.turn(ctx)
			}
			h.check()
		}
		h.settle(ctx)
		h.check()
	})
}
