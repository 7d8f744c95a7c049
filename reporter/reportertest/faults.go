package reportertest

import (
	"context"
	"errors"
)

// ErrInjected is the error of a call that was made to fail.
var ErrInjected = errors.New("injected fault")

// Fault says how one call of the books goes wrong. The zero value means that it does not.
type Fault uint8

// The faults.
const (
	// FaultNone: the call succeeds.
	FaultNone Fault = iota
	// FaultBefore: the call fails and nothing was done.
	FaultBefore
	// FaultHalf: the call fails after half of the rows were written.
	FaultHalf
	// FaultAfter: the call fails although all was done.
	FaultAfter
	// FaultPanic: the call panics after half of the rows were written, as if the process had died there.
	FaultPanic
)

// Faults decides about each call: its name and its number since the books were made, from 1. It is called with the
// books locked.
type Faults func(op string, call int) Fault

// SetFaults installs the decision; nil means that nothing fails.
func (b *Books) SetFaults(f Faults) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = f
}

// do runs one call: apply gets the number of rows it may write.
func (b *Books) do(ctx context.Context, op string, rows int, apply func(n int)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	fault := FaultNone
	if b.faults != nil {
		fault = b.faults(op, b.calls)
	}
	switch fault {
	case FaultBefore:
		return ErrInjected
	case FaultHalf:
		apply(rows / 2)
		return ErrInjected
	case FaultAfter:
		apply(rows)
		return ErrInjected
	case FaultPanic:
		apply(rows / 2)
		panic("injected panic in " + op)
	case FaultNone:
		apply(rows)
	}
	return nil
}
