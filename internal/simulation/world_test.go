package simulation_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/meterd/meterd/internal/sandbox"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

const (
	sandboxKey = "simulation-only-not-a-key"
	grace      = 5 * time.Minute
)

// begin is when every simulation begins: in the middle of an hour.
var begin = time.Date(2026, 3, 1, 9, 20, 0, 0, time.UTC)

// plan is what a seed draws beforehand about its world.
type plan struct {
	daemons   int
	lease     bool          // the daemons have a lease
	switching float64       // chance that others go first at a call of the books
	trouble   float64       // chance that a call of the books fails or is the process's last
	lag       time.Duration // up to which a collector brings events late into the store
	moods     map[string]int
	acts      map[string]int
	meters    []meter.Meter
	terms     map[string]reporter.Terms
	mappings  []reporter.Mapping
	subjects  []string
}

// moods are what may become of a call to the marketplace, by weight.
var moods = map[string]int{
	"well": 1, "dropped": 1, "answer lost": 1, "throttled": 1, "throttled after": 1, "5xx": 1, "5xx after": 1, "internal": 1,
	"garbage": 1, "truncated": 1, "refused": 1, "ends before": 1, "ends after": 1,
}

// world is one simulation.
type world struct {
	*scheduler
	*history

	seed   uint64
	plan   plan
	books  *reportertest.Books
	ledger func(*reportertest.Books) ledger // as processes see it
	oracle *oracle
	market *sandbox.Sandbox
	shadow *sandbox.Sandbox
	leases *reportertest.Leases

	processes  map[int]*process // running daemons by place
	born       int              // processes so far
	calm       bool             // nothing goes wrong any more
	storeDown  time.Time
	marketDown time.Time
	spool      []spooled
	dropTouch  bool // mutant

	sent     map[string]string // content by number, of all that was ever sent
	lives    map[string][]reporter.LifeChange
	released map[string]bool
	known    []reportertest.Event // accepted, to be repeated or voided
	ids      int
	versions uint64
	counts   map[string]int // what happened
}

// spooled is an event that a collector has acknowledged and that is not in the store yet.
type spooled struct {
	event   reportertest.Event
	due     time.Time // when its collector brings it
	barrier bool      // the closing daemon's own spool
}

// mutant breaks something that the checks must notice.
type mutant struct {
	ledger    func(*reportertest.Books) ledger
	dropTouch bool
}

func newWorld(seed uint64, m mutant) (*world, error) {
	rng := rand.New(rand.NewPCG(seed, 0x6d6574657264))
	w := &world{
		scheduler: &scheduler{rng: rng, now: begin}, history: newHistory(), seed: seed,
		books: reportertest.NewBooks(), ledger: m.ledger, dropTouch: m.dropTouch, processes: map[int]*process{},
		sent: map[string]string{}, lives: map[string][]reporter.LifeChange{}, released: map[string]bool{},
		counts: map[string]int{},
	}
	if w.ledger == nil {
		w.ledger = func(b *reportertest.Books) ledger { return b }
	}
	w.plan = drawPlan(w.scheduler)
	w.oracle = newOracle(w.plan.meters)
	w.books.SetClock(func() time.Time { return w.now })
	if w.plan.daemons > 1 && !w.plan.lease {
		w.books.AllowRaces()
	}
	w.leases = reportertest.NewLeases(func() time.Time { return w.now }, 5*time.Minute)
	var err error
	options := sandbox.Options{
		Now: func() time.Time { return w.now }, Key: sandboxKey, InstancesAtUpload: true, RequestLog: 1,
		Instances: []sandbox.Instance{{ID: "ghost", State: sandbox.InstanceUnknown}, {ID: "other", Foreign: true}},
	}
	if w.market, err = sandbox.New(options); err != nil {
		return nil, fmt.Errorf("marketplace: %w", err)
	}
	if w.shadow, err = sandbox.New(options); err != nil {
		return nil, fmt.Errorf("shadow marketplace: %w", err)
	}
	return w, nil
}

