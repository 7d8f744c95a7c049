package store_test

import (
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// TestAppendTransitions_EndedBetween ends between the two things that are written when a person releases a record: at every
// moment, either the record is as it was or delivery looks for it.
func TestAppendTransitions_EndedBetween(t *testing.T) {
	t.Parallel()
	onEngines(t, func(t *testing.T, config store.Config, _ func(*testing.T)) {
		t.Helper()
		s, ctx := open(t, config), t.Context()
		b := emptyBooking(1, 10)
		b.Records = 1
		r := reporter.BillRecord{
			Seller: "acme", InstanceID: "i", Subject: "i", Meter: "tokens", Window: b.Window, Mode: reporter.ModeLive,
			Usage: meter.MustParseQuantity("1"), Scale: meter.MustParseQuantity("1"), Billed: meter.MustParseQuantity("1"), RecordTime: b.Window.End,
		}
		r.SN = r.Identity().SN()
		r.Last = reporter.Transition{SN: r.SN, Seq: 1, State: reporter.StateHeld, At: b.At}
		if err := s.WriteRows(ctx, b, reporter.Rows{Records: []reporter.BillRecord{r}}); err != nil {
			t.Fatal(err)
		}
		for _, step := range []func() error{
			func() error { return s.Commit(ctx, b) },
			func() error { return s.SettleBooking(ctx, b) },
			func() error {
				return store.Exec(ctx, s, "DETACH TABLE bill_record_transitions")
			},
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		rows := []reporter.Transition{{SN: r.SN, Booked: b.Window, Seq: 2, State: reporter.StatePending, At: b.At.Add(time.Minute)}}
		if err := s.AppendTransitions(ctx, rows); err == nil {
			t.Fatal("AppendTransitions succeeded without the table")
		}
		if list, err := s.UnsettledBookings(ctx); err != nil || len(list) != 1 {
			t.Errorf("UnsettledBookings after the first step = %v, %v, want the record's booking", list, err)
		}
		if err := store.Exec(ctx, s, "ATTACH TABLE bill_record_transitions"); err != nil {
			t.Fatal(err)
		}
		if err := s.AppendTransitions(ctx, rows); err != nil {
			t.Fatal(err)
		}
		if found, err := s.CheckRows(ctx, 10); err != nil || len(found) != 0 {
			t.Errorf("CheckRows = %q, %v, want nothing", found, err)
		}
		// Should it happen all the same, verification says so.
		if err := store.Exec(ctx, s, "INSERT INTO booking_settlements (number, settled_at, place) SELECT toUInt64(1), toInt64(1), toUInt64(100)"); err != nil {
			t.Fatal(err)
		}
		if found, err := s.CheckRows(ctx, 10); err != nil || len(found) != 1 {
			t.Errorf("CheckRows with a settled booking = %q, %v, want the due record", found, err)
		}
	})
}
