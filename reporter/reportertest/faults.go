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

// do runs one call. With half set, apply writes half of the rows; a call that writes a single row writes nothing then.
func (b *Books) do(ctx context.Context, op string, apply func(half bool)) error {
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
		apply(true)
		return ErrInjected
	case FaultAfter:
		apply(false)
		return ErrInjected
	case FaultPanic:
		apply(true)
		panic("injected panic in " + op)
	case FaultNone:
		apply(false)
	}
	return nil
}

// part returns the rows, or the first half of them.
func part[T any](rows []T, half bool) []T {
	if half {
		return rows[:len(rows)/2]
	}
	return rows
}
