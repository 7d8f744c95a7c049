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
	err := b.AggregateWindow(t.Context(), reporter.Scope{Hour: hour}, meters, func(u reporter.WindowUsage) error {
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
		Seller: "acme", InstanceID: "i", Subject: "a", Meter: "m", Window: hour, Booked: hour, Usage: q("5"), Billed: q("5"),
		Scale: q("1"), Version: version,
	}
	return numbered(r)
}

// numbered gives a record the number of its identity.
func numbered(r reporter.BillRecord) reporter.BillRecord {
	r.SN = r.Identity().SN()
	r.Last = reporter.Transition{SN: r.SN, Booked: r.Booked, Seq: 1, State: reporter.StatePending, At: hour.End}
	return r
}

// booking is a close of the hour with the rows.
func booking(number, version uint64, w meter.Window, rows reporter.Rows) reporter.Booking {
	return reporter.Booking{
		Number: number, Version: version, Kind: reporter.BookingClose, Window: w, At: w.End.Add(5 * time.Minute),
		Usages: uint64(len(rows.Usage)), Records: uint64(len(rows.Records)), Adjustments: uint64(len(rows.Adjustments)),
		Balances: uint64(len(rows.Balances)), Covers: uint64(len(rows.Covers)),
	}
}

// usage is usage of the account of [record].
func usage(w meter.Window, quantity string, version uint64) reporter.HourlyUsage {
	return reporter.HourlyUsage{Window: w, Subject: "a", Meter: "m", Quantity: q(quantity), Events: 1, Version: version}
}

// book writes and commits.
func book(t *testing.T, b *reportertest.Books, c reporter.Booking, rows reporter.Rows) error {
	t.Helper()
	return errors.Join(b.WriteRows(t.Context(), c, rows), b.Commit(t.Context(), c))
}

// closed returns books with one closed hour of one record.
func closed(t *testing.T) (*reportertest.Books, reporter.BillRecord) {
	t.Helper()
	b, r := reportertest.NewBooks(), record(7)
	interrupted := reporter.Rows{Records: []reporter.BillRecord{record(3)}}
	rows := reporter.Rows{Usage: []reporter.HourlyUsage{usage(hour, "5", 7)}, Records: []reporter.BillRecord{r}}
	err := errors.Join(b.WriteRows(t.Context(), booking(1, 3, hour, interrupted), interrupted), book(t, b, booking(1, 7, hour, rows), rows))
	if err != nil || len(b.Violations()) != 0 {
		t.Fatalf("closing: %v, %v", err, b.Violations())
	}
	return b, r
}

