package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/meter"
)

var (
	// ErrNotFound is wrapped by errors of [Desk] about something that the books don't hold.
	ErrNotFound = errors.New("not found")
	// ErrNotAllowed is wrapped by errors of [Desk] about an act that the books' rules forbid as things are.
	ErrNotAllowed = errors.New("not allowed")
)

// maxActItems bounds how many things one act is about.
const maxActItems = 1000

// DeskBooks is the part of the ledger that acts of people need.
type DeskBooks interface {
	WindowBooks
	LifeBooks
	AppendAudit(ctx context.Context, entries []AuditEntry) error
	AppendTransitions(ctx context.Context, ts []Transition) error
}

// DeskOptions are what a [Desk] needs. All but Observer are required.
type DeskOptions struct {
	// Closer makes the bookings; its books are those of the desk.
	Closer   *Closer
	Books    DeskBooks
	Logger   *slog.Logger
	Observer Observer // nil: nobody
}

// Desk is where people act on the books: about held usage, about records that delivery can't settle, and about the lives of
// instances. Each act that passes the checks is written to the audit log before anything is done. An act concerns all it names or
// nothing. Repeating an act that was interrupted finishes it. It is safe for concurrent use.
//
// Errors wrap [ErrNotFound], [ErrNotAllowed] or [ErrFuture] when the act itself is at fault.
type Desk struct {
	o   DeskOptions
	c   *Closer
	log *slog.Logger
}

// NewDesk checks the options.
func NewDesk(o DeskOptions) (*Desk, error) {
	if o.Closer == nil || o.Books == nil || o.Logger == nil {
		return nil, errors.New("desk: Closer, Books and Logger are required")
	}
	if o.Observer == nil {
		o.Observer = NopObserver{}
	}
	return &Desk{o: o, c: o.Closer, log: o.Logger.With("component", "desk")}, nil
}

// checkAct checks what every act needs: somebody, a reason, and one to a thousand different things.
func checkAct[T ~string](actor, reason string, ids []T) error {
	if strings.TrimSpace(actor) == "" || strings.TrimSpace(reason) == "" {
		return fmt.Errorf("an act needs an actor and a reason: %w", ErrNotAllowed)
	}
	if len(ids) == 0 || len(ids) > maxActItems {
		return fmt.Errorf("an act is about 1 to %d things (got %d): %w", maxActItems, len(ids), ErrNotAllowed)
	}
	seen := make(map[T]bool, len(ids))
	for _, id := range ids {
		if id == "" || seen[id] {
			return fmt.Errorf("%q is named twice or empty: %w", string(id), ErrNotAllowed)
		}
		seen[id] = true
	}
	return nil
}

// audit writes what is about to be done.
func (k *Desk) audit(ctx context.Context, entries ...AuditEntry) error {
	at := k.c.o.Now().UTC()
	for i := range entries {
		entries[i].At = at
	}
	if err := k.o.Books.AppendAudit(ctx, entries); err != nil {
		return fmt.Errorf("write the audit log (nothing was done): %w", err)
	}
	return nil
}

// auditEach makes one entry for each thing.
func auditEach[T ~string](actor, action, reason string, targets []T, detail string) []AuditEntry {
	entries := make([]AuditEntry, len(targets))
	for i, target := range targets {
		entries[i] = AuditEntry{Actor: actor, Action: action, Target: string(target), Reason: reason, Detail: detail}
	}
	return entries
}

