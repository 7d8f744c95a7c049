package simulation_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/embedded"
	"github.com/meterd/meterd/store/storetest"
)

// tee writes everything into the reference books and into a real store, and compares what they hold. The world goes on with
// the answers of the reference books, so the store need not have the events.
type tee struct {
	*reportertest.Books

	store *store.Store
	w     **world
}

// both compares how the two ended: the one may not succeed where the other fails.
func (t tee) both(what string, reference, stored error) error {
	if (reference == nil) != (stored == nil) || errors.Is(reference, reporter.ErrBookingTaken) != errors.Is(stored, reporter.ErrBookingTaken) {
		(*t.w).fault("%s: the reference books say %v, the store %v", what, reference, stored)
	}
	return reference
}

func (t tee) WriteRows(ctx context.Context, b reporter.Booking, rows reporter.Rows) error {
	return t.both("WriteRows", t.Books.WriteRows(ctx, b, rows), t.store.WriteRows(ctx, b, rows))
}

func (t tee) Commit(ctx context.Context, b reporter.Booking) error {
	err := t.both("Commit", t.Books.Commit(ctx, b), t.store.Commit(ctx, b))
	t.compare(ctx, b.Number)
	return err
}

func (t tee) AppendTransitions(ctx context.Context, ts []reporter.Transition) error {
	return t.both("AppendTransitions", t.Books.AppendTransitions(ctx, ts), t.store.AppendTransitions(ctx, ts))
}

func (t tee) SettleBooking(ctx context.Context, b reporter.Booking) error {
	return t.both("SettleBooking", t.Books.SettleBooking(ctx, b), t.store.SettleBooking(ctx, b))
}

func (t tee) AppendLife(ctx context.Context, changes []reporter.LifeChange) error {
	return t.both("AppendLife", t.Books.AppendLife(ctx, changes), t.store.AppendLife(ctx, changes))
}

func (t tee) AppendAudit(ctx context.Context, entries []reporter.AuditEntry) error {
	return t.both("AppendAudit", t.Books.AppendAudit(ctx, entries), t.store.AppendAudit(ctx, entries))
}

// compare compares the sums of every account and what is open.
func (t tee) compare(ctx context.Context, number uint64) {
	var texts [2]string
	for i, l := range []ledger{t.Books, t.store} {
		var text strings.Builder
		err := l.AccountSums(ctx, time.Time{}, time.Time{}, false, (*t.w).plan.meters, func(s reporter.AccountSum) error {
			fmt.Fprintf(&text, "%s/%s booked %s balance %s held %s written off %s unbillable %s", s.Subject, s.Meter, s.Booked, s.Balance,
				s.Held, s.WrittenOff, s.Unbillable)
			for _, state := range reporter.States() {
				if q := s.Records[state]; !q.IsZero() {
					fmt.Fprintf(&text, " %s %s", state, q)
				}
			}
			text.WriteByte('\n')
			return nil
		})
		balances, err2 := l.Balances(ctx, nil)
		for _, row := range balances {
			fmt.Fprintf(&text, "balance of %s/%s %s\n", row.Subject, row.Meter, row.Quantity)
		}
		held, err3 := l.HeldUsage(ctx, nil, "", 10_000)
		for _, h := range held {
			fmt.Fprintf(&text, "held %s of %s/%s %s\n", h.ID, h.Subject, h.Meter, h.Open)
		}
		unsettled, err4 := l.UnsettledBookings(ctx)
		for _, b := range unsettled {
			fmt.Fprintf(&text, "booking %d is not settled\n", b.Number)
		}
		lives, err5 := l.ReleasedWithoutFinal(ctx, 100)
		slices.SortFunc(lives, func(x, y reporter.LifeChange) int {
			return cmp.Or(x.At.Compare(y.At), cmp.Compare(x.InstanceID, y.InstanceID), cmp.Compare(x.Kind, y.Kind))
		})
		for _, c := range lives {
			fmt.Fprintf(&text, "%s %s %s is not dealt with\n", c.InstanceID, c.Kind, c.At)
		}
		if err := errors.Join(err, err2, err3, err4, err5); err != nil {
			(*t.w).fault("booking %d: %v", number, err)
			return
		}
		texts[i] = text.String()
	}
	if texts[0] != texts[1] {
		(*t.w).fault("after booking %d the reference books hold\n%s\nthe store\n%s", number, texts[0], texts[1])
	}
}

// The real store holds what the reference books hold, after every booking of a random history.
func TestStoreFollowsTheReference(t *testing.T) {
	t.Parallel()
	engine := storetest.StartEngine(t, embedded.Options{NoFsync: true})
	for _, seed := range []uint64{5, 8} {
		var w *world
		var s *store.Store
		w, err := newWorld(seed, mutant{ledger: func(b *reportertest.Books) ledger { return tee{Books: b, store: s, w: &w} }})
		if err != nil {
			t.Fatal(err)
		}
		s, err = store.Open(t.Context(), store.Config{
			DialContext: engine.DialContext, Database: fmt.Sprintf("seed%d", seed), Now: func() time.Time { return w.now }, Logger: discard,
		})
		if err != nil {
			t.Fatalf("open the store: %v", err)
		}
		w.run(2)
		t.Logf("seed %d: %d bookings", seed, w.oracle.seen)
		if len(w.faults) > 0 {
			t.Errorf("seed %d, at %s:\n%s\n%s", seed, w.now.Format(time.RFC3339), strings.Join(w.faults, "\n"), w.tail())
		}
		if found, err := s.CheckRows(t.Context(), 10); err != nil || len(found) > 0 {
			t.Errorf("CheckRows = %v, %v, want nothing", found, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	}
}
