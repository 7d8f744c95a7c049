package reporter_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// ledgerSums is a source of sums that a test sets as it likes: what no books would ever do has to be found too.
type ledgerSums struct {
	bookings []reporter.Booking // none: every hour is counted with every meter
	accounts []reporter.AccountSum
	hours    map[time.Time][]reporter.AccountSum
	stale    []reporter.StaleHour
	rows     []string
	closed   meter.Window
	first    meter.Window
	err      error

	reads  int             // calls of AccountSums
	before func(reads int) // called before each

	sumsErr func(reads int) error // before the first account
}

func (l *ledgerSums) LastBooking(context.Context) (reporter.Booking, bool, error) {
	return reporter.Booking{Number: 7}, true, nil
}

func (l *ledgerSums) LastClosed(context.Context) (reporter.Booking, bool, error) {
	return reporter.Booking{Kind: reporter.BookingClose, Window: l.closed}, !l.closed.IsZero(), l.err
}

func (l *ledgerSums) FirstEventHour(context.Context) (meter.Window, bool, error) {
	return l.first, !l.first.IsZero(), nil
}

func (l *ledgerSums) Bookings(context.Context, time.Time, time.Time) ([]reporter.Booking, error) {
	return l.bookings, nil
}

func (l *ledgerSums) StaleHours(_ context.Context, before time.Time, limit int) ([]reporter.StaleHour, error) {
	var found []reporter.StaleHour
	for _, h := range l.stale {
		if !h.Hour.End.After(before) && len(found) < limit {
			found = append(found, h)
		}
	}
	return found, nil
}

func (l *ledgerSums) AccountSums(_ context.Context, from, _ time.Time, recount bool, _ []meter.Meter, yield func(reporter.AccountSum) error) error {
	l.reads++
	if l.before != nil {
		l.before(l.reads)
	}
	sums := l.accounts
	if recount {
		sums = l.hours[from]
	}
	if l.sumsErr != nil {
		return l.sumsErr(l.reads)
	}
	for _, s := range sums {
		if err := yield(s); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledgerSums) CheckRows(context.Context, int) ([]string, error) { return l.rows, nil }

// jumpClock passes every wait at once.
type jumpClock struct{ at time.Time }

func (c *jumpClock) Now() time.Time { return c.at }

func (c *jumpClock) WaitUntil(ctx context.Context, t time.Time) error {
	if t.After(c.at) {
		c.at = t
	}
	return ctx.Err()
}

func amounts(pairs ...any) map[reporter.State]meter.Quantity {
	m := map[reporter.State]meter.Quantity{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(reporter.State)] = q(pairs[i+1].(string))
	}
	return m
}

func account(subject, booked string, records map[reporter.State]meter.Quantity, balance meter.Quantity) reporter.AccountSum {
	return reporter.AccountSum{Subject: subject, Meter: "tokens", Booked: q(booked), Records: records, Balance: balance}
}

func minus(text string) meter.Quantity { return meter.Quantity{}.Sub(q(text)) }

func verify(t *testing.T, l *ledgerSums, o reporter.VerifyOptions) reporter.Report {
	t.Helper()
	if o.Clock == nil {
		o.Clock = &jumpClock{at: noon.End}
	}
	if o.Meters == nil {
		o.Meters = []meter.Meter{tokens("1"), {Slug: "calls", EventType: "call", Aggregation: meter.Count}}
	}
	r, err := reporter.Verify(t.Context(), l, o)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	return r
}

