package simulation_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// mutantSeeds is how many seeds may pass before a mutant must have been noticed.
const mutantSeeds = 12

// broken are books that break one rule for whoever uses them.
type broken struct {
	*reportertest.Books

	balances func([]reporter.Balance) []reporter.Balance
	usage    func([]reporter.HourlyUsage) []reporter.HourlyUsage
	records  func([]reporter.BillRecord) []reporter.BillRecord
	lives    func([]reporter.Life) []reporter.Life
	rows     func(reporter.Rows) reporter.Rows
	commit   func(ctx context.Context, b *reportertest.Books, c reporter.Booking) error
	settled  func([]reporter.Transition) []reporter.Transition
}

func (b broken) Balances(ctx context.Context, subjects []string) ([]reporter.Balance, error) {
	rows, err := b.Books.Balances(ctx, subjects)
	if b.balances != nil {
		rows = b.balances(rows)
	}
	return rows, err
}

func (b broken) BookedUsage(ctx context.Context, hour meter.Window, subjects []string) ([]reporter.HourlyUsage, error) {
	rows, err := b.Books.BookedUsage(ctx, hour, subjects)
	if b.usage != nil {
		rows = b.usage(rows)
	}
	return rows, err
}

func (b broken) RecordsBySN(ctx context.Context, sns []reporter.MeteringSN) ([]reporter.BillRecord, error) {
	rows, err := b.Books.RecordsBySN(ctx, sns)
	if b.records != nil {
		rows = b.records(rows)
	}
	return rows, err
}

func (b broken) Lives(ctx context.Context, w meter.Window, instances []string) ([]reporter.Life, error) {
	rows, err := b.Books.Lives(ctx, w, instances)
	if b.lives != nil {
		rows = b.lives(rows)
	}
	return rows, err
}

func (b broken) WriteRows(ctx context.Context, c reporter.Booking, rows reporter.Rows) error {
	if b.rows != nil {
		rows = b.rows(rows)
	}
	return b.Books.WriteRows(ctx, c, rows)
}

func (b broken) Commit(ctx context.Context, c reporter.Booking) error {
	if b.commit != nil {
		return b.commit(ctx, b.Books, c)
	}
	return b.Books.Commit(ctx, c)
}

func (b broken) AppendTransitions(ctx context.Context, ts []reporter.Transition) error {
	if b.settled != nil {
		ts = b.settled(ts)
	}
	return b.Books.AppendTransitions(ctx, ts)
}

// A simulation that can't fail proves nothing: each of these breaks one thing, and the checks must notice.
func TestMutantsAreNoticed(t *testing.T) {
	t.Parallel()
	books := func(b broken) mutant {
		return mutant{ledger: func(whole *reportertest.Books) ledger { b.Books = whole; return b }}
	}
	mutants := map[string]mutant{
		"a touch is dropped": {dropTouch: true},
		"the balance is doubled": books(broken{balances: func(rows []reporter.Balance) []reporter.Balance {
			for i := range rows {
				rows[i].Quantity = rows[i].Quantity.Add(rows[i].Quantity)
			}
			return rows
		}}),
		"balances are forgotten":   books(broken{balances: func([]reporter.Balance) []reporter.Balance { return nil }}),
		"usage is added to itself": books(broken{usage: func([]reporter.HourlyUsage) []reporter.HourlyUsage { return nil }}),
		"taken windows are not seen": books(broken{records: func(rows []reporter.BillRecord) []reporter.BillRecord {
			return nil
		}}),
		"instances live for ever": books(broken{lives: func([]reporter.Life) []reporter.Life { return nil }}),
		"a booking is committed twice": books(broken{commit: func(ctx context.Context, b *reportertest.Books, c reporter.Booking) error {
			err := b.Commit(ctx, c)
			for errors.Is(err, reporter.ErrBookingTaken) {
				c.Number++
				err = b.Commit(ctx, c)
			}
			return err
		}}),
		"adjustments get lost": books(broken{
			rows: func(rows reporter.Rows) reporter.Rows {
				rows.Adjustments = nil
				return rows
			},
			commit: func(ctx context.Context, b *reportertest.Books, c reporter.Booking) error {
				c.Adjustments = 0
				return b.Commit(ctx, c)
			},
		}),
		"a record is billed twice as high": books(broken{rows: func(rows reporter.Rows) reporter.Rows {
			for i, r := range rows.Records {
				rows.Records[i].Billed = r.Billed.Add(r.Billed)
			}
			return rows
		}}),
		"refused counts as accepted": books(broken{settled: func(ts []reporter.Transition) []reporter.Transition {
			for i := range ts {
				if ts[i].State == reporter.StateRejected {
					ts[i].State = reporter.StateAccepted
				}
			}
			return ts
		}}),
		"unknown counts as accepted": books(broken{settled: func(ts []reporter.Transition) []reporter.Transition {
			for i := range ts {
				if ts[i].State == reporter.StateUnknown {
					ts[i].State = reporter.StateAccepted
				}
			}
			return ts
		}}),
	}
	for name, m := range mutants {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= mutantSeeds; seed++ {
				w, err := newWorld(seed, m)
				if err != nil {
					t.Fatal(err)
				}
				w.run(24)
				if len(w.faults) > 0 {
					t.Logf("noticed by seed %d at %s: %s", seed, w.now.Format(time.RFC3339), w.faults[0])
					return
				}
			}
			t.Errorf("%d seeds didn't notice that %s", mutantSeeds, name)
		})
	}
}
