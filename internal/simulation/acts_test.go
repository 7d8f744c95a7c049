package simulation_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/meterd/meterd/internal/sandbox"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// act lets one random thing happen.
func (w *world) act(t *task, what string) {
	switch what {
	case "events":
		for range 1 + w.rng.IntN(6) {
			w.send(w.newEvent(w.now.Add(-w.between(0, 90*time.Second))))
		}
	case "late":
		w.send(w.newEvent(w.now.Add(-w.between(0, 30*time.Hour))))
	case "backfill":
		for range 2 + w.rng.IntN(8) {
			w.send(w.newEvent(w.now.Add(-w.between(time.Hour, 40*time.Hour))))
		}
	case "duplicate", "conflict", "stamped again":
		w.sendAgain(what)
	case "stamped":
		e := w.newEvent(w.now)
		e.Stamped = true
		w.send(e)
	case "void":
		w.voidSome()
	case "open", "freeze", "unfreeze", "release":
		w.changeLife(what)
	case "decide", "record", "failures":
		w.person(what, func(ctx context.Context, d *desk) error {
			switch what {
			case "decide":
				return d.decide(ctx)
			case "record":
				return d.record(ctx)
			}
			return d.failures(ctx)
		})
	case "reject":
		w.reject()
	case "mend":
		w.mend()
	case "store down":
		w.storeDown = w.now.Add(w.outage(time.Hour))
		w.note("world", "the store is away until %s", w.storeDown.Format("15:04"))
	case "market down":
		w.marketDown = w.now.Add(w.outage(5 * time.Hour))
		w.note("world", "the marketplace is away until %s", w.marketDown.Format("15:04"))
	case "kill", "stop":
		w.end(t, what == "kill")
	}
}

// outage draws how long something is away: mostly for minutes.
func (w *world) outage(longest time.Duration) time.Duration {
	if w.chance(0.75) {
		longest = 15 * time.Minute
	}
	return w.between(time.Minute, longest)
}

// end ends a daemon: at once, or in good order if it is only waiting.
func (w *world) end(self *task, kill bool) {
	place := w.rng.IntN(w.plan.daemons)
	p := w.processes[place]
	if p == nil || p.t.ended || p.t == self {
		return
	}
	if kill {
		w.note(p.name, "is killed")
		p.t.killed = true
	} else {
		w.note(p.name, "is asked to stop")
		p.t.stopping = true
		p.t.cancel()
	}
	p.t.wake = w.now
}

// newEvent makes an event of a random account.
func (w *world) newEvent(at time.Time) reportertest.Event {
	w.ids++
	m := pick(w.scheduler, w.plan.meters)
	e := reportertest.Event{
		Source: "app", ID: strconv.Itoa(w.ids), Subject: pick(w.scheduler, w.plan.subjects), Time: at.Truncate(time.Millisecond),
	}
	if m.Aggregation == meter.UniqueCount {
		e.Texts = map[string]string{m.Slug: pick(w.scheduler, []string{"ann", "bob", "cid", "dan"})}
		return e
	}
	e.Values = map[string]meter.Quantity{m.Slug: w.quantity()}
	return e
}

// quantity draws amounts of all sizes, with up to nine decimals.
func (w *world) quantity() meter.Quantity {
	if w.chance(0.05) {
		return meter.Quantity{}
	}
	return meter.NewQuantity(w.rng.Int64N(pick(w.scheduler, []int64{10, 1000, 10_000_000})), -int32(w.rng.IntN(10)))
}

// send has a collector acknowledge an event: from then on it must be accounted for.
func (w *world) send(e reportertest.Event) {
	w.ids++
	e.Received = w.now.Add(time.Duration(w.ids)) // no two alike
	s := spooled{event: e, due: w.now, barrier: true}
	if w.plan.lag > 0 && w.chance(0.3) { // another collector, which the barrier doesn't reach
		s.barrier, s.due = false, w.now.Add(w.between(0, w.plan.lag))
	}
	w.spool = append(w.spool, s)
	w.known = append(w.known, e)
	w.oracle.accepted(e)
	w.note("sender", "%s %s of %s at %s: %v%v", e.Source, e.ID, e.Subject, e.Time.Format("02 15:04:05"), e.Values, e.Texts)
}

// sendAgain repeats an event: as it was, with another content, or without its time in a later hour.
func (w *world) sendAgain(what string) {
	if len(w.known) == 0 {
		return
	}
	e := pick(w.scheduler, w.known)
	switch what {
	case "conflict":
		if e.Texts != nil {
			e.Texts = map[string]string{slices.Sorted(maps.Keys(e.Texts))[0]: "eve"}
		} else {
			e.Values = map[string]meter.Quantity{slices.Sorted(maps.Keys(e.Values))[0]: w.quantity()}
		}
	case "stamped again":
		stamped := slices.DeleteFunc(slices.Clone(w.known), func(e reportertest.Event) bool { return !e.Stamped })
		if len(stamped) == 0 {
			return
		}
		e = pick(w.scheduler, stamped)
		e.Time = w.now.Truncate(time.Millisecond)
	}
	w.send(e)
}

