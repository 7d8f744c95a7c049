package reporter_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// riskBooks answer what they are told to.
type riskBooks struct {
	mu       sync.Mutex
	bookings []reporter.Booking
	rows     []reporter.AtRiskRow
	since    time.Time
	err      error
	panics   bool
	asked    int
	slow     time.Duration
}

func (r *riskBooks) AtRisk(_ context.Context, since time.Time) ([]reporter.AtRiskRow, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	r.since = since
	time.Sleep(r.slow)
	if r.panics {
		panic("a bug")
	}
	return r.rows, r.err
}

func (r *riskBooks) UnsettledBookings(context.Context) ([]reporter.Booking, error) {
	return r.bookings, nil
}

func newSLO(t *testing.T, books reporter.AtRiskBooks, clock reporter.Clock) *reporter.SLO {
	t.Helper()
	priced, plain, internal := tokens("1"), tokens("1"), tokens("1")
	priced.Price = q("0.02")
	plain.Slug = "calls"
	internal.Slug, internal.Billed = "internal", false
	s, err := reporter.NewSLO(reporter.SLOOptions{
		Books: books, Meters: []meter.Meter{priced, plain, internal}, Clock: clock, Logger: (&logBuffer{}).logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSLO(t *testing.T) {
	t.Parallel()
	clock := reportertest.NewClock(at(125)) // 14:05
	books := &riskBooks{
		bookings: []reporter.Booking{{Number: 1, Window: noon}, {Number: 2, Window: noon.Next()}},
		rows: []reporter.AtRiskRow{
			{Meter: "tokens", State: reporter.StatePending, Records: 3, Billed: q("100.5")},
			{Meter: "tokens", State: reporter.StateHeld, Records: 1, Billed: q("0.5")},
			{Meter: "gone", State: reporter.StateRejected, Records: 2, Billed: q("7")},
		},
	}
	s := newSLO(t, books, clock)
	if got := s.Status(); !got.At.IsZero() || got.Err != "" {
		t.Errorf("status before the first look = %+v", got)
	}
	s.Look(t.Context())
	want := reporter.SLOStatus{
		At: at(125), Unsettled: 2, Overdue: 1, Deadline: noon.End.Add(15 * time.Minute),
		Meters: []reporter.AtRisk{
			{Meter: "calls", States: map[reporter.State]uint64{}},
			{Meter: "gone", Records: 2, Billed: q("7"), States: map[reporter.State]uint64{reporter.StateRejected: 2}},
			{
				Meter: "tokens", Records: 4, Billed: q("101"), Money: q("2.02"), Priced: true,
				States: map[reporter.State]uint64{reporter.StatePending: 3, reporter.StateHeld: 1},
			},
		},
	}
	if diff := cmp.Diff(want, s.Status()); diff != "" {
		t.Errorf("status differs (-want +got):\n%s", diff)
	}
	if since := at(125).Add(-22 * 24 * time.Hour); !books.since.Equal(since) {
		t.Errorf("asked since %s, want %s", books.since, since)
	}
	books.bookings, books.rows = nil, nil
	s.Look(t.Context())
	if got := s.Status(); got.Unsettled != 0 || !got.Deadline.IsZero() || len(got.Meters) != 2 || got.Meters[1].Records != 0 {
		t.Errorf("status after everything is settled = %+v, want zeros", got)
	}
}

// What was seen stays, with the reason why it is old; and a panic is only an error.
func TestSLOKeepsWhatItSaw(t *testing.T) {
	t.Parallel()
	books := &riskBooks{rows: []reporter.AtRiskRow{{Meter: "tokens", State: reporter.StatePending, Records: 3, Billed: q("1")}}}
	s := newSLO(t, books, reportertest.NewClock(at(0)))
	s.Look(t.Context())
	books.err = errors.New("store away")
	s.Look(t.Context())
	if got := s.Status(); got.Err != "read what is at risk: store away" || got.Meters[1].Records != 3 {
		t.Errorf("status = %+v, want the old figures and the reason", got)
	}
	books.panics = true
	s.Look(t.Context())
	if got := s.Status(); got.Err != "internal error: a bug" {
		t.Errorf("Err = %q", got.Err)
	}
	books.err, books.panics = nil, false
	s.Look(t.Context())
	if got := s.Status(); got.Err != "" {
		t.Errorf("Err = %q after a look that succeeded", got.Err)
	}
}

// The store is asked once a minute at most, and no more than a twentieth of the time.
func TestSLOBoundsTheLoad(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		slow     time.Duration
		low, top int
	}{
		"fast": {0, 60, 61},
		"slow": {15 * time.Second, 11, 13},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				books := &riskBooks{slow: tc.slow}
				s := newSLO(t, books, reporter.SystemClock{})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx) }()
				time.Sleep(time.Hour)
				synctest.Wait()
				cancel()
				if err := <-done; err != nil {
					t.Errorf("Run = %v", err)
				}
				if books.asked < tc.low || books.asked > tc.top {
					t.Errorf("asked %d times in an hour, want %d to %d", books.asked, tc.low, tc.top)
				}
			})
		})
	}
}

func TestNewSLORefuses(t *testing.T) {
	t.Parallel()
	if _, err := reporter.NewSLO(reporter.SLOOptions{}); err == nil {
		t.Error("NewSLO of nothing = nil, want an error")
	}
	_, err := reporter.NewSLO(reporter.SLOOptions{
		Books: &riskBooks{}, Clock: reporter.SystemClock{}, Logger: (&logBuffer{}).logger(), Interval: -1,
	})
	if err == nil {
		t.Error("NewSLO with a negative interval = nil, want an error")
	}
}

// A booking of another daemon is told of once, and again only if it becomes unsettled again.
func TestSLOTellsOfBookings(t *testing.T) {
	t.Parallel()
	books := &riskBooks{}
	found := 0
	s, err := reporter.NewSLO(reporter.SLOOptions{
		Books: books, Clock: reportertest.NewClock(at(125)), Logger: (&logBuffer{}).logger(), Found: func() { found++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	one, two := reporter.Booking{Number: 1, Window: noon}, reporter.Booking{Number: 2, Window: noon}
	for i, step := range []struct {
		unsettled []reporter.Booking
		want      int
	}{{nil, 0}, {[]reporter.Booking{one}, 1}, {[]reporter.Booking{one}, 1}, {[]reporter.Booking{one, two}, 2}, {nil, 2}, {[]reporter.Booking{one}, 3}} {
		books.bookings = step.unsettled
		if s.Look(t.Context()); found != step.want {
			t.Errorf("look %d: told %d times, want %d", i, found, step.want)
		}
	}
}
