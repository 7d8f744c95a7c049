package reporter

import (
	"time"

	"github.com/meterd/meterd/meter"
)

// lifeResolution is the precision of times at the marketplace (KooGallery usage push, section 1.3): edges of records are
// rounded to it, inwards.
const lifeResolution = time.Second

// ceil rounds a time up to the marketplace's precision.
func ceil(t time.Time) time.Time {
	if down := t.Truncate(lifeResolution); down.Before(t) {
		return down.Add(lifeResolution)
	}
	return t
}

// openPart returns the last part of w in which the instance was open (KooGallery usage push, section 4.2: a record begins
// not before the resource was opened and ends not after it was closed). When there is none, into says where usage of w
// goes, and why.
func (l Life) openPart(w meter.Window) (part meter.Window, into Destination, why string) {
	if !l.Opened.IsZero() && !l.Opened.Before(w.End) {
		return part, IntoUnbillable, "the instance was opened only at " + l.Opened.UTC().Format(time.RFC3339)
	}
	if !l.Released.IsZero() && !l.Released.After(w.Start) {
		return part, IntoUnbillable, "the instance was released at " + l.Released.UTC().Format(time.RFC3339)
	}
	start, end := w.Start, w.End
	if l.Opened.After(start) {
		start = ceil(l.Opened)
	}
	if !l.Released.IsZero() && l.Released.Before(end) {
		end = l.Released.Truncate(lifeResolution)
	}
	// Later times first: each may end where another one begins.
	for changed := true; changed; {
		changed = false
		for _, f := range l.Frozen {
			if f.Start.Before(end) && (f.End.IsZero() || !f.End.Before(end)) {
				end, changed = f.Start.Truncate(lifeResolution), true
			}
		}
	}
	for _, f := range l.Frozen {
		if !f.End.IsZero() && f.End.After(start) && f.End.Before(end) {
			start = ceil(f.End)
		}
	}
	if !start.Before(end) {
		return part, IntoHeld, "the instance was frozen"
	}
	return meter.Window{Start: start.UTC(), End: end.UTC()}, 0, ""
}