func TestVerifyBooks(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		sum  reporter.AccountSum
		what string // of the one difference; "" for none
		by   string
	}{
		"records and remainder": {sum: account("a", "12.5", amounts(reporter.StateAccepted, "10", reporter.StatePending, "2"), q("0.5"))},
		"credit":                {sum: account("a", "9", amounts(reporter.StateConfirmed, "10"), minus("1"))},
		"nothing at all":        {sum: account("a", "0", nil, q("0"))},
		"adjustments": {sum: reporter.AccountSum{
			Subject: "a", Meter: "tokens", Booked: q("6"), Held: q("1"), WrittenOff: q("2"), Unbillable: q("3"),
		}},
		"meter that is not billed": {sum: reporter.AccountSum{Subject: "a", Meter: "calls", Booked: q("6")}},
		"meter that is gone":       {sum: reporter.AccountSum{Subject: "a", Meter: "gone", Booked: q("6")}},
		"meter that is gone and was billed": {
			sum:  reporter.AccountSum{Subject: "a", Meter: "gone", Booked: q("6"), Balance: q("1")},
			what: `subject "a", meter "gone": usage booked is 6, but balance 1 adds up to 1: 5 missing`, by: "-5",
		},
		"missing": {
			sum:  account("a", "12.5", amounts(reporter.StateAccepted, "12"), q("0.4")),
			what: `subject "a", meter "tokens": usage booked is 12.5, but accepted 12 + balance 0.4 adds up to 12.4: 0.1 missing`, by: "-0.1",
		},
		"billed meter without anything": {
			sum:  account("a", "3", nil, q("0")),
			what: `subject "a", meter "tokens": usage booked is 3, but what was made of it adds up to 0: 3 missing`, by: "-3",
		},
		"twice": {
			sum:  account("a", "12", amounts(reporter.StateAccepted, "12", reporter.StateRejected, "12"), q("0")),
			what: `subject "a", meter "tokens": usage booked is 12, but accepted 12 + rejected 12 adds up to 24: 12 too much`, by: "12",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := verify(t, &ledgerSums{accounts: []reporter.AccountSum{tc.sum}}, reporter.VerifyOptions{})
			if r.OK != (tc.what == "") || r.DifferenceCount != uint64(len(r.Differences)) || r.Accounts != 1 || r.Booking != 7 {
				t.Fatalf("Verify = %+v, want difference %q", r, tc.what)
			}
			if tc.what == "" {
				return
			}
			d := r.Differences[0]
			if d.Check != reporter.CheckBooks || d.What != tc.what || d.By.String() != tc.by || d.Do == "" {
				t.Errorf("difference = %+v, want %s, by %s", d, tc.what, tc.by)
			}
		})
	}
}

func TestVerifyLooksAgain(t *testing.T) {
	t.Parallel()
	good := account("a", "12", amounts(reporter.StateAccepted, "12"), q("0"))
	bad := account("a", "12", amounts(reporter.StateAccepted, "11"), q("0"))
	l := &ledgerSums{}
	l.before = func(reads int) {
		l.accounts = []reporter.AccountSum{bad}
		if reads > 1 { // a booking was committed while the books were read first
			l.accounts = []reporter.AccountSum{good, account("new", "5", nil, q("5"))}
		}
	}
	r := verify(t, l, reporter.VerifyOptions{})
	if !r.OK || r.Totals[0].Booked.String() != "12" || !r.Totals[0].Difference.IsZero() {
		t.Errorf("Verify = %+v, want no difference and the sums as read last", r)
	}
	if l.reads != 2 {
		t.Errorf("the accounts were read %d times, want 2", l.reads)
	}
}

func TestVerifyTotals(t *testing.T) {
	t.Parallel()
	l := &ledgerSums{accounts: []reporter.AccountSum{
		account("a", "10.5", amounts(reporter.StateAccepted, "10"), q("0.5")),
		account("b", "4", amounts(reporter.StateAccepted, "5"), minus("1")),
		{Subject: "c", Meter: "calls", Booked: q("3")},
		{Subject: "d", Meter: "tokens", Booked: q("6"), Held: q("1"), WrittenOff: q("2"), Unbillable: q("2.5")},
	}}
	r := verify(t, l, reporter.VerifyOptions{})
	want := []reporter.MeterTotal{
		{Meter: "calls", Accounts: 1, Booked: q("3"), Records: amounts()},
		{
			Meter: "tokens", Billed: true, Accounts: 3, Booked: q("20.5"), Records: amounts(reporter.StateAccepted, "15"),
			Carried: q("0.5"), Credit: minus("1"), Held: q("1"), WrittenOff: q("2"), Unbillable: q("2.5"), Difference: minus("0.5"),
		},
	}
	if diff := cmp.Diff(want, r.Totals); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
}

