package reportertest

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// AppendLife implements [reporter.LifeBooks].
func (b *Books) AppendLife(ctx context.Context, changes []reporter.LifeChange) error {
	return b.do(ctx, "AppendLife", func(half bool) {
		for _, change := range part(changes, half) {
			if change.InstanceID == "" || change.Kind.String() == "" || change.At.IsZero() {
				b.violate("life: a change without instance, kind or time: %+v", change)
				continue
			}
			if !slices.ContainsFunc(b.lives, func(old reporter.LifeChange) bool { return sameChange(old, change) }) {
				b.lives = append(b.lives, change)
			}
		}
	})
}

func sameChange(x, y reporter.LifeChange) bool {
	return x.InstanceID == y.InstanceID && x.Kind == y.Kind && x.At.Equal(y.At)
}

// LifeOf implements [reporter.LifeBooks].
func (b *Books) LifeOf(ctx context.Context, instanceID string) (changes []reporter.LifeChange, err error) {
	err = b.do(ctx, "LifeOf", func(bool) { changes = b.lifeOf(instanceID) })
	return changes, err
}

// lifeOf returns the changes of an instance by time, then kind.
func (b *Books) lifeOf(instanceID string) (changes []reporter.LifeChange) {
	for _, change := range b.lives {
		if change.InstanceID == instanceID {
			changes = append(changes, change)
		}
	}
	slices.SortStableFunc(changes, func(x, y reporter.LifeChange) int {
		return cmp.Or(x.At.Compare(y.At), cmp.Compare(x.Kind, y.Kind))
	})
	return changes
}

// Lives implements [reporter.WindowBooks].
func (b *Books) Lives(ctx context.Context, w meter.Window, instances []string) (lives []reporter.Life, err error) {
	err = b.do(ctx, "Lives", func(bool) {
		var ids []string
		for _, change := range b.lives {
			if instances == nil || slices.Contains(instances, change.InstanceID) {
				ids = append(ids, change.InstanceID)
			}
		}
		slices.Sort(ids)
		for _, id := range slices.Compact(ids) {
			life := lifeFrom(id, b.lifeOf(id))
			frozen := slices.ContainsFunc(life.Frozen, func(f meter.Window) bool {
				return f.Start.Before(w.End) && (f.End.IsZero() || f.End.After(w.Start))
			})
			if frozen || life.Opened.After(w.Start) || !life.Released.IsZero() && life.Released.Before(w.End) {
				lives = append(lives, life)
			}
		}
	})
	return lives, err
}

// lifeFrom makes a life of its changes in order of time: the earliest opening and the earliest release count; a freeze while
// frozen and an unfreeze while not frozen change nothing.
func lifeFrom(id string, changes []reporter.LifeChange) reporter.Life {
	life := reporter.Life{InstanceID: id}
	var since time.Time
	for _, change := range changes {
		switch change.Kind {
		case reporter.LifeOpened:
			if life.Opened.IsZero() {
				life.Opened = change.At
			}
		case reporter.LifeReleased:
			if life.Released.IsZero() {
				life.Released = change.At
			}
		case reporter.LifeFrozen:
			if since.IsZero() {
				since = change.At
			}
		case reporter.LifeUnfrozen:
			if !since.IsZero() && change.At.After(since) {
				life.Frozen = append(life.Frozen, meter.Window{Start: since, End: change.At})
			}
			since = time.Time{}
		}
	}
	if !since.IsZero() {
		life.Frozen = append(life.Frozen, meter.Window{Start: since})
	}
	return life
}

// ReleasedWithoutFinal implements [reporter.LifeBooks].
func (b *Books) ReleasedWithoutFinal(ctx context.Context, limit int) (open []reporter.LifeChange, err error) {
	err = b.do(ctx, "ReleasedWithoutFinal", func(bool) {
		for _, change := range b.lives {
			if change.Kind != reporter.LifeReleased && change.Kind != reporter.LifeFrozen {
				continue
			}
			if !slices.ContainsFunc(b.log, func(c reporter.Booking) bool { return dealsWith(c, change) }) {
				open = append(open, change)
			}
		}
		slices.SortStableFunc(open, func(x, y reporter.LifeChange) int {
			return cmp.Or(x.At.Compare(y.At), cmp.Compare(x.InstanceID, y.InstanceID), cmp.Compare(x.Kind, y.Kind))
		})
		open = open[:min(limit, len(open))]
	})
	return open, err
}

// dealsWith reports whether a booking was made for the change: one of the instance and kind (a release deals with freezes
// too) made when the change was recorded, or later.
func dealsWith(c reporter.Booking, change reporter.LifeChange) bool {
	final := c.Kind == reporter.BookingRelease || c.Kind == reporter.BookingFreeze && change.Kind == reporter.LifeFrozen
	return final && c.InstanceID == change.InstanceID && !c.At.Before(change.RecordedAt)
}

// AppendAudit implements [reporter.AuditBooks].
func (b *Books) AppendAudit(ctx context.Context, entries []reporter.AuditEntry) error {
	return b.do(ctx, "AppendAudit", func(half bool) {
		for _, e := range part(entries, half) {
			if e.At.IsZero() || e.Actor == "" || e.Action == "" {
				b.violate("audit: an entry without time, actor or action: %+v", e)
			}
			b.audit = append(b.audit, e)
		}
	})
}

// Audit implements [reporter.AuditBooks].
func (b *Books) Audit(ctx context.Context, from, to time.Time, limit int) (found []reporter.AuditEntry, err error) {
	err = b.do(ctx, "Audit", func(bool) {
		for _, e := range b.audit {
			if within(e.At, from, to) {
				found = append(found, e)
			}
		}
		slices.SortStableFunc(found, func(x, y reporter.AuditEntry) int { return y.At.Compare(x.At) })
		found = found[:min(limit, len(found))]
	})
	return found, err
}
