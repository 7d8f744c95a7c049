package reporter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/meterd/meterd/meter"
)

// recountLimit bounds how many hours one call recounts.
const recountLimit = 100

// recountStale counts closed hours again for which something arrived, oldest first.
func (c *Closer) recountStale(ctx context.Context, last meter.Window, sum *ClosedSummary) error {
	stale, err := c.stale(ctx, last)
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range stale {
		d, err := c.recount(ctx, h)
		if err != nil {
			if ctx.Err() != nil {
				return errors.Join(append(errs, err)...)
			}
			errs = append(errs, err)
			continue
		}
		sum.add(d)
	}
	return errors.Join(errs...)
}

// stale returns hours up to the last closed one that have to be counted again; none before the first close.
func (c *Closer) stale(ctx context.Context, last meter.Window) ([]StaleHour, error) {
	if last.IsZero() {
		return nil, nil
	}
	stale, err := c.o.Books.StaleHours(ctx, last.End, recountLimit)
	if err != nil {
		return nil, fmt.Errorf("read hours to be counted again: %w", err)
	}
	return stale, nil
}

// recount books the differences of one hour and covers its touches, also when nothing differs.
func (c *Closer) recount(ctx context.Context, h StaleHour) (*draft, error) {
	contested := map[string][]SubjectMeter{}
	d, err := c.keeper.book(ctx, Booking{Kind: BookingRecount, Window: h.Hour}, func(ctx context.Context, d *draft) error {
		p, err := c.newPosting(ctx, d, h.Subjects, c.earliestPeriod(h.Hour).Start, contested)
		if err != nil {
			return err
		}
		meters, err := c.metersOf(ctx, h.Hour)
		if err != nil {
			return err
		}
		n := count{scope: Scope{Hour: h.Hour, Subjects: h.Subjects}, way: wayLate, meters: meters}
		if err := p.count(ctx, n); err != nil {
			return err
		}
		d.cover(h.Hour, h.Touches)
		return p.finish(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("recount window %s: %w", h.Hour, err)
	}
	return d, nil
}

// metersOf returns the meters with which a closed hour may be counted again: those that its close counted, unless they were
// changed since, and billed only if they were then. An hour before the first close was never counted, so all of them may.
func (c *Closer) metersOf(ctx context.Context, hour meter.Window) ([]meter.Meter, error) {
	bookings, err := c.o.Books.Bookings(ctx, hour.Start, hour.End)
	if err != nil {
		return nil, fmt.Errorf("read the close of %s: %w", hour, err)
	}
	for _, b := range bookings {
		if b.Kind != BookingClose {
			continue
		}
		var meters []meter.Meter
		for _, m := range c.o.Meters {
			if b.Counted(m) {
				// What was free when the hour was closed stays free: neither is late usage billed, nor is a void a credit.
				m.Billed = m.Billed && b.billed(m.Slug)
				meters = append(meters, m)
			} else if m.Billed {
				c.log.Warn("late usage of an hour that was closed before this meter was declared or changed is not billed",
					"meter", m.Slug, "window_start", hour.Start)
			}
		}
		return meters, nil
	}
	return c.o.Meters, nil
}

// recountOf recounts the stale hours that concern one of the subjects.
func (c *Closer) recountOf(ctx context.Context, last meter.Window, subjects []string) error {
	for done := map[meter.Window]bool{}; ; {
		stale, err := c.stale(ctx, last)
		if err != nil {
			return err
		}
		again := false
		for _, h := range stale {
			concerned := h.Subjects == nil || slices.ContainsFunc(subjects, func(s string) bool { return slices.Contains(h.Subjects, s) })
			// When there are more than one look shows, those in front must go to see the others.
			if done[h.Hour] || (!concerned && len(stale) < recountLimit) {
				continue
			}
			done[h.Hour], again = true, true
			if _, err := c.recount(ctx, h); err != nil {
				return err
			}
		}
		if !again || len(stale) < recountLimit {
			return nil
		}
	}
}