func TestOnlyCommittedRowsCount(t *testing.T) {
	t.Parallel()
	b, _ := closed(t)
	if all := b.All(); len(all) != 1 || all[0].Version != 7 {
		t.Errorf("All() = %v, want the record of version 7", all)
	}
	err := b.Commit(t.Context(), booking(1, 3, hour, reporter.Rows{Records: make([]reporter.BillRecord, 1)}))
	if !errors.Is(err, reporter.ErrBookingTaken) {
		t.Errorf("Commit of the taken number 1 = %v, want ErrBookingTaken", err)
	}
	again := booking(1, 7, hour, reporter.Rows{Usage: make([]reporter.HourlyUsage, 1), Records: make([]reporter.BillRecord, 1)})
	if err := b.Commit(t.Context(), again); err != nil {
		t.Errorf("Commit again = %v, want nil", err)
	}
	if err := b.Commit(t.Context(), booking(2, 3, hour.Next(), reporter.Rows{})); err == nil || len(b.Log()) != 1 {
		t.Errorf("Commit of a booking that names too few rows = %v, log of %d, want an error", err, len(b.Log()))
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
		}, "without a record of a committed booking"},
		"settled too early": {func(t *testing.T, b *reportertest.Books, _ reporter.BillRecord) {
			t.Helper()
			if err := b.SettleBooking(t.Context(), reporter.Booking{Number: 1, Version: 7, SettledAt: hour.End}); err != nil {
				t.Fatal(err)
			}
		}, "settled although record"},
		"closed twice": {func(t *testing.T, b *reportertest.Books, _ reporter.BillRecord) {
			t.Helper()
			mustBook(t, b, hour, reporter.Rows{})
		}, "closed twice"},
		"gap in the log": {func(t *testing.T, b *reportertest.Books, _ reporter.BillRecord) {
			t.Helper()
			if err := b.Commit(t.Context(), booking(3, 8, hour.Next(), reporter.Rows{})); err == nil {
				t.Error("Commit of number 3 after 1 = nil, want an error")
			}
		}, "taken while the last one is 1"},
		"old version": {func(t *testing.T, b *reportertest.Books, _ reporter.BillRecord) {
			t.Helper()
			if err := b.Commit(t.Context(), booking(2, 6, hour.Next(), reporter.Rows{})); err != nil {
				t.Fatal(err)
			}
		}, "not above 7"},
		"late rows": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			r.RecordTime = hour.End
			err := b.WriteRows(t.Context(), reporter.Booking{Version: 7}, reporter.Rows{Records: []reporter.BillRecord{r}})
			if err != nil {
				t.Fatal(err)
			}
		}, "rows were written after it was committed"},
		"wrong sum": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			r.Window, r.Booked, r.Usage, r.Version = hour.Next(), hour.Next(), q("6"), 8
			mustBook(t, b, hour.Next(), reporter.Rows{Records: []reporter.BillRecord{numbered(r)}})
		}, "6 + 0 is not 5 × 1 + 0"},
		"billed from nothing": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			r.Window, r.Booked, r.Version = hour.Next(), hour.Next(), 8
			mustBook(t, b, hour.Next(), reporter.Rows{Records: []reporter.BillRecord{numbered(r)}})
		}, "0 came in and 5 went out"},
		"balance forgotten": {func(t *testing.T, b *reportertest.Books, _ reporter.BillRecord) {
			t.Helper()
			mustBook(t, b, hour.Next(), reporter.Rows{Usage: []reporter.HourlyUsage{usage(hour.Next(), "2", 8)}})
			mustBook(t, b, hour.Next().Next(), reporter.Rows{Balances: []reporter.Balance{{Subject: "a", Meter: "m", Quantity: q("2")}}})
		}, "0 came in and 2 went out"},
		"wrong carry": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			r.Window, r.Booked, r.Version = hour.Next(), hour.Next(), 8
			r.Usage, r.CarriedIn, r.CarriedOut = q("5"), q("2"), q("2")
			mustBook(t, b, hour.Next(), reporter.Rows{
				Usage: []reporter.HourlyUsage{usage(hour.Next(), "5", 8)}, Records: []reporter.BillRecord{numbered(r)},
			})
		}, "carries in 2, the balance of a/m is 0"},
		"same window twice": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			r.Revision, r.Booked, r.Version = 1, hour.Next(), 8
			mustBook(t, b, hour.Next(), reporter.Rows{
				Usage: []reporter.HourlyUsage{usage(hour.Next(), "5", 8)}, Records: []reporter.BillRecord{numbered(r)},
			})
		}, "has two records that are not replaced"},
		"touch from nowhere": {func(t *testing.T, b *reportertest.Books, _ reporter.BillRecord) {
			t.Helper()
			mustBook(t, b, hour.Next(), reporter.Rows{Covers: []reporter.Cover{{Hour: hour, Touch: 99}}})
		}, "covers touch 99"},
		"no reason": {func(t *testing.T, b *reportertest.Books, _ reporter.BillRecord) {
			t.Helper()
			mustBook(t, b, hour.Next(), reporter.Rows{
				Usage: []reporter.HourlyUsage{usage(hour.Next(), "5", 8)},
				Adjustments: []reporter.Adjustment{{
					ID: reporter.AdjustmentID(strings.Repeat("a", 32)), Booking: 2, Version: 8, Booked: hour.Next(), Hour: hour,
					Subject: "a", Meter: "m", Quantity: q("5"), Into: reporter.IntoUnbillable, At: hour.End,
				}},
			})
		}, "unbillable without a reason"},
		"made-up number": {func(t *testing.T, b *reportertest.Books, r reporter.BillRecord) {
			t.Helper()
			r.SN, r.Version = "made-up", 8
			err := b.WriteRows(t.Context(), reporter.Booking{Version: 8}, reporter.Rows{Records: []reporter.BillRecord{r}})
			if err != nil {
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

// mustBook makes the next booking, with the version that follows.
func mustBook(t *testing.T, b *reportertest.Books, w meter.Window, rows reporter.Rows) {
	t.Helper()
	n := uint64(len(b.Log()))
	if err := book(t, b, booking(n+1, n+7, w, rows), rows); err != nil {
		t.Fatal(err)
	}
}

func step(t *testing.T, b *reportertest.Books, r reporter.BillRecord, seq uint32, to reporter.State) {
	t.Helper()
	err := b.AppendTransitions(t.Context(), []reporter.Transition{{SN: r.SN, Booked: r.Booked, Seq: seq, State: to}})
	if err != nil {
		t.Fatalf("AppendTransitions: %v", err)
	}
}

func TestConservationIsChecked(t *testing.T) {
	t.Parallel()
	b, _ := closed(t)
	meters := []meter.Meter{{Slug: "m", Aggregation: meter.Sum, Billed: true}}
	if got := strings.Join(b.CheckConservation(meters), "; "); !strings.Contains(got, "the events say -5 more") {
		t.Errorf("CheckConservation() = %q, want the five that nobody used", got)
	}
	b.AddUsage("a", "m", hour.Start, q("4"))
	if got := b.CheckConservation(meters); len(got) != 0 {
		t.Errorf("CheckConservation() of a stale hour = %v, want nothing", got)
	}
	b.InsertOnly(reportertest.Event{Subject: "a", ID: "x", Time: hour.Start, Values: map[string]meter.Quantity{"m": q("1")}})
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
		err := b.AppendTransitions(t.Context(), []reporter.Transition{{SN: r.SN, Booked: hour, Seq: 2, State: reporter.StateSending}})
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
	rows := reporter.Rows{Records: all}
	if err := book(t, b, booking(1, 1, hour, rows), rows); err != nil {
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