// drawPlan draws the world: how bad it is, and the meters with their terms.
func drawPlan(s *scheduler) plan {
	p := plan{
		daemons: 1, switching: pick(s, []float64{0, 0.02, 0.3}), trouble: pick(s, []float64{0, 0.0005, 0.003, 0.01}),
		lag:      pick(s, []time.Duration{0, 10 * time.Minute, 3 * time.Hour}),
		subjects: []string{"a", "b", "c", "d", "ghost", "other"},
		moods:    maps.Clone(moods),
	}
	p.moods["well"] = pick(s, []int{2, 10, 100})
	if s.chance(0.4) {
		p.daemons, p.lease = 2, s.chance(0.3)
	}
	p.acts = map[string]int{
		"events": 60, "late": 12, "duplicate": 8, "conflict": 4, "stamped": 6, "stamped again": 5, "void": 5, "backfill": 3,
		"open": 2, "freeze": 2, "unfreeze": 2, "release": 2, "decide": 6, "record": 5, "failures": 6, "reject": 2, "store down": 1,
		"market down": 1, "kill": 2, "stop": 1, "mend": 1,
	}
	scales := []string{"1", "3", "1000", "0.7", "0.00003"}
	late := []reporter.LatePolicy{reporter.LateCarry, reporter.LateHold, reporter.LateWriteOff}
	add := func(slug string, a meter.Aggregation, instance string, t reporter.Terms) {
		m := meter.Meter{
			Slug: slug, EventType: slug, Aggregation: a, Scale: meter.MustParseQuantity(pick(s, scales)), Billed: true, Instance: instance,
		}
		t.Product, t.Late = slug, pick(s, late)
		if p.terms == nil {
			p.terms = map[string]reporter.Terms{}
		}
		p.meters, p.terms[slug] = append(p.meters, m), t
	}
	cycle := func() reporter.Cycle {
		return pick(s, []reporter.Cycle{reporter.CycleHourly, reporter.CycleHourly, reporter.CycleDaily})
	}
	add("tokens", meter.Sum, "{subject}", reporter.Terms{})
	add("peak", meter.Max, "{subject}-peak", reporter.Terms{Cycle: cycle()})
	add("storage", pick(s, []meter.Aggregation{meter.Sum, meter.Latest, meter.Min}), "{subject}-gb", reporter.Terms{Cycle: reporter.CycleDaily})
	add("seats", meter.UniqueCount, "{subject}-seats", reporter.Terms{Cycle: cycle()})
	add("calls", meter.Count, "{subject}-calls", reporter.Terms{Mode: pick(s, []reporter.Mode{reporter.ModeLive, reporter.ModeShadow})})
	add("trial", meter.Sum, "{subject}-trial", reporter.Terms{Mode: reporter.ModeDryRun})
	add("mapped", meter.Sum, "", reporter.Terms{})
	add("free", meter.Sum, "", reporter.Terms{})
	p.meters[len(p.meters)-1].Billed = false
	p.mappings = []reporter.Mapping{{Subject: "a", Meter: "mapped", InstanceID: "a-mapped"}}
	if s.chance(0.3) { // an instance that two accounts share
		p.mappings = append(p.mappings, reporter.Mapping{Subject: "b", Meter: "mapped", InstanceID: "c"})
	}
	return p
}

func (w *world) note(who, format string, args ...any) { w.add(w.now, who, format, args...) }

// daemonMain is the task of one daemon: a process that begins again a while after it ended.
func (w *world) startDaemon(place int, at time.Time) {
	w.born++
	p := &process{w: w, place: place, name: fmt.Sprintf("daemon %d.%d", place, w.born)}
	w.processes[place] = p
	p.t = w.start(p.name, at, func(ctx context.Context, _ *task) {
		w.note(p.name, "starts")
		w.counts["restart"]++
		if err := p.run(ctx); err != nil {
			w.fault("%s ends by itself: %v", p.name, err)
		}
	})
}

// restartEnded begins daemons again that ended.
func (w *world) restartEnded() {
	for place := range w.plan.daemons {
		if p := w.processes[place]; p == nil || p.t.ended {
			pause := w.between(0, 20*time.Minute)
			if w.chance(0.1) {
				pause = w.between(0, 5*time.Hour)
			}
			if w.calm {
				pause = 0
			}
			w.startDaemon(place, w.now.Add(pause))
		}
	}
}

