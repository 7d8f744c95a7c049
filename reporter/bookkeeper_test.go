package reporter_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// takenBooks are books in which somebody else is first, a number of times.
type takenBooks struct {
	*reportertest.Books
	left    int
	commits int
}

func (b *takenBooks) Commit(ctx context.Context, c reporter.Booking) error {
	b.commits++
	if b.left > 0 {
		b.left--
		return reporter.ErrBookingTaken
	}
	return b.Books.Commit(ctx, c)
}

func TestTakenNumbersAreComputedAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		taken, commits int
		err            string
	}{
		"twice":      {2, 3, ""},
		"seven":      {7, 8, ""},
		"for ever":   {100, 8, "others booked first 8 times in a row; is another daemon working on these books?"},
		"not at all": {0, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, []meter.Meter{tokens("1")})
			b.books.AddUsage("inst-a", "tokens", at(1), q("2"))
			books := &takenBooks{Books: b.books, left: tc.taken}
			b.closer.Books = books
			_, err := b.newCloser().CloseDue(t.Context(), b.clock.Now())
			if books.commits != tc.commits || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%d commits and %v, want %d and %q", books.commits, err, tc.commits, tc.err)
			}
			if err != nil && !errors.Is(err, reporter.ErrBookingTaken) {
				t.Errorf("%v does not wrap ErrBookingTaken", err)
			}
		})
	}
}

// Two daemons at the same instant never share a version, and each one's rise although the clock stands still.
func TestVersionsCarryChance(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	b.closer.Random = func() uint64 { return 0xffff_ffff_ffff_1234 }
	b.books.AddUsage("inst-a", "tokens", at(-120), q("2"))
	b.close()
	var before uint64
	for _, c := range b.books.Log() {
		if c.Version&0xffff != 0x1234 || c.Version <= before {
			t.Errorf("booking %d has version %x after %x", c.Number, c.Version, before)
		}
		before = c.Version
	}
	if first := b.books.Log()[0].Version; first < uint64(b.clock.Now().UnixNano()) {
		t.Errorf("version %d is before the clock", first)
	}
}

// told is an observer that notes what it is told, and that it was committed by then.
type told struct {
	reporter.NopObserver
	b     *bench
	lines []string
}

func (o *told) Booked(b reporter.Booking, _ time.Duration) {
	if log := o.b.books.Log(); log[len(log)-1].Version != b.Version {
		o.b.t.Errorf("told of booking %d before it was committed", b.Number)
	}
	o.lines = append(o.lines, b.Kind.String())
}

func (o *told) Adjusted(a reporter.Adjustment) {
	o.lines = append(o.lines, "adjusted "+a.Quantity.String()+" into "+a.Into.String())
}

func (o *told) RecordsChanged(s reporter.State, n int) {
	o.lines = append(o.lines, s.String()+strings.Repeat("+", n))
}

func TestObserverIsToldAfterTheCommit(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	o := &told{b: b}
	b.closer.Observer = o
	b.books.AddUsage("inst-a", "tokens", at(1), q("2"))
	b.books.AddUsage("inst-b", "tokens", at(1), q("2"))
	b.close()
	b.books.AddUsage("inst-a", "tokens", at(2), q("1"))
	b.close()
	want := []string{"pending++", "close", "adjusted 1 into balance", "recount"}
	if diff := cmp.Diff(want, o.lines); diff != "" {
		t.Errorf("told differs (-want +got):\n%s", diff)
	}
}

func TestCloserChecksTerms(t *testing.T) {
	t.Parallel()
	b := newBench(t, []meter.Meter{tokens("1")})
	b.closer.DayZone = time.FixedZone("odd", 5*3600+1800)
	b.newCloser() // of no matter while nothing is daily
	b.closer.Terms = map[string]reporter.Terms{"tokens": {Cycle: reporter.CycleDaily}, "gone": {}}
	_, err := reporter.NewCloser(b.closer)
	for _, want := range []string{`terms for "gone", and no such meter`, "the day zone odd is 30m0s off whole hours"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewCloser = %v, want %q", err, want)
		}
	}
}

// Days follow the zone through the change of the clocks: one has 23 hours and one 25.
func TestDaysOfAZoneWithSummerTime(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skipf("no time zones here: %v", err)
	}
	for name, tc := range map[string]struct {
		day   time.Time
		hours int
	}{
		"spring": {time.Date(2026, 3, 29, 0, 0, 0, 0, berlin), 23},
		"autumn": {time.Date(2026, 10, 25, 0, 0, 0, 0, berlin), 25},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, []meter.Meter{tokens("1")})
			b.closer.Terms, b.closer.DayZone = map[string]reporter.Terms{"tokens": {Cycle: reporter.CycleDaily}}, berlin
			for h := range tc.hours {
				b.books.AddUsage("inst-a", "tokens", tc.day.Add(time.Duration(h)*time.Hour), q("1"))
			}
			b.clock.Set(tc.day.Add(30 * time.Hour))
			b.close()
			r := b.record("inst-a")
			if !r.Window.Start.Equal(tc.day) || r.Window.End.Sub(r.Window.Start) != time.Duration(tc.hours)*time.Hour ||
				!r.Billed.Equal(meter.NewQuantity(int64(tc.hours), 0)) {
				t.Errorf("record of %s bills %s, want %d hours with 1 each", r.Window, r.Billed, tc.hours)
			}
		})
	}
}
