package reporter

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// change is one record's step to a state, before it is written.
type change struct {
	rec   *BillRecord
	state State
	// call is the answer that led here, nil for none; code and message explain the state.
	call          *Result
	code, message string
	detail        string // raw text of the marketplace about this record
}

// advance returns the row that takes the record to the state. It is the only place that makes rows for records
// already in the ledger, and so the only place that has to ask the table of transitions.
func advance(last Transition, ch change, at time.Time) (Transition, error) {
	if !last.State.CanBecome(ch.state) {
		return Transition{}, fmt.Errorf("record %s: %s can't become %s", last.SN, last.State, ch.state)
	}
	t := Transition{
		SN: last.SN, Booked: last.Booked, Seq: last.Seq + 1, State: ch.state, At: at, Attempt: last.Attempt,
		Code: ch.code, Message: ch.message, Detail: ch.detail,
	}
	if ch.state == StateSending {
		t.Attempt++
	}
	if ch.call != nil {
		t.Endpoint, t.RequestHash, t.Latency = ch.call.Endpoint, ch.call.RequestHash, ch.call.Latency
	}
	return t, nil
}

// commit makes the changes durable and then visible in the records themselves. On error the records are as before; with
// keep, the rows are remembered and written at the beginning of the next pass.
func (r *Reporter) commit(ctx context.Context, changes []change, keep bool) error {
	if len(changes) == 0 {
		return nil
	}
	at := r.o.Clock.Now().UTC()
	rows := make([]Transition, len(changes))
	for i, ch := range changes {
		row, err := advance(ch.rec.Last, ch, at)
		if err != nil {
			return err
		}
		rows[i] = row
	}
	if keep {
		r.unwritten = rows // until proven otherwise; a panic of the books must not lose them either
	}
	if err := r.o.Books.AppendTransitions(ctx, rows); err != nil {
		return fmt.Errorf("write %d transitions to %s: %w", len(rows), changes[0].state, err)
	}
	r.unwritten = nil
	for i := range changes {
		changes[i].rec.Last = rows[i]
	}
	r.tell(ctx, changes)
	return nil
}

// flushUnwritten writes outcomes that an earlier pass could not write and counts them by state.
func (r *Reporter) flushUnwritten(ctx context.Context) (map[State]int, error) {
	if len(r.unwritten) == 0 {
		return nil, nil
	}
	if err := r.o.Books.AppendTransitions(ctx, r.unwritten); err != nil {
		return nil, fmt.Errorf("write %d outcomes of an earlier pass: %w", len(r.unwritten), err)
	}
	counts := map[State]int{}
	for _, t := range r.unwritten {
		counts[t.State]++
		r.log.Debug("bill record changed", "record_id", t.SN, "state", t.State, "attempt", t.Attempt, "code", t.Code)
	}
	for state, n := range counts {
		r.log.Info("outcomes of an earlier pass written", "state", state, "batch_size", n)
		r.o.Observer.RecordsChanged(state, n)
	}
	r.unwritten = nil
	return counts, nil
}

// stateLevel is how loudly a change to the state is logged for each single record.
func stateLevel(s State) slog.Level {
	switch s {
	case StateExpired:
		return slog.LevelError // revenue is lost
	case StateRejected, StateHeld:
		return slog.LevelWarn // a person must act
	case StatePending, StateSending, StateAccepted, StateConfirmed, StateFailed, StateUnknown, StateWrittenOff,
		StateUnbillable, StateCarried, StateShadowed, StateDryRun, StateReplaced:
		return slog.LevelDebug // a line for the whole batch is written elsewhere
	}
	return slog.LevelDebug
}

// tell logs and counts changes that are durable.
func (r *Reporter) tell(ctx context.Context, changes []change) {
	counts := map[State]int{}
	for _, ch := range changes {
		counts[ch.state]++
		level := stateLevel(ch.state)
		if !r.log.Enabled(ctx, level) {
			continue
		}
		r.log.Log(ctx, level, "bill record changed", "record_id", ch.rec.SN, "state", ch.state, "instance_id", ch.rec.InstanceID,
			"meter", ch.rec.Meter, "window_start", ch.rec.Window.Start, "billed", ch.rec.Billed.String(),
			"attempt", ch.rec.Last.Attempt, "code", ch.code, "reason", ch.message)
	}
	for state, n := range counts {
		r.o.Observer.RecordsChanged(state, n)
	}
}
