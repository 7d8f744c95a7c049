package reporter_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// A meter that is declared or changed after an hour was closed must not be billed for it when late usage has the hour counted
// again; verification must not call that a difference.
func TestMetersDeclaredOrChangedLater(t *testing.T) {
	t.Parallel()
	calls := meter.Meter{
		Slug: "calls", EventType: "prompt", Aggregation: meter.Sum, Scale: q("1"), Billed: true, Instance: "{subject}-calls",
		Value: meter.MustParsePath("$.calls"),
	}
	changed := tokens("1")
	changed.Value = meter.MustParsePath("$.other")
	watched := tokens("1")
	watched.Billed = false
	tests := map[string]struct {
		before, after []meter.Meter
		want          map[string]string // billed in all, by meter
		note          string
	}{
		"the same":        {before: []meter.Meter{tokens("1"), calls}, after: []meter.Meter{tokens("1"), calls}, want: map[string]string{"tokens": "7", "calls": "7"}},
		"declared later":  {before: []meter.Meter{tokens("1")}, after: []meter.Meter{tokens("1"), calls}, want: map[string]string{"tokens": "7"}},
		"changed later":   {before: []meter.Meter{tokens("1"), calls}, after: []meter.Meter{changed, calls}, want: map[string]string{"tokens": "5", "calls": "7"}, note: "tokens"},
		"billed later on": {before: []meter.Meter{watched, calls}, after: []meter.Meter{tokens("1"), calls}, want: map[string]string{"calls": "7"}, note: "without being billed"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, tc.before)
			for _, slug := range []string{"tokens", "calls"} {
				b.books.AddUsage("inst-a", slug, at(0), q("5"))
			}
			if _, err := b.newCloser().CloseDue(t.Context(), b.clock.Now()); err != nil {
				t.Fatal(err)
			}
			b.closer.Meters, b.closer.Mapper = tc.after, mapper(t, tc.after)
			for _, slug := range []string{"tokens", "calls"} {
				b.books.AddUsage("inst-a", slug, at(0), q("2"))
			}
			b.clock.Advance(time.Hour)
			if _, err := b.newCloser().CloseDue(t.Context(), b.clock.Now()); err != nil {
				t.Fatal(err)
			}
			records, err := b.books.Records(t.Context(), reporter.RecordFilter{})
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]meter.Quantity{}
			for _, r := range records {
				got[r.Meter] = got[r.Meter].Add(r.Billed)
			}
			for _, slug := range []string{"tokens", "calls"} {
				want := "0"
				if w, ok := tc.want[slug]; ok {
					want = w
				}
				if !got[slug].Equal(q(want)) {
					t.Errorf("%s: billed %s, want %s", slug, got[slug], want)
				}
			}
			report, err := reporter.Verify(t.Context(), b.books, reporter.VerifyOptions{Meters: tc.after, Recount: true, Clock: b.clock})
			if err != nil || !report.OK {
				t.Errorf("Verify = %+v, %v, want no difference", report.Differences, err)
			}
			if !slices.ContainsFunc(report.Notes, func(n string) bool { return tc.note != "" && strings.Contains(n, tc.note) }) && tc.note != "" {
				t.Errorf("notes %q say nothing of %q", report.Notes, tc.note)
			}
		})
	}
}

// Usage that was free when its hour was closed is no credit when it is void, although its meter is billed now.
func TestVoidOfFreeUsage(t *testing.T) {
	t.Parallel()
	free := tokens("1")
	free.Billed = false
	o := newOffice(t, []meter.Meter{free}, nil)
	o.use("a", 10, "5")
	o.closeAt(65)
	o.closer.Meters, o.closer.Mapper = []meter.Meter{tokens("1")}, mapper(t, []meter.Meter{tokens("1")})
	o.restart()
	o.void("a 10 5")
	o.use("a", 70, "3")
	o.closeAt(125)
	o.wantStory("close 13:00: record a 13:00-14:00 3+0=3&0 pending")
	if usage, err := o.books.BookedUsage(t.Context(), noon, nil); err != nil || len(usage) != 1 || !usage[0].Quantity.IsZero() {
		t.Errorf("BookedUsage = %+v, %v, want nothing left of the void usage", usage, err)
	}
}
