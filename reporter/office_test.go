package reporter_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// office is a bench with a closer that lives on, and a desk.
type office struct {
	*bench

	c    *reporter.Closer
	desk *reporter.Desk
	keys map[string]reportertest.EventKey
}

func newOffice(t *testing.T, meters []meter.Meter, terms map[string]reporter.Terms, mappings ...reporter.Mapping) *office {
	t.Helper()
	b := newBench(t, meters, mappings...)
	b.clock.Set(at(0))
	b.books.SetClock(b.clock.Now)
	b.closer.Terms, b.closer.Lives, b.closer.ChunkRows = terms, b.books, 2
	o := &office{bench: b, keys: map[string]reportertest.EventKey{}}
	o.restart()
	return o
}

// restart begins with a new process.
func (o *office) restart() {
	o.t.Helper()
	o.c = o.newCloser()
	var err error
	if o.desk, err = reporter.NewDesk(reporter.DeskOptions{Closer: o.c, Books: o.books, Logger: o.closer.Logger}); err != nil {
		o.t.Fatalf("NewDesk: %v", err)
	}
}

// use stores an event of tokens that can be voided by its name, "subject minute quantity".
func (o *office) use(subject string, minute int, amount string) {
	o.t.Helper()
	name := fmt.Sprint(subject, " ", minute, " ", amount)
	e := reportertest.Event{
		Source: "s", ID: name, Subject: subject, Time: at(minute), Values: map[string]meter.Quantity{o.meters[0].Slug: q(amount)},
	}
	o.books.AddEvent(e)
	o.keys[name] = e.Key()
}

func (o *office) void(name string) { o.books.Void(o.keys[name]) }

// closeAt sets the clock and closes what is due.
func (o *office) closeAt(minute int) reporter.ClosedSummary {
	o.t.Helper()
	o.clock.Set(at(minute))
	sum, err := o.c.CloseDue(o.t.Context(), o.clock.Now())
	if err != nil {
		o.t.Fatalf("CloseDue: %v", err)
	}
	o.conserved()
	return sum
}

// conserved checks the law of conservation.
func (o *office) conserved() {
	o.t.Helper()
	for _, fault := range o.books.CheckConservation(o.meters) {
		o.t.Errorf("not conserved: %s", fault)
	}
}

// life tells the desk of a change at a minute, as of the clock at another one.
func (o *office) life(now int, kind reporter.LifeChangeKind, instance string, minute int) reporter.Booking {
	o.t.Helper()
	o.clock.Set(at(now))
	booking, _, err := o.desk.ChangeLife(o.t.Context(), reporter.LifeAct{
		InstanceID: instance, Kind: kind, At: at(minute), Actor: "ann", Reason: "order",
	})
	if err != nil {
		o.t.Fatalf("ChangeLife: %v", err)
	}
	o.conserved()
	return booking
}

// decide decides about all held usage.
func (o *office) decide(now int, approve bool) {
	o.t.Helper()
	o.clock.Set(at(now))
	held, err := o.books.HeldUsage(o.t.Context(), nil, "", 100)
	if err != nil {
		o.t.Fatalf("HeldUsage: %v", err)
	}
	var ids []reporter.AdjustmentID
	for _, h := range held {
		ids = append(ids, h.ID)
	}
	if _, err := o.desk.Decide(o.t.Context(), reporter.Decision{IDs: ids, Approve: approve, Actor: "ann", Reason: "checked"}); err != nil {
		o.t.Fatalf("Decide: %v", err)
	}
	o.conserved()
}

func clockTime(t time.Time) string {
	text := t.UTC().Format("15:04")
	if day := int(t.Sub(noon.Start.Truncate(24*time.Hour)) / (24 * time.Hour)); day != 0 {
		text = fmt.Sprint(text, "+", day)
	} else if t.Before(noon.Start.Truncate(24 * time.Hour)) {
		text += "-1"
	}
	return text
}

// story tells the whole log: what each booking that did something made.
func (o *office) story() []string {
	var lines []string
	for _, b := range o.books.Log() {
		rows := o.books.RowsOf(b.Version)
		head := fmt.Sprint(b.Kind, " ", clockTime(b.Window.Start), ": ")
		mark := len(lines)
		sorted := func() { slices.Sort(lines[mark:]); mark = len(lines) }
		for _, r := range rows.Records {
			lines = append(lines, head+fmt.Sprint("record ", r.Subject, " ", clockTime(r.Window.Start), "-", clockTime(r.Window.End),
				" ", r.Usage, "+", r.CarriedIn, "=", r.Billed, "&", r.CarriedOut, " ", r.Last.State))
		}
		sorted()
		for _, a := range rows.Adjustments {
			lines = append(lines, head+fmt.Sprint("adjust ", a.Subject, " ", clockTime(a.Hour.Start), " ", a.Quantity, " ", a.Into))
		}
		sorted()
		for _, row := range rows.Balances {
			lines = append(lines, head+fmt.Sprint("balance ", row.Subject, " ", row.Quantity))
		}
		sorted()
	}
	return lines
}

// wantStory compares the story.
func (o *office) wantStory(want ...string) {
	o.t.Helper()
	if diff := cmp.Diff(want, o.story()); diff != "" {
		o.t.Errorf("story differs (-want +got):\n%s", diff)
	}
}

// wantReason checks that an adjustment into the destination has a reason with the words.
func (o *office) wantReason(into reporter.Destination, words string) {
	o.t.Helper()
	list, err := o.books.Adjustments(o.t.Context(), reporter.AdjustmentFilter{Into: into})
	if err != nil {
		o.t.Fatalf("Adjustments: %v", err)
	}
	for _, a := range list {
		if strings.Contains(a.Reason, words) {
			return
		}
	}
	o.t.Errorf("no adjustment into %s has a reason with %q: %+v", into, words, list)
}