// run simulates the hours and then a calm time in which everything must come to rest.
func (w *world) run(hours int) {
	defer w.stop()
	for place := range w.plan.daemons {
		w.startDaemon(place, w.now.Add(time.Duration(place)*time.Minute))
	}
	w.start("collector", w.now, func(_ context.Context, t *task) {
		for {
			w.collect(t, func(s spooled) bool { return !s.due.After(w.now) })
			t.park(w.now.Add(w.between(10*time.Second, 3*time.Minute)))
		}
	})
	w.start("people", w.now, func(_ context.Context, t *task) {
		for !w.calm {
			w.act(t, weighted(w.scheduler, w.plan.acts))
			t.park(w.now.Add(w.between(time.Second, 6*time.Minute)))
		}
	})
	w.scheduler.run(begin.Add(time.Duration(hours)*time.Hour), w.afterStep)
	if len(w.faults) > 0 {
		return
	}
	w.calm, w.storeDown, w.marketDown = true, time.Time{}, time.Time{}
	w.note("world", "calm from here on")
	w.market.RemoveFaults("")
	_ = w.market.Declare(sandbox.Instance{ID: "ghost"}, sandbox.Instance{ID: "ghost-peak"})
	w.person("look up", func(ctx context.Context, d *desk) error { return d.lookUp(ctx) })
	w.scheduler.run(w.now.Add(5*time.Hour+10*time.Minute), w.afterStep)
	if len(w.faults) == 0 {
		w.checkEnd()
	}
}

// afterStep checks what can be checked at any time.
func (w *world) afterStep(*task) bool {
	w.restartEnded()
	w.renewLease()
	w.faults = append(w.faults, w.books.Violations()...)
	return len(w.faults) == 0
}

// renewLease does what the daemon that holds the lease does in the background, which goes by the machine's clock.
func (w *world) renewLease() {
	for _, p := range w.processes {
		if w.plan.lease && !p.t.ended && !p.t.killed && w.leases.Holder() == p.name {
			_, _ = w.leases.Of(p.name).Hold(background)
		}
	}
}

// afterCommit checks each booking as soon as it counts.
func (w *world) afterCommit(who string, b reporter.Booking, err error) {
	w.note(who, "booking %d, %s of %s: %d usages, %d records, %d adjustments, %d balances, %d covers %s: %v", b.Number, b.Kind,
		b.Window, b.Usages, b.Records, b.Adjustments, b.Balances, b.Covers, b.InstanceID, errText(err))
	if errors.Is(err, reporter.ErrBookingTaken) {
		w.counts["booking taken by another"]++
	}
	for _, c := range w.books.Log()[w.oracle.seen:] {
		w.faults = append(w.faults, w.oracle.add(c, w.books.RowsOf(c.Version))...)
	}
}

// afterLife remembers changes in the lives of instances.
func (w *world) afterLife(changes []reporter.LifeChange) {
	for _, c := range changes {
		if !slices.ContainsFunc(w.lives[c.InstanceID], func(old reporter.LifeChange) bool { return old.Kind == c.Kind && old.At.Equal(c.At) }) {
			w.lives[c.InstanceID] = append(w.lives[c.InstanceID], c)
		}
	}
}

// errText is an error without what differs from run to run.
func errText(err error) string {
	if err == nil {
		return "ok"
	}
	return "failed"
}

// collect brings acknowledged events into the store: first the event, then the touch of its hour, then it is forgotten. The
// collector may end between any two of these and begin again.
func (w *world) collect(t *task, wanted func(spooled) bool) {
	for i := 0; i < len(w.spool); {
		s := w.spool[i]
		if !wanted(s) || w.now.Before(w.storeDown) {
			i++
			continue
		}
		w.books.InsertOnly(s.event)
		if !w.calm && w.chance(w.plan.switching) {
			t.park(w.now.Add(w.between(0, time.Minute)))
			if !w.calm && w.chance(0.2) {
				return // ended before the touch; the event is still in the spool
			}
			i = slices.IndexFunc(w.spool, func(other spooled) bool { return other.event.Received.Equal(s.event.Received) })
			if i < 0 {
				i = 0 // somebody else finished it
				continue
			}
		}
		if !w.dropTouch {
			w.books.TouchFor(s.event)
		}
		w.spool = slices.Delete(w.spool, i, i+1)
	}
}

// flusher is the barrier of a process.
type flusher struct{ p *process }

// Flush brings everything of the process's own spool into the store.
func (f flusher) Flush(context.Context) error {
	w := f.p.w
	if w.now.Before(w.storeDown) {
		return errOutage
	}
	w.collect(f.p.t, func(s spooled) bool { return s.barrier })
	return nil
}

var discard = slog.New(slog.DiscardHandler)
