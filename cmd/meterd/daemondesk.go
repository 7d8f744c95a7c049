package main

import (
	"context"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/reporter"
)

// deskDoor is the desk as the API has it: what an act leaves to be sent goes out at once and doesn't wait for the schedule, and no
// hour is closed for a release while the clock can't be trusted.
type deskDoor struct {
	httpapi.Desk

	guard   reporter.Guard // nil: the clock is not guarded
	trigger func()         // asks for a delivery
}

// Decide implements [httpapi.Desk].
func (d deskDoor) Decide(ctx context.Context, act reporter.Decision) (reporter.Booking, error) {
	b, err := d.Desk.Decide(ctx, act)
	return b, d.done(err)
}

// MoveRecords implements [httpapi.Desk].
func (d deskDoor) MoveRecords(ctx context.Context, act reporter.RecordAct) ([]reporter.BillRecord, error) {
	records, err := d.Desk.MoveRecords(ctx, act)
	return records, d.done(err)
}

// Resend implements [httpapi.Desk].
func (d deskDoor) Resend(ctx context.Context, act reporter.ResendAct) (reporter.Booking, error) {
	b, err := d.Desk.Resend(ctx, act)
	return b, d.done(err)
}

// ChangeLife implements [httpapi.Desk]. A release or freeze closes the hours before it, so it is refused with an error that wraps
// [reporter.ErrClockAhead] where closing is.
func (d deskDoor) ChangeLife(ctx context.Context, act reporter.LifeAct) (b reporter.Booking, booked bool, err error) {
	if closes := act.Kind == reporter.LifeReleased || act.Kind == reporter.LifeFrozen; closes && d.guard != nil {
		if err := d.guard.Check(ctx); err != nil {
			return b, false, err
		}
	}
	b, booked, err = d.Desk.ChangeLife(ctx, act)
	return b, booked, d.done(err)
}

// done has what the act left sent.
func (d deskDoor) done(err error) error {
	if err == nil {
		d.trigger()
	}
	return err
}