func hourSum(subject, stored, booked string) reporter.AccountSum {
	return reporter.AccountSum{Subject: subject, Meter: "tokens", Stored: q(stored), Booked: q(booked)}
}

func TestVerifyRecount(t *testing.T) {
	t.Parallel()
	one, two := noon, noon.Next()
	tests := map[string]struct {
		hours   map[time.Time][]reporter.AccountSum
		stale   []reporter.StaleHour
		before  func(l *ledgerSums, reads int)
		what    []string
		waiting uint64 // accounts
	}{
		"equal": {hours: map[time.Time][]reporter.AccountSum{one.Start: {hourSum("a", "5", "5")}}},
		"differences of two hours that cancel out": {
			hours: map[time.Time][]reporter.AccountSum{one.Start: {hourSum("a", "5", "4")}, two.Start: {hourSum("a", "5", "6")}},
			what: []string{
				`subject "a", meter "tokens", hour 2026-03-01T12:00:00Z: the stored events make 5, booked is 4: 1 is not booked, and nothing announces it`,
				`subject "a", meter "tokens", hour 2026-03-01T13:00:00Z: the stored events make 5, booked is 6: 1 was booked without an event`,
			},
		},
		"waiting": {
			hours: map[time.Time][]reporter.AccountSum{
				one.Start: {hourSum("a", "5", "4"), hourSum("b", "5", "4")}, two.Start: {hourSum("a", "5", "6")},
			},
			stale: []reporter.StaleHour{
				{Hour: one, Subjects: []string{"a"}, Touches: []uint64{1}}, {Hour: two, Touches: []uint64{1, 2}},
			},
			waiting: 2,
			what: []string{
				`subject "b", meter "tokens", hour 2026-03-01T12:00:00Z: the stored events make 5, booked is 4: 1 is not booked, and nothing announces it`,
			},
		},
		"announced while it was read": {
			hours: map[time.Time][]reporter.AccountSum{one.Start: {hourSum("a", "5", "4")}},
			before: func(l *ledgerSums, reads int) {
				if reads == 2 { // the first read is that of the accounts
					l.stale = []reporter.StaleHour{{Hour: one, Subjects: []string{"a"}, Touches: []uint64{9}}}
				}
			},
			waiting: 1,
		},
		"recounted while it was read": {
			hours: map[time.Time][]reporter.AccountSum{one.Start: {hourSum("a", "5", "4")}},
			before: func(l *ledgerSums, reads int) {
				if reads == 3 {
					l.hours[one.Start] = []reporter.AccountSum{hourSum("a", "5", "5")}
				}
			},
		},
		"meter that is gone": {hours: map[time.Time][]reporter.AccountSum{one.Start: {{Subject: "a", Meter: "gone", Booked: q("1")}}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &ledgerSums{hours: tc.hours, stale: tc.stale, closed: two, first: one}
			if tc.before != nil {
				l.before = func(reads int) { tc.before(l, reads) }
			}
			r := verify(t, l, reporter.VerifyOptions{Recount: true})
			var what []string
			for _, d := range r.Differences {
				what = append(what, d.What)
			}
			if diff := cmp.Diff(tc.what, what); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
			if r.Recount.WaitingAccounts != tc.waiting || r.Recount.WaitingCount != uint64(len(l.stale)) || r.Recount.Hours != 2 {
				t.Errorf("recount = %+v, want %d accounts waiting in %d hours", r.Recount, tc.waiting, len(l.stale))
			}
			if name == "meter that is gone" && !cmp.Equal(r.Recount.SkippedMeters, []string{"gone"}) {
				t.Errorf("skipped meters = %v, want gone", r.Recount.SkippedMeters)
			}
		})
	}
}

