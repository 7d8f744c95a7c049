package reporter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meterd/meterd/meter"
)

// unfinishedLimit bounds how many releases and freezes that are not booked yet are looked at together.
const unfinishedLimit = 1000

// CloseInstance bills the usage of one instance up to a moment at once, because it is released or frozen then: it brings
// everything accepted into the books, recounts what arrived late for the instance, closes what is due, and makes the final record,
// whose window ends at the moment (KooGallery usage push, section 4.2). At a release what can't be billed any more becomes
// unbillable. In hours that are closed already the final record carries the balance, if it is still possible.
//
// The moment is cut to whole seconds. The instance's life must say so already (see [Desk.ChangeLife]), or later usage finds
// it open. Repeating it books nothing twice; a release that was booked before is returned as it was.
func (c *Closer) CloseInstance(ctx context.Context, e EarlyClose) (Booking, error) {
	if e.InstanceID == "" || e.At.IsZero() {
		return Booking{}, errors.New("an instance and the moment of its release or freeze are required")
	}
	if now := c.o.Now(); e.At.After(now) {
		return Booking{}, fmt.Errorf("bill instance %q until %s: it is only %s: %w", e.InstanceID,
			e.At.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), ErrFuture)
	}
	e.At = e.At.UTC().Truncate(lifeResolution)
	if b, found, err := c.findRelease(ctx, e); found || err != nil {
		return b, err
	}
	return c.closeInstance(ctx, e)
}

// closeInstance is CloseInstance for a moment that was checked.
func (c *Closer) closeInstance(ctx context.Context, e EarlyClose) (Booking, error) {
	if err := c.flush(ctx); err != nil {
		return Booking{}, err
	}
	accounts := map[Account]bool{}
	var subjects []string
	for _, a := range c.o.Mapper.Claimants(e.InstanceID) {
		accounts[a] = true
		subjects = append(subjects, a.Subject)
	}
	slices.Sort(subjects)
	subjects = slices.Compact(subjects)
	now := c.o.Now()
	next, last, err := c.start(ctx, now)
	if err != nil {
		return Booking{}, err
	}
	if err := c.recountOf(ctx, last, subjects); err != nil {
		return Booking{}, err
	}
	if err := c.closeHours(ctx, next, now, 0, &ClosedSummary{}); err != nil {
		return Booking{}, err
	}
	d, err := c.bookEarly(ctx, e, accounts, subjects)
	if err != nil {
		return Booking{}, fmt.Errorf("bill instance %q until %s: %w", e.InstanceID, e.At.Format(time.RFC3339), err)
	}
	return d.Booking, nil
}

// findRelease looks for an earlier booking of the same release.
func (c *Closer) findRelease(ctx context.Context, e EarlyClose) (b Booking, found bool, err error) {
	if !e.Release {
		return b, false, nil
	}
	hour := meter.HourOf(e.At)
	bookings, err := c.o.Books.Bookings(ctx, hour.Start, hour.End)
	if err != nil {
		return b, false, fmt.Errorf("look for an earlier booking of the release: %w", err)
	}
	for _, b := range bookings {
		if b.Kind == BookingRelease && b.InstanceID == e.InstanceID {
			return b, true, nil
		}
	}
	return b, false, nil
}