// voidSome makes events count no more. The store's door for it is not used while the store is away.
func (w *world) voidSome() {
	if len(w.known) == 0 || w.now.Before(w.storeDown) {
		return
	}
	for range 1 + w.rng.IntN(5) {
		e := pick(w.scheduler, w.known)
		w.books.Void(e.Key())
		w.oracle.void(e)
		w.note("people", "void %s of %s at %s", e.ID, e.Subject, e.Time.Format("02 15:04"))
	}
}

// instances are those that live and die. "a" never does, so that something always goes on.
func (w *world) instance() string {
	return pick(w.scheduler, []string{"b", "c", "d", "b-peak", "c-gb", "d-seats", "b-calls", "c-trial", "d-gb"})
}

// changeLife lets the marketplace open, freeze, unfreeze or release an instance, and tell us.
func (w *world) changeLife(what string) {
	id := w.instance()
	if w.released[id] {
		return
	}
	at := w.now.Truncate(time.Second)
	if what == "open" {
		at = at.Add(-w.between(0, 2*time.Hour)).Truncate(time.Second)
	}
	kind := map[string]reporter.LifeChangeKind{
		"open": reporter.LifeOpened, "freeze": reporter.LifeFrozen, "unfreeze": reporter.LifeUnfrozen, "release": reporter.LifeReleased,
	}[what]
	w.released[id] = kind == reporter.LifeReleased
	if kind == reporter.LifeReleased {
		// The marketplace itself refuses what ends later.
		_ = w.market.Declare(sandbox.Instance{ID: id, State: sandbox.InstanceClosed, ClosedAt: at})
		_ = w.shadow.Declare(sandbox.Instance{ID: id, State: sandbox.InstanceClosed, ClosedAt: at})
	}
	w.person(what+" "+id, func(ctx context.Context, d *desk) error {
		_, _, err := d.ChangeLife(ctx, reporter.LifeAct{InstanceID: id, Kind: kind, At: at, Actor: "marketplace", Reason: what})
		return err
	})
}

// reject makes the marketplace's background validation fail records of an instance, or its answer refuse them.
func (w *world) reject() {
	f := sandbox.Fault{Kind: sandbox.FaultReject, Code: sandbox.RecordBadState, Instance: pick(w.scheduler, []string{"a", "b*", "*"}), Count: 1 + w.rng.IntN(4)}
	if w.chance(0.3) {
		f.Kind, f.Nested = sandbox.FaultAbnormalList, w.chance(0.5)
	}
	if _, err := w.market.Inject(f); err != nil {
		w.fault("inject: %v", err)
	}
	w.note("marketplace", "will %s %d of %s", f.Kind, f.Count, f.Instance)
}

// mend makes the unknown instance known, or unknown again.
func (w *world) mend() {
	state := pick(w.scheduler, []sandbox.InstanceState{sandbox.InstanceUnknown, sandbox.InstanceOpen})
	for _, id := range []string{"ghost", "ghost-peak"} {
		_ = w.market.Declare(sandbox.Instance{ID: id, State: state})
	}
	w.note("marketplace", "ghost is %s", state)
}

// desk is a person at work, in a process of its own.
type desk struct {
	*reporter.Desk

	p *process
}

// person starts a process for one act. An act that fails is repeated a few times, as a person would, or the marketplace.
func (w *world) person(what string, do func(ctx context.Context, d *desk) error) {
	w.born++
	p := &process{w: w, place: 2, name: fmt.Sprintf("person %d", w.born)}
	p.t = w.start(p.name, w.now, func(ctx context.Context, _ *task) {
		for range 4 {
			if err := p.build(); err != nil {
				w.fault("build: %v", err)
				return
			}
			d, err := reporter.NewDesk(reporter.DeskOptions{Closer: p.closer, Books: p.books(), Logger: discard})
			if err != nil {
				w.fault("build: %v", err)
				return
			}
			err = do(ctx, &desk{Desk: d, p: p})
			w.note(p.name, "%s: %v", what, errText(err))
			if err == nil || w.calm {
				return
			}
			p.t.park(w.now.Add(w.between(time.Second, 40*time.Minute)))
		}
	})
}