func TestVerifyRecountRange(t *testing.T) {
	t.Parallel()
	at := func(h, m int) time.Time { return time.Date(2026, 3, 1, h, m, 0, 0, time.UTC) }
	tests := map[string]struct {
		from, to time.Time
		closed   meter.Window
		first    meter.Window
		hours    uint64
	}{
		"everything":            {closed: noon, first: meter.HourOf(at(3, 0)), hours: 10},
		"nothing closed":        {first: noon},
		"no events":             {closed: noon},
		"from within an hour":   {from: at(10, 30), closed: noon, hours: 2},
		"to beyond the closed":  {from: at(11, 0), to: at(20, 0), closed: noon, hours: 2},
		"to before the closed":  {from: at(8, 0), to: at(10, 0), closed: noon, hours: 2},
		"from after the closed": {from: at(20, 0), closed: noon},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &ledgerSums{closed: tc.closed, first: tc.first}
			r := verify(t, l, reporter.VerifyOptions{Recount: true, From: tc.from, To: tc.to})
			if r.Recount.Hours != tc.hours || !r.OK {
				t.Errorf("Verify counted %d hours, ok %t, want %d", r.Recount.Hours, r.OK, tc.hours)
			}
		})
	}
}

func TestVerifyRowsAndIntake(t *testing.T) {
	t.Parallel()
	counts := func(before, acknowledged, stored, refused, lost uint64) *reporter.IntakeCounts {
		return &reporter.IntakeCounts{Before: before, Acknowledged: acknowledged, Stored: stored, Refused: refused, Lost: lost}
	}
	tests := map[string]struct {
		intake []reporter.Intake // one after the other, the last one again and again
		rows   []string
		check  reporter.Check // of the difference; "" for none
		what   string
		notes  int
	}{
		"rows": {rows: []string{"booking 3 lacks a record"}, check: reporter.CheckRows, what: "booking 3 lacks a record"},
		"all there": {intake: []reporter.Intake{
			{InSpool: 4, DeadLetters: 9, Counts: counts(10, 100, 103, 2, 1)},
		}},
		"nobody counted": {intake: []reporter.Intake{{InSpool: 4, DeadLetters: 9}}},
		"events on their way": {intake: []reporter.Intake{
			{InSpool: 4, Counts: counts(0, 100, 90, 0, 0)}, {InSpool: 0, Counts: counts(0, 101, 101, 0, 0)},
		}},
		"events on their way all the time": {
			intake: []reporter.Intake{{Counts: counts(0, 9, 1, 0, 0)}, {Counts: counts(0, 9, 2, 0, 0)}, {Counts: counts(0, 9, 3, 0, 0)}}, notes: 1,
		},
		"missing": {
			intake: []reporter.Intake{{InSpool: 4, Counts: counts(10, 100, 99, 2, 1)}}, check: reporter.CheckIntake,
			what: "10 events were in the spool and 100 were acknowledged since; 99 stored + 2 in dead letters + 1 damaged + 4 in the spool: 4 are nowhere",
		},
		"too many": {
			intake: []reporter.Intake{{Counts: counts(0, 1, 3, 0, 0)}}, check: reporter.CheckIntake,
			what: "0 events were in the spool and 1 were acknowledged since; 3 stored + 0 in dead letters + 0 damaged + 0 in the spool: 2 are too many",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := reporter.VerifyOptions{}
			if tc.intake != nil {
				read := 0
				o.Intake = func(context.Context) (reporter.Intake, error) {
					in := tc.intake[min(read, len(tc.intake)-1)]
					read++
					return in, nil
				}
			}
			r := verify(t, &ledgerSums{rows: tc.rows}, o)
			if len(r.Notes) != tc.notes {
				t.Errorf("notes = %q, want %d", r.Notes, tc.notes)
			}
			if tc.check == "" {
				if !r.OK {
					t.Errorf("differences = %+v, want none", r.Differences)
				}
				return
			}
			if len(r.Differences) != 1 || r.Differences[0].Check != tc.check || r.Differences[0].What != tc.what {
				t.Errorf("differences = %+v, want %s: %s", r.Differences, tc.check, tc.what)
			}
		})
	}
}