// Decide books held usage into the balance, to be billed with the account's next record, or writes it off. Approved usage
// of an instance that was released goes as a record of its own window if that was idle and is still within the limits, and
// else becomes unbillable.
func (k *Desk) Decide(ctx context.Context, dn Decision) (Booking, error) {
	if err := checkAct(dn.Actor, dn.Reason, dn.IDs); err != nil {
		return Booking{}, err
	}
	held, err := k.held(ctx, dn.IDs)
	if err != nil {
		return Booking{}, err
	}
	action := "write_off"
	if dn.Approve {
		action = "approve"
	}
	entries := auditEach(dn.Actor, action, dn.Reason, dn.IDs, "")
	for i, h := range held {
		entries[i].Detail = fmt.Sprintf("%s %s of %s", h.Open, h.Meter, h.Subject)
	}
	if err := k.audit(ctx, entries...); err != nil {
		return Booking{}, err
	}
	b := Booking{Kind: BookingDecision, Window: meter.HourOf(k.c.o.Now()), Actor: dn.Actor, Reason: dn.Reason}
	contested := map[string][]SubjectMeter{}
	d, err := k.c.keeper.book(ctx, b, func(ctx context.Context, d *draft) error {
		held, err := k.held(ctx, dn.IDs) // again: somebody else may have decided meanwhile
		if err != nil {
			return err
		}
		return k.decide(ctx, d, dn, held, contested)
	})
	if err != nil {
		return Booking{}, fmt.Errorf("decide about held usage: %w", err)
	}
	return d.Booking, nil
}

// held returns the held usage of the IDs in their order.
func (k *Desk) held(ctx context.Context, ids []AdjustmentID) ([]HeldUsage, error) {
	found, err := k.o.Books.HeldUsage(ctx, ids, "", len(ids))
	if err != nil {
		return nil, fmt.Errorf("read held usage: %w", err)
	}
	byID := make(map[AdjustmentID]HeldUsage, len(found))
	for _, h := range found {
		byID[h.ID] = h
	}
	held := make([]HeldUsage, 0, len(ids))
	for _, id := range ids {
		h, ok := byID[id]
		if !ok {
			return nil, fmt.Errorf("held usage %q: it was never held or is decided about already: %w", id, ErrNotFound)
		}
		held = append(held, h)
	}
	return held, nil
}

// decide moves held usage to where the decision says.
func (k *Desk) decide(ctx context.Context, d *draft, dn Decision, held []HeldUsage, contested map[string][]SubjectMeter) error {
	subjects := make([]string, 0, len(held))
	since := d.Window
	for _, h := range held {
		subjects = append(subjects, h.Subject)
		if period := k.c.earliestPeriod(h.Hour); period.Start.Before(since.Start) {
			since = period
		}
	}
	p, err := k.c.newPosting(ctx, d, subjects, since.Start, contested)
	if err != nil {
		return err
	}
	// What was held of one account and hour goes together: a released instance has one record of its own for it.
	approved := map[entryKey]int{}
	var entries []entry
	for _, h := range held {
		out := Adjustment{
			Hour: h.Hour, Subject: h.Subject, Meter: h.Meter, InstanceID: h.InstanceID, Quantity: meter.Quantity{}.Sub(h.Open),
			Into: IntoHeld, Of: h.ID, Reason: dn.Reason,
		}
		d.adjust(out, string(h.ID))
		m, known := k.c.meters[h.Meter]
		if dn.Approve && known && m.Billed {
			e := entry{account: Account{h.Subject, h.Meter}, m: m, hour: h.Hour, diff: h.Open, way: wayDecided, of: h.ID}
			key := entryKey{e.account, h.Hour.Start.Unix()}
			if i, known := approved[key]; known {
				entries[i].diff = entries[i].diff.Add(h.Open)
				continue
			}
			approved[key] = len(entries)
			entries = append(entries, e)
			continue
		}
		if dn.Approve {
			return fmt.Errorf("held usage %q: meter %q is not billed any more; write it off: %w", h.ID, h.Meter, ErrNotAllowed)
		}
		out.Quantity, out.Into = h.Open, IntoWrittenOff
		d.adjust(out, string(h.ID))
	}
	for _, e := range entries {
		if err := p.take(ctx, e); err != nil {
			return err
		}
	}
	return p.finish(ctx)
}

