package reporter

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/meterd/meterd/meter"
)

// closeHour closes one hour. The error is errNothing when the hour after the last closed one is another one.
func (c *Closer) closeHour(ctx context.Context, w meter.Window) (*draft, error) {
	contested := map[string][]SubjectMeter{}
	return c.keeper.book(ctx, Booking{Kind: BookingClose, Window: w}, func(ctx context.Context, d *draft) error {
		last, ok, err := c.o.Books.LastClosed(ctx)
		if err != nil {
			return fmt.Errorf("read last closed window: %w", err)
		}
		if ok && !last.Window.End.Equal(w.Start) {
			return errNothing
		}
		// Before the hour is counted: what is touched afterwards may have been missed, and must stay uncovered.
		touches, err := c.o.Books.Touches(ctx, w)
		if err != nil {
			return fmt.Errorf("read touches: %w", err)
		}
		p, err := c.newPosting(ctx, d, nil, c.earliestPeriod(w).Start, contested)
		if err != nil {
			return err
		}
		p.closed = w.End
		p.findWaiting()
		if err := p.count(ctx, count{scope: Scope{Hour: w}, way: wayRegular, meters: c.o.Meters}); err != nil {
			return err
		}
		if err := p.takeWaiting(ctx, w); err != nil {
			return err
		}
		if err := p.placeAll(ctx); err != nil {
			return err
		}
		p.sweepReleased(w)
		d.cover(w, touches)
		d.Meters = CountedMeters(c.o.Meters)
		if d.Events, err = c.o.Books.CountWindowEvents(ctx, w); err != nil {
			return fmt.Errorf("count events: %w", err)
		}
		return p.finish(ctx)
	})
}

// earliestPeriod is the billing window of the hour that begins first, of all meters.
func (c *Closer) earliestPeriod(hour meter.Window) meter.Window {
	earliest := hour
	for _, m := range c.o.Meters {
		if w := c.terms(m.Slug).Cycle.period(hour, c.o.DayZone); w.Start.Before(earliest.Start) {
			earliest = w
		}
	}
	return earliest
}

// findWaiting finds the accounts whose balance alone can be billed.
func (p *posting) findWaiting() {
	for a, q := range p.balances {
		m, known := p.c.meters[a.Meter]
		if !known || !m.Billed {
			continue
		}
		if billed, _ := p.split(q, m); !billed.IsZero() {
			p.waiting[a] = true
		}
	}
}

// takeWaiting bills the balances of accounts without usage in the hour.
func (p *posting) takeWaiting(ctx context.Context, hour meter.Window) error {
	for _, a := range slices.SortedFunc(maps.Keys(p.waiting), compareAccounts) {
		if err := p.take(ctx, entry{account: a, m: p.c.meters[a.Meter], hour: hour, way: wayRegular}); err != nil {
			return err
		}
	}
	return nil
}

// sweepReleased sweeps the accounts of instances that were released by the end of the hour.
func (p *posting) sweepReleased(hour meter.Window) {
	if len(p.lives) == 0 {
		return
	}
	var left []Account
	for a, q := range p.balances {
		if q.IsZero() {
			continue
		}
		target, mapped := p.c.o.Mapper.Target(a.Subject, a.Meter)
		l := p.lives[target.InstanceID]
		if mapped && !l.Released.IsZero() && !l.Released.After(hour.End) && !p.unfinished[l.InstanceID] {
			left = append(left, a)
		}
	}
	slices.SortFunc(left, compareAccounts)
	for _, a := range left {
		target, _ := p.c.o.Mapper.Target(a.Subject, a.Meter)
		p.sweep(a, hour, p.lives[target.InstanceID])
	}
}

// count says what to count of an hour.
type count struct {
	scope  Scope
	way    way
	meters []meter.Meter
	only   map[Account]bool // nil: every account
}

// count counts an hour and takes the difference to what was booked, account by account.
func (p *posting) count(ctx context.Context, n count) error {
	booked, err := p.c.o.Books.BookedUsage(ctx, n.scope.Hour, n.scope.Subjects)
	if err != nil {
		return fmt.Errorf("read booked usage: %w", err)
	}
	asked := map[string]meter.Meter{}
	for _, m := range n.meters {
		asked[m.Slug] = m
	}
	before := map[Account]HourlyUsage{}
	for _, u := range booked {
		// Usage of a meter that is gone from the configuration stays as it is: nobody can count it.
		if _, known := asked[u.Meter]; known && (n.only == nil || n.only[Account{u.Subject, u.Meter}]) {
			before[Account{u.Subject, u.Meter}] = u
		}
	}
	if len(n.meters) > 0 {
		var last Account
		err = p.c.o.Books.AggregateWindow(ctx, n.scope, n.meters, func(u WindowUsage) error {
			a := Account{u.Subject, u.Meter}
			if _, known := asked[u.Meter]; !known {
				return fmt.Errorf("usage of %q for meter %q, which was not asked for", u.Subject, u.Meter)
			}
			if last != (Account{}) && compareAccounts(last, a) >= 0 {
				return fmt.Errorf("usage of %s came after %s: rows must be unique and ordered", a, last)
			}
			last = a
			if n.only != nil && !n.only[a] {
				return nil
			}
			old, known := before[a]
			delete(before, a)
			return p.counted(ctx, n, asked[u.Meter], u, old, known)
		})
		if err != nil {
			return fmt.Errorf("count %s: %w", n.scope.Hour, err)
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(before), compareAccounts) { // all its events are void
		if err := p.counted(ctx, n, asked[a.Meter], WindowUsage{Subject: a.Subject, Meter: a.Meter}, before[a], true); err != nil {
			return err
		}
	}
	return nil
}

// counted takes the usage of one account as counted now.
func (p *posting) counted(ctx context.Context, n count, m meter.Meter, u WindowUsage, before HourlyUsage, known bool) error {
	a := Account{u.Subject, u.Meter}
	diff, changed := difference(u, before, known)
	if changed {
		p.usage(HourlyUsage{Window: n.scope.Hour, Subject: u.Subject, Meter: u.Meter, Quantity: u.Quantity, Events: u.Events})
	}
	if !m.Billed {
		return p.spill(ctx)
	}
	delete(p.waiting, a)
	if n.way == wayLate && diff.IsZero() && !u.Overflow {
		return nil
	}
	return p.take(ctx, entry{
		account: a, m: m, hour: n.scope.Hour, diff: diff, way: n.way, before: !before.Quantity.IsZero(), overflow: u.Overflow,
	})
}
