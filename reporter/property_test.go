package reporter_test

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// world is a random history: events, closes, passes, faults of the ledger, moods of the marketplace, restarts and clock
// steps, in any order.
type world struct {
	t      *rapid.T
	books  *reportertest.Books
	market *reportertest.Marketplace
	clock  *reportertest.Clock
	high   time.Time // the latest time ever shown
	meters []meter.Meter
	mapper *reporter.Mapper
	closer *reporter.Closer
	report *reporter.Reporter

	// moods are what the marketplace does, call by call, until it is healed. They are drawn beforehand: the reporter takes
	// panics of its client for a client's panics, and rapid's are not meant for it.
	moods  []string
	healed bool
}

func newWorld(t *rapid.T) *world {
	w := &world{
		t: t, books: reportertest.NewBooks(), market: reportertest.NewMarketplace(reporter.Limits{
			MaxBatch: 4, Scale: 4, MaxQuantity: q("5000"), MaxAge: 21 * 24 * time.Hour,
		}),
		clock: reportertest.NewClock(noon.Start), high: noon.Start,
	}
	scale := rapid.SampledFrom([]string{"1", "3", "1000", "0.7"}).Draw(t, "scale")
	peak := tokens("1")
	peak.Slug, peak.Aggregation, peak.Instance = "peak", meter.Max, "{subject}-peak"
	bytes := tokens("1000000")
	bytes.Slug, bytes.Instance = "bytes", ""
	w.meters = []meter.Meter{tokens(scale), peak, bytes}
	var err error
	w.mapper, err = reporter.NewMapper(w.meters, []reporter.Mapping{{Subject: "a", Meter: "bytes", InstanceID: "a-bytes"}})
	if err != nil {
		t.Fatalf("NewMapper: %v", err)
	}
	w.moods = rapid.SliceOfN(rapid.SampledFrom([]string{
		"well", "well", "well", "well", "unavailable", "unknown", "lost", "misconfigured", "large", "panic", "throttle",
	}), 1, 40).Draw(t, "moods")
	w.market.Script(w.answer)
	w.market.BeforeRecord(func(r reporter.UsageRecord) {
		if s := w.books.State(r.SN); s != reporter.StateSending {
			t.Errorf("record %s is sent while it is %q in the books", r.SN, s)
		}
	})
	w.restart()
	return w
}

// restart begins with a new process.
func (w *world) restart() {
	log := slog.New(slog.DiscardHandler)
	var err error
	w.closer, err = reporter.NewCloser(reporter.CloserOptions{
		Books: w.books, Meters: w.meters, Mapper: w.mapper, Rules: w.market, Seller: "acme", Grace: 5 * time.Minute,
		ChunkRows: rapid.IntRange(1, 4).Draw(w.t, "chunk"), Now: w.clock.Now, Logger: log,
	})
	if err != nil {
		w.t.Fatalf("NewCloser: %v", err)
	}
	w.report, err = reporter.NewReporter(reporter.ReporterOptions{
		Books: w.books, Marketplace: w.market, Clock: w.clock, Logger: log, Random: func() float64 { return 0.5 },
		PageSize: rapid.IntRange(1, 9).Draw(w.t, "page"), BreakerFailures: 3, IsolationCalls: 5,
	})
	if err != nil {
		w.t.Fatalf("NewReporter: %v", err)
	}
}

// bad are the instances that the marketplace never takes, each in its own way.
func bad(id string) bool     { return strings.HasPrefix(id, "b") }
func refused(id string) bool { return strings.HasPrefix(id, "c") }

// answer is what the marketplace says.
func (w *world) answer(call int, batch []reporter.UsageRecord) reportertest.Answer {
	mood := "well"
	if !w.healed {
		mood = w.moods[call%len(w.moods)]
	}
	switch mood {
	case "unavailable":
		return reportertest.Refuse(reporter.ClassUnavailable, "0999")
	case "throttle":
		a := reportertest.Refuse(reporter.ClassUnavailable, "0250")
		a.Result.RetryAfter = time.Minute
		return a
	case "unknown":
		return reportertest.Refuse(reporter.ClassUnknown, "")
	case "misconfigured":
		return reportertest.Refuse(reporter.ClassMisconfigured, "0102")
	case "panic":
		panic("client")
	case "large":
		if len(batch) > 2 {
			return reportertest.Refuse(reporter.ClassBatchTooLarge, "9003")
		}
	}
	if slices.ContainsFunc(batch, func(r reporter.UsageRecord) bool { return bad(r.InstanceID) }) {
		return reportertest.Refuse(reporter.ClassRecordBad, "9001")
	}
	a := reportertest.Accept()
	if mood == "lost" {
		a = reportertest.LoseAnswer()
	}
	a.Result.Refused = map[reporter.MeteringSN]reporter.Refusal{}
	for _, r := range batch {
		if refused(r.InstanceID) {
			a.Result.Refused[r.SN] = reporter.Refusal{Code: "001"}
		}
	}
	return a
}