func TestVerifyBoundsItsLists(t *testing.T) {
	t.Parallel()
	l := &ledgerSums{closed: noon, first: noon, hours: map[time.Time][]reporter.AccountSum{}}
	for i := range 20_000 {
		name := fmt.Sprintf("s%05d", i)
		l.accounts = append(l.accounts, account(name, "1", nil, q("0")))
		l.hours[noon.Start] = append(l.hours[noon.Start], hourSum(name, "2", "1"))
	}
	var lines int
	r := verify(t, l, reporter.VerifyOptions{Recount: true, Limit: 5, Lines: func(reporter.VerifyLine) error { lines++; return nil }})
	if len(r.Differences) != 5 || r.DifferenceCount != 40_000 || lines != 40_000 || r.Accounts != 20_000 {
		t.Errorf("%d listed of %d differences, %d lines, %d accounts; want 5 of 40000, 40000 lines, 20000 accounts", len(r.Differences),
			r.DifferenceCount, lines, r.Accounts)
	}
}

func TestVerifyErrors(t *testing.T) {
	t.Parallel()
	failed := errors.New("no connection")
	l := &ledgerSums{closed: noon, err: failed, accounts: []reporter.AccountSum{account("a", "0", nil, q("0"))}}
	clock := &jumpClock{at: noon.End}
	if r, err := reporter.Verify(t.Context(), l, reporter.VerifyOptions{Clock: clock, Recount: true}); !errors.Is(err, failed) || r.OK {
		t.Errorf("Verify = ok %t, %v, want %v", r.OK, err, failed)
	}
	write := func(reporter.VerifyLine) error { return failed }
	if _, err := reporter.Verify(t.Context(), l, reporter.VerifyOptions{Clock: clock, Lines: write}); !errors.Is(err, failed) {
		t.Errorf("Verify with a failing export = %v, want %v", err, failed)
	}
	if _, err := reporter.Verify(t.Context(), l, reporter.VerifyOptions{}); err == nil {
		t.Error("Verify without a clock did not fail")
	}
}

func TestVerifyRepeatsFailedSums(t *testing.T) {
	t.Parallel()
	failed := errors.New("two ways to count disagree")
	for fails, want := range map[int]error{2: nil, 3: failed} {
		l := &ledgerSums{}
		l.sumsErr = func(reads int) error {
			if reads <= fails {
				return failed
			}
			return nil
		}
		if _, err := reporter.Verify(t.Context(), l, reporter.VerifyOptions{Clock: &jumpClock{at: noon.End}}); !errors.Is(err, want) {
			t.Errorf("Verify of books that fail %d times = %v, want %v", fails, err, want)
		}
	}
}

