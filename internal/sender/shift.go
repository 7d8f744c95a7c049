package sender

import (
	"context"
	"errors"
	"io"
	"time"
)

// ShiftBy moves the time of every event by d. Events without a time stay as they are.
func ShiftBy(src Source, d time.Duration) Source {
	return sourceFunc(func() (Event, error) {
		e, err := src.Next()
		if err == nil {
			e.Shift(d)
		}
		return e, err
	})
}

// ShiftFirstTo moves all events by one duration, such that the first event that has a time gets the time to. "First" is the
// order of the input, not of time: differences between events stay exactly as they are, so earlier events that come later
// in the input stay earlier.
func ShiftFirstTo(src Source, to time.Time) Source {
	var shift time.Duration
	found := false
	return sourceFunc(func() (Event, error) {
		e, err := src.Next()
		if err == nil {
			if !found && !e.Time.IsZero() {
				shift, found = to.Sub(e.Time), true
			}
			e.Shift(shift)
		}
		return e, err
	})
}

// LastTime reads a source to its end, or limit events if that isn't 0, and returns the time of the last event that has one:
// what [ShiftBy] needs to move the last event to a given time.
func LastTime(ctx context.Context, src Source, limit int64) (time.Time, error) {
	var last time.Time
	for n := int64(0); limit == 0 || n < limit; n++ {
		if err := ctx.Err(); err != nil {
			return time.Time{}, context.Cause(ctx)
		}
		e, err := src.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return time.Time{}, err
		}
		if !e.Time.IsZero() {
			last = e.Time
		}
	}
	if last.IsZero() {
		return time.Time{}, errors.New("no event has a time")
	}
	return last, nil
}

type sourceFunc func() (Event, error)

// Next implements [Source].
func (f sourceFunc) Next() (Event, error) { return f() }
