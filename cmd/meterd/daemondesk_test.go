package main

import (
	"context"
	"errors"
	"testing"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/reporter"
)

// fakeDesk does nothing, or fails.
type fakeDesk struct {
	httpapi.Desk

	err   error
	lives int
}

func (f *fakeDesk) Decide(context.Context, reporter.Decision) (reporter.Booking, error) {
	return reporter.Booking{}, f.err
}

func (f *fakeDesk) MoveRecords(context.Context, reporter.RecordAct) ([]reporter.BillRecord, error) {
	return nil, f.err
}

func (f *fakeDesk) Resend(context.Context, reporter.ResendAct) (reporter.Booking, error) {
	return reporter.Booking{}, f.err
}

func (f *fakeDesk) ChangeLife(context.Context, reporter.LifeAct) (reporter.Booking, bool, error) {
	f.lives++
	return reporter.Booking{}, true, f.err
}

type guardFunc func() error

func (g guardFunc) Check(context.Context) error { return g() }

// What an act leaves to be sent doesn't wait for the schedule; an act that failed leaves nothing.
func TestActsAreDeliveredAtOnce(t *testing.T) {
	t.Parallel()
	acts := map[string]func(context.Context, httpapi.Desk) error{
		"decide": func(ctx context.Context, d httpapi.Desk) error {
			_, err := d.Decide(ctx, reporter.Decision{})
			return err
		},
		"move": func(ctx context.Context, d httpapi.Desk) error {
			_, err := d.MoveRecords(ctx, reporter.RecordAct{})
			return err
		},
		"resend": func(ctx context.Context, d httpapi.Desk) error {
			_, err := d.Resend(ctx, reporter.ResendAct{})
			return err
		},
		"life": func(ctx context.Context, d httpapi.Desk) error {
			_, _, err := d.ChangeLife(ctx, reporter.LifeAct{Kind: reporter.LifeReleased})
			return err
		},
	}
	failure := errors.New("the store is away")
	for name, act := range acts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			triggered := 0
			desk := &fakeDesk{}
			door := deskDoor{Desk: desk, trigger: func() { triggered++ }}
			if err := act(t.Context(), door); err != nil || triggered != 1 {
				t.Errorf("err = %v and %d deliveries asked for, want one", err, triggered)
			}
			desk.err = failure
			if err := act(t.Context(), door); !errors.Is(err, failure) || triggered != 1 {
				t.Errorf("err = %v and %d deliveries asked for, want the failure and none more", err, triggered)
			}
		})
	}
}

// A release closes the hours before it: not by a clock that can't be trusted.
func TestReleaseAsksTheClockGuard(t *testing.T) {
	t.Parallel()
	desk := &fakeDesk{}
	door := deskDoor{Desk: desk, trigger: func() {}, guard: guardFunc(func() error { return reporter.ErrClockAhead })}
	for _, kind := range []reporter.LifeChangeKind{reporter.LifeReleased, reporter.LifeFrozen} {
		if _, _, err := door.ChangeLife(t.Context(), reporter.LifeAct{Kind: kind}); !errors.Is(err, reporter.ErrClockAhead) || desk.lives != 0 {
			t.Errorf("%s = %v after %d changes, want ErrClockAhead and none", kind, err, desk.lives)
		}
	}
	if _, _, err := door.ChangeLife(t.Context(), reporter.LifeAct{Kind: reporter.LifeOpened}); err != nil || desk.lives != 1 {
		t.Errorf("opened = %v after %d changes, want one", err, desk.lives)
	}
}