// decide decides about some of what is held.
func (d *desk) decide(ctx context.Context) error {
	w := d.p.w
	held, err := d.p.books().HeldUsage(ctx, nil, "", 50)
	if err != nil || len(held) == 0 {
		return err
	}
	var ids []reporter.AdjustmentID
	for _, h := range held {
		if w.chance(0.5) {
			ids = append(ids, h.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	_, err = d.Decide(ctx, reporter.Decision{IDs: ids, Approve: w.chance(0.6), Actor: "ann", Reason: "looked at it"})
	return err
}

// record decides about records that delivery can't settle.
func (d *desk) record(ctx context.Context) error {
	w := d.p.w
	records, err := d.p.books().Records(ctx, reporter.RecordFilter{
		States: []reporter.State{reporter.StateHeld, reporter.StateRejected, reporter.StateFailed, reporter.StateExpired}, Limit: 40,
	})
	if err != nil || len(records) == 0 {
		return err
	}
	r := pick(w.scheduler, records)
	sns := []reporter.MeteringSN{r.SN}
	choice := w.rng.IntN(4)
	if w.arrived(r.SN) { // whoever decides looks the record up in the marketplace's own books first
		choice = 1
	}
	switch choice {
	case 0:
		_, err = d.Resend(ctx, reporter.ResendAct{SNs: sns, Actor: "ann", Reason: "mended"})
	case 1:
		_, err = d.MoveRecords(ctx, reporter.RecordAct{SNs: sns, To: reporter.StatePending, Actor: "ann", Reason: "try again"})
	case 2:
		_, err = d.MoveRecords(ctx, reporter.RecordAct{SNs: sns, To: reporter.StateWrittenOff, Actor: "ann", Reason: "given up"})
	case 3:
		_, err = d.MoveRecords(ctx, reporter.RecordAct{SNs: sns, To: reporter.StateUnbillable, Actor: "ann", Reason: "given up"})
	}
	return err
}

// arrived reports whether the marketplace's own books count the record.
func (w *world) arrived(sn reporter.MeteringSN) bool {
	if err := errors.Join(w.market.Advance(), w.market.Validate()); err != nil {
		w.fault("advance: %v", err)
	}
	return slices.ContainsFunc(w.market.Records(), func(r sandbox.Record) bool {
		return r.MeteringSN == string(sn) && r.State != sandbox.StateAbnormal
	})
}

// lookUp sends again what the marketplace has and the books don't know of: records that were refused or given up after an
// attempt whose answer was lost.
func (d *desk) lookUp(ctx context.Context) error {
	w := d.p.w
	var sns []reporter.MeteringSN
	for _, r := range w.books.All() {
		if s := r.Last.State; (s == reporter.StateRejected || s == reporter.StateHeld || s == reporter.StateExpired) && w.arrived(r.SN) {
			sns = append(sns, r.SN)
		}
	}
	if len(sns) == 0 {
		return nil
	}
	w.note(d.p.name, "%d records have arrived although they are not accepted", len(sns))
	_, err := d.MoveRecords(ctx, reporter.RecordAct{SNs: sns, To: reporter.StatePending, Actor: "ann", Reason: "it is in the marketplace's books"})
	return err
}

// failures imports what the marketplace's own books show as failed, and resends some of it.
func (d *desk) failures(ctx context.Context) error {
	w := d.p.w
	var failed []reporter.Failure
	for _, r := range w.abnormal() {
		b, ok := w.oracle.records[reporter.MeteringSN(r.MeteringSN)]
		if ok && !b.replaced && w.books.State(reporter.MeteringSN(r.MeteringSN)) == reporter.StateAccepted {
			failed = append(failed, reporter.Failure{SN: reporter.MeteringSN(r.MeteringSN), Code: r.Code, Message: "by the seller centre"})
		}
	}
	if len(failed) == 0 {
		return nil
	}
	if err := d.Fail(ctx, failed, "import"); err != nil {
		return err
	}
	var again []reporter.MeteringSN
	for _, f := range failed {
		if w.chance(0.7) {
			again = append(again, f.SN)
		}
	}
	if len(again) == 0 {
		return nil
	}
	_, err := d.Resend(ctx, reporter.ResendAct{SNs: again, Actor: "ann", Reason: "failed in the background"})
	return err
}

// abnormal returns the records that the marketplace shows as failed, without repeated numbers: a number that was received
// twice failed only if it never counted.
func (w *world) abnormal() []sandbox.Record {
	if err := w.market.Advance(); err != nil {
		w.fault("advance: %v", err)
	}
	counts := map[string]bool{}
	var bad []sandbox.Record
	for _, r := range w.market.Records() {
		if r.State == sandbox.StateAbnormal && r.Code != sandbox.RecordDuplicateSN {
			bad = append(bad, r)
		} else if r.State != sandbox.StateAbnormal {
			counts[r.MeteringSN] = true
		}
	}
	return slices.DeleteFunc(bad, func(r sandbox.Record) bool { return counts[r.MeteringSN] })
}
