package reportertest_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

var hour = meter.HourOf(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

func q(text string) meter.Quantity { return meter.MustParseQuantity(text) }

func TestAggregations(t *testing.T) {
	t.Parallel()
	var meters []meter.Meter
	for _, a := range []meter.Aggregation{meter.Sum, meter.Count, meter.Max, meter.Min, meter.Latest, meter.UniqueCount} {
		meters = append(meters, meter.Meter{Slug: a.String(), Aggregation: a})
	}
	b := reportertest.NewBooks()
	add := func(id, value string, minute int) bool {
		e := reportertest.Event{
			Source: "s", ID: id, Subject: "a", Time: hour.Start.Add(time.Duration(minute) * time.Minute),
			Values: map[string]meter.Quantity{}, Texts: map[string]string{"unique_count": value},
		}
		for _, m := range meters[:5] {
			e.Values[m.Slug] = q(value)
		}
		return b.AddEvent(e)
	}
	for _, e := range []struct {
		id, value string
		minute    int
		fresh     bool
	}{
		{"1", "3", 10, true},
		{"2", "0.5", 50, true},
		{"3", "7", 20, true},
		{"4", "7", 50, true},
		{"1", "100", 30, false}, // a duplicate: the first one counts
		{"1", "9", 60, true},    // the same id in another hour is another event
	} {
		if got := add(e.id, e.value, e.minute); got != e.fresh {
			t.Errorf("AddEvent(%s at %d) = %v, want %v", e.id, e.minute, got, e.fresh)
		}
	}
	got := map[string]string{}
	err := b.AggregateWindow(t.Context(), hour, meters, func(u reporter.WindowUsage) error {
		got[u.Meter] = u.Quantity.String()
		if u.Events != 4 || u.Subject != "a" {
			t.Errorf("%s: %d events of %q, want 4 of a", u.Meter, u.Events, u.Subject)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("AggregateWindow: %v", err)
	}
	want := map[string]string{"sum": "17.5", "count": "4", "max": "7", "min": "0.5", "latest": "7", "unique_count": "3"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("aggregates differ (-want +got):\n%s", diff)
	}
	if n, err := b.CountWindowEvents(t.Context(), hour); n != 4 || err != nil {
		t.Errorf("CountWindowEvents = %d, %v, want 4", n, err)
	}
	if w, ok, err := b.FirstEventHour(t.Context()); w != hour || !ok || err != nil {
		t.Errorf("FirstEventHour = %s, %v, %v, want %s", w, ok, err, hour)
	}
}

// record is a valid pending record of the hour.
func record(version uint64) reporter.BillRecord {
	r := reporter.BillRecord{
		Seller: "acme", InstanceID: "i", Subject: "a", Meter: "m", Window: hour, Usage: q("5"), Billed: q("5"), Scale: q("1"), Version: version,
	}
	r.SN = r.Identity().SN()
	r.Last = reporter.Transition{SN: r.SN, Window: hour, Seq: 1, State: reporter.StatePending}
	return r
}

// closed returns books with one closed window of one record.
func closed(t *testing.T) (*reportertest.Books, reporter.BillRecord) {
	t.Helper()
	b, r := reportertest.NewBooks(), record(7)
	err := errors.Join(
		b.WriteRecords(t.Context(), []reporter.BillRecord{record(3)}), // an interrupted close
		b.WriteRecords(t.Context(), []reporter.BillRecord{r}),
		b.WriteClose(t.Context(), reporter.WindowClose{Window: hour, Version: 7, Records: 1}),
	)
	if err != nil || len(b.Violations()) != 0 {
		t.Fatalf("closing: %v, %v", err, b.Violations())
	}
	return b, r
}

func TestOnlyTheClosedVersionCounts(t *testing.T) {
	t.Parallel()
	b, _ := closed(t)
	if all := b.All(); len(all) != 1 || all[0].Version != 7 {
		t.Errorf("All() = %v, want the record of version 7", all)
	}
	if v, err := b.HighestVersion(t.Context(), hour); v != 7 || err != nil {
		t.Errorf("HighestVersion = %d, %v, want 7", v, err)
	}
}

// The books are only worth something as an oracle if they notice what is wrong.
func TestBooksNoticeBrokenRules(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		do   func(t *testing.T, b *reportertest.Books, r reporter.BillRecord)
		want string
	}{
		"forbidden step": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			step(t, b, r, 2, reporter.StateAccepted)
		}, "pending can't become accepted"},
		"gap": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			step(t, b, r, 3, reporter.StateSending)
		}, "row 3 without row 2"},
		"rewritten row": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			step(t, b, r, 2, reporter.StateSending)
			step(t, b, r, 2, reporter.StateHeld)
		}, "row 2 was sending and is written as held"},
		"unknown record": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			r.SN = "nobody"
			step(t, b, r, 2, reporter.StateSending)
		}, "without a record of a closed window"},
		"settled too early": {func(t *testing.T, b *reportertest.Books, _ reporter.BillRecord) {
			t.Helper()
			err := b.SettleWindow(t.Context(), reporter.WindowClose{Window: hour, Version: 7, SettledAt: hour.End})
			if err != nil {
				t.Fatal(err)
			}
		}, "settled although record"},
		"closed twice": {func(t *testing.T, b *reportertest.Books, _ reporter.BillRecord) {
			t.Helper()
			if err := b.WriteClose(t.Context(), reporter.WindowClose{Window: hour, Version: 8}); err != nil {
				t.Fatal(err)
			}
		}, "closed twice"},
		"wrong sum": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			r.Window = hour.Next()
			r.SN, r.Usage = r.Identity().SN(), q("6")
			if err := b.WriteRecords(t.Context(), []reporter.BillRecord{r}); err != nil {
				t.Fatal(err)
			}
		}, "6 + 0 is not 5 × 1 + 0"},
		"made-up number": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			r.Window, r.SN = hour.Next(), "made-up"
			if err := b.WriteRecords(t.Context(), []reporter.BillRecord{r}); err != nil {
				t.Fatal(err)
			}
		}, "not that of its identity"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, r := closed(t)
			tc.do(t, b, r)
			if got := strings.Join(b.Violations(), "; "); !strings.Contains(got, tc.want) {
				t.Errorf("Violations() = %q, want %q in it", got, tc.want)
			}
		})
	}
}