// TestVerifyFindsEveryError takes exact books apart in one place and expects exactly that place to be reported.
func TestVerifyFindsEveryError(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Custom(func(t *rapid.T) meter.Quantity {
			return meter.NewQuantity(rapid.Int64Range(-1e12, 1e12).Draw(t, "units"), rapid.Int32Range(-18, 0).Draw(t, "exponent"))
		})
		l := &ledgerSums{}
		for i := range rapid.IntRange(1, 20).Draw(t, "accounts") {
			s := reporter.AccountSum{Subject: fmt.Sprintf("s%03d", i), Meter: "tokens", Records: map[reporter.State]meter.Quantity{}}
			for _, state := range reporter.States() {
				s.Records[state] = amount.Draw(t, "record")
			}
			s.Balance, s.Held = amount.Draw(t, "balance"), amount.Draw(t, "held")
			s.WrittenOff, s.Unbillable = amount.Draw(t, "written off"), amount.Draw(t, "unbillable")
			s.Booked = s.Accounted()
			l.accounts = append(l.accounts, s)
		}
		o := reporter.VerifyOptions{Meters: []meter.Meter{tokens("1")}, Clock: &jumpClock{at: noon.End}}
		if r, err := reporter.Verify(context.Background(), l, o); err != nil || !r.OK {
			t.Fatalf("Verify of exact books = %+v, %v", r, err)
		}
		wrong := rapid.IntRange(0, len(l.accounts)-1).Draw(t, "wrong")
		by := amount.Filter(func(q meter.Quantity) bool { return !q.IsZero() }).Draw(t, "by")
		l.accounts[wrong].Booked = l.accounts[wrong].Booked.Sub(by)
		r, err := reporter.Verify(context.Background(), l, o)
		if err != nil || r.DifferenceCount != 1 || r.Differences[0].Subject != l.accounts[wrong].Subject || !r.Differences[0].By.Equal(by) {
			t.Fatalf("Verify = %+v, %v, want %s wrong by %s", r.Differences, err, l.accounts[wrong].Subject, by)
		}
		if !r.Totals[0].Difference.Equal(by) {
			t.Fatalf("total difference = %s, want %s", r.Totals[0].Difference, by)
		}
	})
}

func TestVerifyCSV(t *testing.T) {
	t.Parallel()
	l := &ledgerSums{
		accounts: []reporter.AccountSum{account("=1+1", "12.5", amounts(reporter.StateAccepted, "12"), minus("0.5")), account(`a "b",c`, "0", nil, q("0"))},
		hours:    map[time.Time][]reporter.AccountSum{noon.Start: {hourSum("a", "5", "4")}}, closed: noon, first: noon,
	}
	var text bytes.Buffer
	out := reporter.NewVerifyCSV(&text)
	verify(t, l, reporter.VerifyOptions{Recount: true, Lines: out.Line})
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&text).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range rows[1:] {
		line := map[string]string{}
		for i, name := range rows[0] {
			line[name] = row[i]
		}
		got = append(got, strings.Join([]string{
			line["check"], line["verdict"], line["subject"], line["hour"], line["stored"], line["booked"], line["records_accepted"],
			line["balance"], line["difference"],
		}, "|"))
	}
	want := []string{
		`books|ok|a "b",c|||0|0|0|0`, "books|different|'=1+1|||12.5|12|-0.5|-1", "usage|different|a|2026-03-01T12:00:00Z|5|4|||-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("CSV (-want +got):\n%s", diff)
	}
	if len(rows[0]) != len(reporter.States())+12 {
		t.Errorf("%d columns, want one for every state and 12 others", len(rows[0]))
	}
}

func TestVerifyCSVWithoutLines(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	if err := reporter.NewVerifyCSV(&text).Flush(); err != nil || !strings.HasPrefix(text.String(), "check,verdict,subject,") {
		t.Errorf("CSV = %q, %v, want the heading", text.String(), err)
	}
}

