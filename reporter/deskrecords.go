package reporter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/meterd/meterd/meter"
)

// records returns the records of the numbers in their order.
func (k *Desk) records(ctx context.Context, sns []MeteringSN) ([]BillRecord, error) {
	found, err := k.o.Books.RecordsBySN(ctx, sns)
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	bySN := make(map[MeteringSN]BillRecord, len(found))
	for _, r := range found {
		bySN[r.SN] = r
	}
	records := make([]BillRecord, 0, len(sns))
	var errs []error
	for _, sn := range sns {
		r, ok := bySN[sn]
		if !ok {
			errs = append(errs, fmt.Errorf("record %q: %w", sn, ErrNotFound))
			continue
		}
		records = append(records, r)
	}
	return records, errors.Join(errs...)
}

// move is a person's step of one record to a state.
type move struct {
	rec           BillRecord
	to            State
	code, message string
}

// moveAll makes the steps durable. Delivery may have moved a record at the same time; then the earlier row counts, and the
// error says so.
func (k *Desk) moveAll(ctx context.Context, moves []move, actor string) error {
	if len(moves) == 0 {
		return nil
	}
	at := k.c.o.Now().UTC()
	rows, sns := make([]Transition, len(moves)), make([]MeteringSN, len(moves))
	for i := range moves {
		m := &moves[i]
		row, err := advance(m.rec.Last, change{rec: &m.rec, state: m.to, code: m.code, message: m.message}, at)
		if err != nil {
			return fmt.Errorf("%w: %w", err, ErrNotAllowed)
		}
		row.Actor = actor
		rows[i], sns[i] = row, m.rec.SN
	}
	if err := k.o.Books.AppendTransitions(ctx, rows); err != nil {
		return fmt.Errorf("write %d transitions: %w", len(rows), err)
	}
	now, err := k.records(ctx, sns)
	if err != nil {
		return err
	}
	var errs []error
	counts := map[State]int{}
	for i, r := range now {
		if r.Last.Seq == rows[i].Seq && r.Last.State != rows[i].State {
			errs = append(errs, fmt.Errorf("record %s became %s at the same time: %w", r.SN, r.Last.State, ErrNotAllowed))
			continue
		}
		counts[rows[i].State]++
		k.log.Info("bill record changed by a person", "record_id", r.SN, "state", rows[i].State, "instance_id", r.InstanceID,
			"meter", r.Meter, "window_start", r.Window.Start, "actor", actor, "reason", rows[i].Message)
	}
	for state, n := range counts {
		k.o.Observer.RecordsChanged(state, n)
	}
	return errors.Join(errs...)
}