func step(t *testing.T, b *reportertest.Books, r reporter.BillRecord, seq uint32, to reporter.State) {
	t.Helper()
	err := b.AppendTransitions(t.Context(), []reporter.Transition{{SN: r.SN, Window: r.Window, Seq: seq, State: to}})
	if err != nil {
		t.Fatalf("AppendTransitions: %v", err)
	}
}

func TestConservationIsChecked(t *testing.T) {
	t.Parallel()
	b, _ := closed(t)
	meters := []meter.Meter{{Slug: "m", Aggregation: meter.Sum, Billed: true}}
	if got := strings.Join(b.CheckConservation(meters), "; "); got != "a/m: usage 0, in the books 5" {
		t.Errorf("CheckConservation() = %q, want the five that nobody used", got)
	}
	b.AddUsage("a", "m", hour.Start, q("5"))
	if got := b.CheckConservation(meters); len(got) != 0 {
		t.Errorf("CheckConservation() = %v, want nothing", got)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for fault, want := range map[reportertest.Fault]reporter.State{
		reportertest.FaultBefore: reporter.StatePending, reportertest.FaultHalf: reporter.StatePending,
		reportertest.FaultAfter: reporter.StateSending,
	} {
		b, r := closed(t)
		b.SetFaults(func(op string, call int) reportertest.Fault {
			if op != "AppendTransitions" || call != 4 {
				t.Errorf("fault asked for %s number %d, want AppendTransitions number 4", op, call)
			}
			return fault
		})
		err := b.AppendTransitions(t.Context(), []reporter.Transition{{SN: r.SN, Window: hour, Seq: 2, State: reporter.StateSending}})
		if !errors.Is(err, reportertest.ErrInjected) || b.State(r.SN) != want {
			t.Errorf("fault %d: %v and state %s, want the injected error and %s", fault, err, b.State(r.SN), want)
		}
	}
}

func TestRecordsFilterAndPages(t *testing.T) {
	t.Parallel()
	b := reportertest.NewBooks()
	var all []reporter.BillRecord
	for _, id := range []string{"i", "j", "k"} {
		r := record(1)
		r.InstanceID = id
		r.SN = r.Identity().SN()
		r.Last.SN = r.SN
		all = append(all, r)
	}
	err := errors.Join(b.WriteRecords(t.Context(), all), b.WriteClose(t.Context(), reporter.WindowClose{Window: hour, Version: 1, Records: 3}))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		filter reporter.RecordFilter
		want   int
	}{
		"all":         {reporter.RecordFilter{}, 3},
		"limit":       {reporter.RecordFilter{Limit: 2}, 2},
		"number":      {reporter.RecordFilter{SN: all[1].SN}, 1},
		"instance":    {reporter.RecordFilter{InstanceID: "k"}, 1},
		"subject":     {reporter.RecordFilter{Subject: "nobody"}, 0},
		"state":       {reporter.RecordFilter{States: []reporter.State{reporter.StateHeld}}, 0},
		"from":        {reporter.RecordFilter{From: hour.End}, 0},
		"to is open":  {reporter.RecordFilter{To: hour.Start}, 0},
		"whole range": {reporter.RecordFilter{From: hour.Start, To: hour.End}, 3},
	}
	for name, tc := range tests {
		got, err := b.Records(t.Context(), tc.filter)
		if err != nil || len(got) != tc.want {
			t.Errorf("%s: %d records, %v, want %d", name, len(got), err, tc.want)
		}
	}
	var paged []reporter.MeteringSN
	for f := (reporter.RecordFilter{Limit: 1}); ; {
		page, err := b.Records(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		paged = append(paged, page[0].SN)
		f.After = reporter.Cursor(page[0])
	}
	slices.SortFunc(all, func(x, y reporter.BillRecord) int { return strings.Compare(string(x.SN), string(y.SN)) })
	if diff := cmp.Diff([]reporter.MeteringSN{all[0].SN, all[1].SN, all[2].SN}, paged); diff != "" {
		t.Errorf("pages differ (-want +got):\n%s", diff)
	}
	if _, err := b.Records(t.Context(), reporter.RecordFilter{After: "nonsense"}); err == nil {
		t.Error("Records after nonsense = nil, want an error")
	}
}