// bookEarly books the usage of the accounts in the hours that are not closed, up to the moment, and the final record.
func (c *Closer) bookEarly(ctx context.Context, e EarlyClose, accounts map[Account]bool, subjects []string) (*draft, error) {
	b := Booking{
		Kind: BookingFreeze, Window: meter.HourOf(e.At), InstanceID: e.InstanceID, Actor: e.Actor, Reason: e.Reason,
	}
	if e.Release {
		b.Kind = BookingRelease
	}
	last := meter.HourOf(e.At.Add(-1)) // a moment on the hour ends the hour before
	var meters []meter.Meter
	for _, m := range c.o.Meters {
		if slices.ContainsFunc(slices.Collect(maps.Keys(accounts)), func(a Account) bool { return a.Meter == m.Slug }) {
			meters = append(meters, m)
		}
	}
	contested := map[string][]SubjectMeter{}
	return c.keeper.book(ctx, b, func(ctx context.Context, d *draft) error {
		if len(accounts) == 0 {
			return nil // nothing is billed to it; the booking says that the release was dealt with
		}
		first, err := c.firstOpen(ctx)
		if err != nil {
			return err
		}
		since := last
		if !first.IsZero() && first.Start.Before(since.Start) {
			since = first
		}
		p, err := c.newPosting(ctx, d, subjects, c.earliestPeriod(since).Start, contested)
		if err != nil {
			return err
		}
		p.end(e)
		p.waiting = maps.Clone(accounts)
		for hour := first; !first.IsZero() && !hour.Start.After(last.Start); hour = hour.Next() {
			n := count{scope: Scope{Hour: hour, Subjects: subjects}, way: wayRegular, meters: meters, only: accounts}
			if hour.Start.Equal(last.Start) {
				n.scope.Before, n.way = e.At, wayFinal
				p.waiting = maps.Clone(accounts)
			}
			if err := p.count(ctx, n); err != nil {
				return err
			}
		}
		for _, a := range slices.SortedFunc(maps.Keys(p.waiting), compareAccounts) {
			if err := p.take(ctx, entry{account: a, m: c.meters[a.Meter], hour: last, way: wayFinal}); err != nil {
				return err
			}
		}
		if err := p.placeAll(ctx); err != nil {
			return err
		}
		if e.Release {
			for _, a := range slices.SortedFunc(maps.Keys(accounts), compareAccounts) {
				p.sweep(a, last, p.lives[e.InstanceID])
			}
		}
		return p.finish(ctx)
	})
}

// end makes the posting one of the instance's last usage.
func (p *posting) end(e EarlyClose) {
	p.final = e.At
	delete(p.unfinished, e.InstanceID)
	if e.Release {
		life := p.lives[e.InstanceID]
		life.InstanceID, life.Released = e.InstanceID, e.At
		p.lives[e.InstanceID] = life
	}
}

// CatchUpLives bills the releases and freezes that are known and not booked yet: a process may have ended in between. It
// does nothing without [CloserOptions].Lives and returns how many it booked.
func (c *Closer) CatchUpLives(ctx context.Context) (int, error) {
	if c.o.Lives == nil {
		return 0, nil
	}
	open, err := c.o.Lives.ReleasedWithoutFinal(ctx, unfinishedLimit)
	if err != nil {
		return 0, fmt.Errorf("read releases that are not booked yet: %w", err)
	}
	done := 0
	var errs []error
	for _, change := range open {
		if change.At.After(c.o.Now()) {
			continue // the clock was set back; its time comes
		}
		// Not by an earlier booking of the release: the books say that it did not deal with this change.
		_, err := c.closeInstance(ctx, EarlyClose{
			InstanceID: change.InstanceID, At: change.At.UTC().Truncate(lifeResolution), Release: change.Kind == LifeReleased,
			Actor: change.Actor, Reason: change.Reason,
		})
		if err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		done++
	}
	return done, errors.Join(errs...)
}

// firstOpen returns the first hour that is not closed; zero when nothing was closed and there is no event yet.
func (c *Closer) firstOpen(ctx context.Context) (meter.Window, error) {
	last, ok, err := c.o.Books.LastClosed(ctx)
	if err != nil {
		return meter.Window{}, fmt.Errorf("read last closed window: %w", err)
	}
	if ok {
		return last.Window.Next(), nil
	}
	w, _, err := c.o.Books.FirstEventHour(ctx)
	if err != nil {
		return w, fmt.Errorf("read hour of the first event: %w", err)
	}
	return w, nil
}