// MoveRecords puts records that delivery can't settle into another state and returns them as they are then. Records already in
// it are left alone.
func (k *Desk) MoveRecords(ctx context.Context, act RecordAct) ([]BillRecord, error) {
	if err := checkAct(act.Actor, act.Reason, act.SNs); err != nil {
		return nil, err
	}
	action, ok := map[State]string{StatePending: "send", StateWrittenOff: "write_off_record", StateUnbillable: "unbillable"}[act.To]
	if !ok {
		return nil, fmt.Errorf("a person can't make records %s: %w", act.To, ErrNotAllowed)
	}
	records, err := k.records(ctx, act.SNs)
	if err != nil {
		return nil, err
	}
	again, err := k.reportedAgain(ctx, records)
	if err != nil {
		return nil, err
	}
	var moves []move
	var errs []error
	for _, r := range records {
		if r.Last.State == act.To {
			continue
		}
		if n, done := again[r.SN]; done {
			errs = append(errs, fmt.Errorf("record %s: it was reported again as %s; repeat the resend to mark it so: %w", r.SN, n.SN, ErrNotAllowed))
			continue
		}
		if err := k.mayMove(r, act.To); err != nil {
			errs = append(errs, err)
			continue
		}
		moves = append(moves, move{rec: r, to: act.To, message: act.Reason})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := k.audit(ctx, auditEach(act.Actor, action, act.Reason, act.SNs, "")...); err != nil {
		return nil, err
	}
	if err := k.moveAll(ctx, moves, act.Actor); err != nil {
		return nil, err
	}
	return k.records(ctx, act.SNs)
}

// mayMove reports why a person may not make the record's state to.
func (k *Desk) mayMove(r BillRecord, to State) error {
	refuse := func(why string) error { return fmt.Errorf("record %s: %s: %w", r.SN, why, ErrNotAllowed) }
	switch {
	case r.Last.State.Due():
		return refuse(fmt.Sprintf("it is %s, delivery works on it", r.Last.State))
	case !r.Last.State.CanBecome(to):
		return refuse(fmt.Sprintf("%s can't become %s", r.Last.State, to))
	case to != StatePending:
		return nil
	case r.Billed.IsZero():
		return refuse("it bills nothing")
	case r.InstanceID == "":
		return refuse("it names no marketplace instance; add a mapping and resend it, or write it off")
	}
	if err := checkRecord(k.c.o.Rules, r); err != nil {
		return refuse(err.Error())
	}
	return nil
}

// Fail notes what the marketplace's own books say about records that it had received: they failed in its background
// validation (KooGallery usage push, section 1.6). Records noted as failed before are left alone.
func (k *Desk) Fail(ctx context.Context, failures []Failure, actor string) error {
	sns := make([]MeteringSN, len(failures))
	for i, f := range failures {
		sns[i] = f.SN
	}
	const reason = "the marketplace's books show it as failed"
	if err := checkAct(actor, reason, sns); err != nil {
		return err
	}
	records, err := k.records(ctx, sns)
	if err != nil {
		return err
	}
	var moves []move
	var entries []AuditEntry
	var errs []error
	for i, r := range records {
		f := failures[i]
		if r.Last.State == StateFailed || r.Last.State == StateReplaced {
			continue
		}
		if r.Last.State == StateUnknown || r.Last.State == StateSending {
			// It may be on its way again in this moment.
			errs = append(errs, fmt.Errorf("record %s: it is %s; wait until delivery knows the marketplace's answer: %w", r.SN, r.Last.State, ErrNotAllowed))
			continue
		}
		if r.Last.State != StateAccepted {
			errs = append(errs, fmt.Errorf("record %s: it is %s; only what was sent can fail: %w", r.SN, r.Last.State, ErrNotAllowed))
			continue
		}
		moves = append(moves, move{rec: r, to: StateFailed, code: f.Code, message: f.Message})
		entries = append(entries, AuditEntry{Actor: actor, Action: "fail", Target: string(r.SN), Reason: reason, Detail: f.Code})
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(moves) == 0 {
		return nil
	}
	if err := k.audit(ctx, entries...); err != nil {
		return err
	}
	return k.moveAll(ctx, moves, actor)
}

// Resend reports records again under new numbers: records that failed or were rejected as the next revision, and held records
// that named no instance with the instance that their subject is mapped to now. The old ones become StateReplaced. When
// all of them were booked before and only the end was missing, it returns the booking that did it.
func (k *Desk) Resend(ctx context.Context, act ResendAct) (Booking, error) {
	if err := checkAct(act.Actor, act.Reason, act.SNs); err != nil {
		return Booking{}, err
	}
	if _, _, err := k.successors(ctx, act.SNs); err != nil {
		return Booking{}, err
	}
	if err := k.audit(ctx, auditEach(act.Actor, "resend", act.Reason, act.SNs, "")...); err != nil {
		return Booking{}, err
	}
	var done []BillRecord
	b := Booking{Kind: BookingResend, Window: meter.HourOf(k.c.o.Now()), Actor: act.Actor, Reason: act.Reason}
	d, err := k.c.keeper.book(ctx, b, func(ctx context.Context, d *draft) (err error) {
		var fresh []BillRecord
		if fresh, done, err = k.successors(ctx, act.SNs); err != nil {
			return err
		}
		if len(fresh) == 0 {
			return errNothing
		}
		for _, r := range fresh {
			state := StatePending
			if r.Mode == ModeDryRun {
				state = StateDryRun
			}
			d.record(r, state, act.Reason)
			if err := d.spill(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, errNothing):
		b, err = k.bookingOf(ctx, done[0])
	case err == nil:
		b = d.Booking
	}
	if err != nil {
		return Booking{}, fmt.Errorf("resend records: %w", err)
	}
	if err := k.replace(ctx, act); err != nil {
		return b, fmt.Errorf("the records were booked again, and the old ones could not be marked (do it again): %w", err)
	}
	return b, nil
}

// replace marks those of the records as replaced that are not yet.
func (k *Desk) replace(ctx context.Context, act ResendAct) error {
	records, err := k.records(ctx, act.SNs)
	if err != nil {
		return err
	}
	var moves []move
	for _, r := range records {
		if r.Last.State != StateReplaced {
			moves = append(moves, move{rec: r, to: StateReplaced, message: act.Reason})
		}
	}
	return k.moveAll(ctx, moves, act.Actor)
}

// successors returns the records that would replace those of the numbers: fresh ones to be booked, and ones that are booked
// already.
func (k *Desk) successors(ctx context.Context, sns []MeteringSN) (fresh, booked []BillRecord, err error) {
	records, err := k.records(ctx, sns)
	if err != nil {
		return nil, nil, err
	}
	again, err := k.reportedAgain(ctx, records)
	if err != nil {
		return nil, nil, err
	}
	next := make([]BillRecord, 0, len(records))
	var errs []error
	for _, r := range records {
		if n, done := again[r.SN]; done {
			booked = append(booked, n)
			continue
		}
		n, err := k.successor(r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		next = append(next, n)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	numbers := make([]MeteringSN, len(next))
	for i, n := range next {
		numbers[i] = n.SN
	}
	found, err := k.o.Books.RecordsBySN(ctx, numbers)
	if err != nil {
		return nil, nil, fmt.Errorf("read records: %w", err)
	}
	for _, n := range next {
		same := func(r BillRecord) bool { return r.SN == n.SN }
		if slices.ContainsFunc(fresh, same) || slices.ContainsFunc(found, same) {
			errs = append(errs, fmt.Errorf("record %s: instance %q has another record for %s; the marketplace takes one: %w",
				n.Replaces, n.InstanceID, n.Window, ErrNotAllowed))
			continue
		}
		fresh = append(fresh, n)
	}
	return fresh, booked, errors.Join(errs...)
}

// reportedAgain returns the records that replace some of the given ones, by the number of the replaced one. Of a record that
// named no instance it doesn't matter what its subject is mapped to now: it was given one once and for all.
func (k *Desk) reportedAgain(ctx context.Context, records []BillRecord) (map[MeteringSN]BillRecord, error) {
	again := map[MeteringSN]BillRecord{}
	note := func(found []BillRecord, replaced MeteringSN) {
		for _, n := range found {
			if n.Replaces != "" && (replaced == "" || n.Replaces == replaced) {
				again[n.Replaces] = n
			}
		}
	}
	var revisions []MeteringSN
	for _, r := range records {
		switch s := r.Last.State; {
		case s != StateFailed && s != StateRejected && s != StateHeld && s != StateReplaced:
		case r.InstanceID != "":
			next := r
			next.Revision++
			revisions = append(revisions, next.Identity().SN())
		default:
			found, err := k.c.o.Books.Records(ctx, RecordFilter{
				Subject: r.Subject, Meter: r.Meter, From: r.Window.Start, To: r.Window.Start.Add(lifeResolution), Limit: placeBatch,
			})
			if err != nil {
				return nil, fmt.Errorf("look for records that replace %s: %w", r.SN, err)
			}
			note(found, r.SN)
		}
	}
	found, err := k.o.Books.RecordsBySN(ctx, revisions)
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	note(found, "")
	return again, nil
}

// successor returns the record that replaces r.
func (k *Desk) successor(r BillRecord) (BillRecord, error) {
	n := r
	n.Replaces, n.Last = r.SN, Transition{}
	switch s := r.Last.State; {
	case r.InstanceID == "" && !r.Billed.IsZero() && (s == StateHeld || s == StateReplaced):
		target, mapped := k.c.o.Mapper.Target(r.Subject, r.Meter)
		if !mapped {
			return n, fmt.Errorf("record %s: subject %q still has no marketplace instance for meter %q: %w",
				r.SN, r.Subject, r.Meter, ErrNotAllowed)
		}
		n.InstanceID, n.ProductID = target.InstanceID, target.ProductID
	case r.InstanceID != "" && (s == StateFailed || s == StateRejected || s == StateReplaced):
		n.Revision++
	default:
		return n, fmt.Errorf("record %s: it is %s; only failed and rejected records, and held ones without an instance, "+
			"can be reported again: %w", r.SN, s, ErrNotAllowed)
	}
	n.SN = n.Identity().SN()
	if err := checkRecord(k.c.o.Rules, n); err != nil {
		return n, fmt.Errorf("record %s: %w: %w", r.SN, err, ErrNotAllowed)
	}
	return n, nil
}

// bookingOf finds the booking of a record, if the books can tell.
func (k *Desk) bookingOf(ctx context.Context, r BillRecord) (Booking, error) {
	b := Booking{Kind: BookingResend, Version: r.Version, Window: r.Booked}
	books, ok := k.o.Books.(interface {
		BookingByVersion(ctx context.Context, version uint64) (Booking, bool, error)
	})
	if !ok {
		return b, nil
	}
	found, ok, err := books.BookingByVersion(ctx, r.Version)
	if err != nil {
		return b, fmt.Errorf("read booking: %w", err)
	}
	if ok {
		b = found
	}
	return b, nil
}