// addEvents stores events of the hour that is running by the latest clock.
func (w *world) addEvents() {
	for range rapid.IntRange(1, 12).Draw(w.t, "events") {
		slug := rapid.SampledFrom(w.meters).Draw(w.t, "meter").Slug
		w.books.AddEvent(reportertest.Event{
			Source: "s", ID: strconv.Itoa(rapid.IntRange(0, 30).Draw(w.t, "id")), // ids repeat: duplicates
			Subject: rapid.SampledFrom([]string{"a", "a-peak", "b", "c", "d", "e", "f"}).Draw(w.t, "subject"),
			Time:    w.high,
			Values: map[string]meter.Quantity{
				slug: meter.NewQuantity(rapid.Int64Range(0, 99999999).Draw(w.t, "amount"), int32(rapid.IntRange(-9, -2).Draw(w.t, "exp"))),
			},
		})
	}
}

// faulty runs do while the ledger fails at a random call in a random way.
func (w *world) faulty(do func() error) {
	n, call := 0, rapid.IntRange(1, 25).Draw(w.t, "faulty call")
	fault := reportertest.Fault(rapid.IntRange(0, int(reportertest.FaultPanic)).Draw(w.t, "fault"))
	w.books.SetFaults(func(string, int) reportertest.Fault {
		if n++; n == call {
			return fault
		}
		return reportertest.FaultNone
	})
	defer w.books.SetFaults(nil)
	err := safely(do)
	if err != nil && (fault == reportertest.FaultPanic || rapid.Bool().Draw(w.t, "dies")) {
		w.restart()
	}
}

func (w *world) close(ctx context.Context) error {
	_, err := w.closer.CloseDue(ctx, w.clock.Now())
	return err
}

func (w *world) pass(ctx context.Context) error {
	sum, err := w.report.RunOnce(ctx)
	if err == nil && sum.Stopped == reporter.StopNone && sum.Unsettled == 0 && sum.DueLeft != 0 {
		w.t.Errorf("%d records due in no window", sum.DueLeft)
	}
	return err
}

// tick moves the clock.
func (w *world) tick() {
	w.clock.Advance(time.Duration(rapid.IntRange(-10, 75).Draw(w.t, "minutes")) * time.Minute)
	if now := w.clock.Now(); now.After(w.high) {
		w.high = now
	}
}

// heal ends all trouble and lets everything go through.
func (w *world) heal(ctx context.Context) {
	w.healed = true
	w.clock.Set(w.high.Add(2 * time.Hour))
	for range 200 {
		if err := w.close(ctx); err != nil {
			w.t.Fatalf("CloseDue without faults: %v", err)
		}
		sum, err := w.report.RunOnce(ctx)
		if err != nil {
			w.t.Fatalf("RunOnce without faults: %v", err)
		}
		if sum.Unsettled == 0 && sum.Stopped == reporter.StopNone {
			return
		}
		w.clock.Advance(time.Minute)
	}
	w.t.Fatal("records are still due after 200 passes without faults")
}

// check checks what must be true at any time.
func (w *world) check() {
	for _, v := range append(w.books.Violations(), w.market.Violations()...) {
		w.t.Errorf("rule broken: %s", v)
	}
	for _, fault := range w.books.CheckConservation(w.meters) {
		w.t.Errorf("not conserved: %s", fault)
	}
	taken := w.market.Taken()
	for _, r := range w.books.All() {
		if _, has := taken[r.SN]; r.Last.State == reporter.StateAccepted && !has {
			w.t.Errorf("record %s is accepted in the books, and the marketplace does not have it", r.SN)
		}
	}
}

// checkEnd checks what must be true once everything went through.
func (w *world) checkEnd() {
	taken := w.market.Taken()
	for _, r := range w.books.All() {
		var want reporter.State
		_, mapped := w.mapper.Target(r.Subject, r.Meter)
		switch {
		case r.Billed.IsZero():
			want = reporter.StateCarried
		case !mapped, r.InstanceID == "", r.Billed.Cmp(q("5000")) > 0:
			want = reporter.StateHeld
		case bad(r.InstanceID), refused(r.InstanceID):
			want = reporter.StateRejected
		default:
			want = reporter.StateAccepted
		}
		if r.Last.State != want {
			w.t.Errorf("record %s of %s/%s ends as %s, want %s", r.SN, r.Subject, r.Meter, r.Last.State, want)
		}
		sent, has := taken[r.SN]
		if has != (want == reporter.StateAccepted) {
			w.t.Errorf("record %s: the marketplace has it: %v, want %v", r.SN, has, !has)
		}
		if has && !sent.Quantity.Equal(r.Billed) {
			w.t.Errorf("record %s: the marketplace has %s, the books %s", r.SN, sent.Quantity, r.Billed)
		}
		delete(taken, r.SN)
	}
	for sn := range taken {
		w.t.Errorf("the marketplace has record %s, which is not in the books", sn)
	}
}

func TestNoHistoryLosesOrDoublesUsage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"events", "events", "tick", "tick", "close", "pass", "pass", "restart"}).Draw(t, "step") {
			case "events":
				w.addEvents()
			case "tick":
				w.tick()
			case "close":
				w.faulty(func() error { return w.close(ctx) })
			case "pass":
				w.faulty(func() error { return w.pass(ctx) })
			case "restart":
				w.restart()
			}
			w.check()
		}
		w.heal(ctx)
		w.check()
		w.checkEnd()
	})
}
