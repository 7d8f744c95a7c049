package meter

import "time"

// Window is a half-open interval of time [Start, End) in UTC. Usage windows are whole hours.
type Window struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// HourOf returns the hour window that contains t.
func HourOf(t time.Time) Window {
	start := t.UTC().Truncate(time.Hour)
	return Window{Start: start, End: start.Add(time.Hour)}
}

// Next is the window that begins where w ends and is as long.
func (w Window) Next() Window { return Window{Start: w.End, End: w.End.Add(w.End.Sub(w.Start))} }

// Contains reports whether t lies in [Start, End).
func (w Window) Contains(t time.Time) bool { return !t.Before(w.Start) && t.Before(w.End) }

// IsZero reports whether w is the zero window.
func (w Window) IsZero() bool { return w.Start.IsZero() && w.End.IsZero() }

// String is "2026-01-02T15:00:00Z/2026-01-02T16:00:00Z".
func (w Window) String() string {
	return w.Start.UTC().Format(time.RFC3339) + "/" + w.End.UTC().Format(time.RFC3339)
}
