package reporter

import (
	"context"
	"fmt"
	"slices"

	"github.com/meterd/meterd/meter"
)

// maxUnbilled bounds how many adjustments of one hour and destination are looked at for what a correction can take back.
const maxUnbilled = 1_000_000

// unbilled is usage of one account and hour that is held, written off or unbillable.
type unbilled struct {
	into Destination
	of   AdjustmentID   // the adjustment that held it; "" for other destinations
	open meter.Quantity // what is left of it
}

// findUnbilled reads what of the entry's hour was never billed, when a correction downwards can take it back.
func (p *posting) findUnbilled(ctx context.Context, e entry) error {
	if e.diff.Sign() >= 0 || p.unbilled[e.hour] != nil {
		return nil
	}
	found := map[Account][]unbilled{}
	p.unbilled[e.hour] = found
	held, err := p.adjustmentsOf(ctx, e.hour, IntoHeld)
	if err != nil {
		return err
	}
	var ids []AdjustmentID
	for _, a := range held {
		if a.Of == "" {
			ids = append(ids, a.ID)
		}
	}
	for part := range slices.Chunk(ids, placeBatch) {
		open, err := p.c.o.Books.HeldUsage(ctx, part, "", len(part))
		if err != nil {
			return fmt.Errorf("read held usage: %w", err)
		}
		for _, h := range open {
			a := Account{h.Subject, h.Meter}
			found[a] = append(found[a], unbilled{into: IntoHeld, of: h.ID, open: h.Open})
		}
	}
	for _, into := range []Destination{IntoWrittenOff, IntoUnbillable} {
		list, err := p.adjustmentsOf(ctx, e.hour, into)
		if err != nil {
			return err
		}
		sums := map[Account]meter.Quantity{}
		for _, a := range list {
			account := Account{a.Subject, a.Meter}
			sums[account] = sums[account].Add(a.Quantity)
		}
		for account, sum := range sums {
			found[account] = append(found[account], unbilled{into: into, open: sum})
		}
	}
	return nil
}

// adjustmentsOf reads the adjustments of an hour that went to one destination; none when they are too many.
func (p *posting) adjustmentsOf(ctx context.Context, hour meter.Window, into Destination) ([]Adjustment, error) {
	list, err := p.c.o.Books.Adjustments(ctx, AdjustmentFilter{Into: into, Hours: hour, Limit: maxUnbilled})
	if err != nil {
		return nil, fmt.Errorf("read adjustments of %s: %w", hour, err)
	}
	if len(list) == maxUnbilled {
		p.c.log.Warn("too many adjustments of one hour to see what a correction can take back; it becomes a credit instead",
			"window_start", hour.Start, "into", into.String())
		return nil, nil
	}
	return list, nil
}

// takeBack books a correction downwards against what of the hour was never billed: first what is held, then what was written off,
// then what is unbillable. Only the rest of it, which it returns, is a credit: nobody may get back what nobody paid. So what is
// billed of an hour is never more than what was used, and never less because of usage that was not billed.
func (p *posting) takeBack(e entry) (rest meter.Quantity) {
	rest = e.diff
	parts := p.unbilled[e.hour][e.account]
	for i := range parts {
		part := &parts[i]
		if part.open.Sign() <= 0 || rest.IsZero() {
			continue
		}
		back := meter.Quantity{}.Sub(rest)
		if part.open.Cmp(back) < 0 {
			back = part.open
		}
		part.open, rest = part.open.Sub(back), rest.Add(back)
		p.adjust(Adjustment{
			Hour: e.hour, Subject: e.account.Subject, Meter: e.account.Meter, InstanceID: e.slot.target.InstanceID,
			Quantity: meter.Quantity{}.Sub(back), Into: part.into, Of: part.of,
			Reason: "usage was corrected downwards: taken back from what was not billed of the hour",
		}, "back "+string(part.of))
	}
	return rest
}