// entryKey is the account and hour of an entry.
type entryKey struct {
	account Account
	hour    int64
}

// ChangeLife notes a change in an instance's life, durably, and bills the instance at once when it is released or frozen;
// booked says whether that was so. Repeating it changes nothing.
func (k *Desk) ChangeLife(ctx context.Context, act LifeAct) (b Booking, booked bool, err error) {
	if err := checkAct(act.Actor, act.Reason, []string{act.InstanceID}); err != nil {
		return b, false, err
	}
	now := k.c.o.Now().UTC()
	if act.Kind.String() == "" || act.At.IsZero() {
		return b, false, fmt.Errorf("what happened to instance %q, and when, is required: %w", act.InstanceID, ErrNotAllowed)
	}
	if act.At.After(now) {
		return b, false, fmt.Errorf("instance %q can't be %s at %s: it is only %s: %w", act.InstanceID, act.Kind,
			act.At.UTC().Format(time.RFC3339), now.Format(time.RFC3339), ErrFuture)
	}
	act.At = act.At.UTC().Truncate(lifeResolution)
	life, err := k.o.Books.LifeOf(ctx, act.InstanceID)
	if err != nil {
		return b, false, fmt.Errorf("read the life of instance %q: %w", act.InstanceID, err)
	}
	known, err := checkChange(life, act)
	if err != nil {
		return b, false, err
	}
	if !known {
		entry := AuditEntry{
			Actor: act.Actor, Action: act.Kind.action(), Target: act.InstanceID, Reason: act.Reason, Detail: "at " + act.At.Format(time.RFC3339),
		}
		if err := k.audit(ctx, entry); err != nil {
			return b, false, err
		}
		change := LifeChange{
			InstanceID: act.InstanceID, Kind: act.Kind, At: act.At, RecordedAt: now, Actor: act.Actor, Reason: act.Reason,
		}
		killpoint.Hit("life.before")
		if err := k.o.Books.AppendLife(ctx, []LifeChange{change}); err != nil {
			return b, false, fmt.Errorf("note that instance %q was %s: %w", act.InstanceID, act.Kind, err)
		}
		killpoint.Hit("life.written")
	}
	if act.Kind != LifeReleased && act.Kind != LifeFrozen {
		return b, false, nil
	}
	b, err = k.c.CloseInstance(ctx, EarlyClose{
		InstanceID: act.InstanceID, At: act.At, Release: act.Kind == LifeReleased, Actor: act.Actor, Reason: act.Reason,
	})
	return b, err == nil, err
}

// action is the change's name in the audit log.
func (k LifeChangeKind) action() string {
	switch k {
	case LifeOpened:
		return "open"
	case LifeFrozen:
		return "freeze"
	case LifeUnfrozen:
		return "unfreeze"
	case LifeReleased:
		return "release"
	}
	return ""
}

// checkChange reports whether the change is known already, and refuses what contradicts the life so far.
func checkChange(life []LifeChange, act LifeAct) (known bool, err error) {
	refuse := func(why LifeChange) error {
		return fmt.Errorf("instance %q can't be %s at %s: it was %s at %s: %w", act.InstanceID, act.Kind,
			act.At.Format(time.RFC3339), why.Kind, why.At.UTC().Format(time.RFC3339), ErrNotAllowed)
	}
	for _, c := range life {
		if c.Kind == act.Kind && c.At.Equal(act.At) {
			return true, nil
		}
	}
	for _, c := range life {
		switch {
		case c.Kind == act.Kind && (c.Kind == LifeReleased || c.Kind == LifeOpened),
			c.Kind == LifeReleased && act.At.After(c.At),
			c.Kind == LifeOpened && act.At.Before(c.At),
			act.Kind == LifeReleased && c.At.After(act.At),
			act.Kind == LifeOpened && c.At.Before(act.At):
			return false, refuse(c)
		}
	}
	return false, nil
}