func TestReportJSON(t *testing.T) {
	t.Parallel()
	l := &ledgerSums{
		accounts: []reporter.AccountSum{account("a", "12.5", amounts(reporter.StateAccepted, "12"), q("0.4"))},
		stale:    []reporter.StaleHour{{Hour: noon, Subjects: []string{"a"}, Touches: []uint64{1}}}, closed: noon, first: noon,
	}
	text, err := json.Marshal(verify(t, l, reporter.VerifyOptions{Recount: true}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"ok":false`, `"difference_count":1`, `"records":{"accepted":"12"}`, `"by":"-0.1"`, `"check":"books"`, `"waiting_count":1`,
		`"waiting":[{"hour":{"start":"2026-03-01T12:00:00Z","end":"2026-03-01T13:00:00Z"},"subjects":1,"touches":1}]`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("JSON lacks %s:\n%s", want, text)
		}
	}
}

func TestVerifier(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := &ledgerSums{closed: noon, hours: map[time.Time][]reporter.AccountSum{noon.Start: {hourSum("a", "5", "5")}}}
	clock := &jumpClock{at: noon.End}
	var runs []reporter.VerifyRun
	logs := &logBuffer{}
	mine := 0
	v, err := reporter.NewVerifier(reporter.VerifierOptions{
		Books: l, Meters: []meter.Meter{tokens("1")}, Interval: 20 * time.Minute, Hours: 1, Clock: clock, Logger: logs.logger(),
		Mine: func() bool { mine++; return mine != 2 },
		Done: func(run reporter.VerifyRun) {
			switch runs = append(runs, run); len(runs) {
			case 1:
				l.before = func(int) { panic("boom") }
			case 2:
				l.before, l.err = nil, errors.New("no connection")
			case 3:
				l.err = nil
				l.accounts = []reporter.AccountSum{account("a", "1", nil, q("0"))}
				panic("metrics")
			case 4:
				cancel()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := v.Last(); ok {
		t.Error("Last tells of a run before the first")
	}
	if err := v.Run(ctx); err != nil {
		t.Fatalf("Run: %v", err)
	}
	var got []string
	for _, r := range runs {
		got = append(got, fmt.Sprint(r.At.Format("15:04"), " ", r.OK(), " ", r.Report.DifferenceCount, " ", r.Err))
	}
	want := []string{"13:20 true 0 ", "14:00 false 0 panic: boom", "14:20 false 0 read the last close: no connection", "14:40 false 1 "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
	if last, ok := v.Last(); !ok || last.Report.DifferenceCount != 1 {
		t.Errorf("Last = %+v, %t, want the fourth run", last, ok)
	}
	if runs[0].Report.Recount.Hours != 1 {
		t.Errorf("hours counted again = %d, want 1", runs[0].Report.Recount.Hours)
	}
	if len(logs.lines("difference in the books", "subject")) != 1 || len(logs.lines("panic while telling")) != 1 {
		t.Errorf("the log lacks the difference or the panic:\n%s", logs.lines())
	}
}

func TestVerifierRestsAfterLongRuns(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	clock := &jumpClock{at: clockAt(12, 0)}
	l := &ledgerSums{before: func(int) { clock.at = clock.at.Add(12 * time.Minute) }}
	var got []string
	v, err := reporter.NewVerifier(reporter.VerifierOptions{
		Books: l, Clock: clock, Logger: slog.New(slog.DiscardHandler),
		Done: func(run reporter.VerifyRun) {
			if got = append(got, run.At.Format("15:04")); len(got) == 2 {
				cancel()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"13:20", "15:20"}, got); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
}

func TestVerifierKeepsClearOfReports(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	clock := &jumpClock{at: clockAt(12, 50)}
	var got []string
	v, err := reporter.NewVerifier(reporter.VerifierOptions{
		Books: &ledgerSums{}, Interval: 45 * time.Minute, Clock: clock, Logger: slog.New(slog.DiscardHandler),
		Done: func(run reporter.VerifyRun) {
			if got = append(got, run.At.Format("15:04")); len(got) == 4 {
				cancel()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"13:35", "14:20", "15:20", "16:20"}, got); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	t.Parallel()
	good := reporter.VerifierOptions{Books: &ledgerSums{}, Clock: &jumpClock{}, Logger: slog.New(slog.DiscardHandler)}
	for name, change := range map[string]func(*reporter.VerifierOptions){
		"no books":          func(o *reporter.VerifierOptions) { o.Books = nil },
		"no clock":          func(o *reporter.VerifierOptions) { o.Clock = nil },
		"no logger":         func(o *reporter.VerifierOptions) { o.Logger = nil },
		"negative interval": func(o *reporter.VerifierOptions) { o.Interval = -time.Second },
	} {
		o := good
		change(&o)
		if _, err := reporter.NewVerifier(o); err == nil {
			t.Errorf("%s: NewVerifier did not fail", name)
		}
	}
}
