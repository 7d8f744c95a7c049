package reporter

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
)

// placeBatch is how many differences are placed at once: the records that may be in their way are read together.
const placeBatch = 1000

// way says how a difference came about, which decides where it may go.
type way uint8

const (
	wayRegular way = iota // the hour is being billed
	wayFinal              // the last of an instance that is being released or frozen: billed now, whatever the cycle
	wayLate               // the hour was billed before
	wayDecided            // a person approved held usage
)

// entry is an amount of one account and hour that has to be put somewhere.
type entry struct {
	account  Account
	m        meter.Meter
	hour     meter.Window
	diff     meter.Quantity // may be zero: then it is about the balance alone
	way      way
	before   bool // usage of this account and hour was booked before
	overflow bool
	of       AdjustmentID // for wayDecided

	slot slot
}

// slot is the billing window of an entry.
type slot struct {
	target Target
	mapped bool
	life   *Life // nil: simply open
	period meter.Window
	// window is the part of the period for which the instance was open; zero when the hour has no such part: then into
	// and why say where its usage goes.
	window meter.Window
	into   Destination
	why    string
	// taken says that an overlapping record of the instance is in the books.
	taken bool
}

// posting is a draft that knows the accounts: it places differences into records, balances and adjustments. Everything
// that makes records goes through it.
type posting struct {
	*draft

	c *Closer
	// closed is the end of the last closed window, this booking's own included.
	closed time.Time
	// final is the moment of a release or freeze: windows are cut there. Zero for other bookings.
	final time.Time

	balances map[Account]meter.Quantity // as they are now
	original map[Account]meter.Quantity // of those that were touched
	waiting  map[Account]bool           // with a balance that can be billed, not yet come by
	lives    map[string]Life
	// unfinished are released instances whose release is not booked yet: what comes late still finds a final record.
	unfinished map[string]bool

	// contested are instances that several accounts of this booking share, known beforehand. claims remembers who was
	// billed to an instance that somebody else could be billed to as well; collisions are instances found to be shared.
	contested, collisions map[string][]SubjectMeter
	claims                map[string]SubjectMeter

	taken map[MeteringSN]bool // numbers that are in the books already, of those looked up
	// unbilled is what of an hour was booked and never billed, of hours that were corrected downwards.
	unbilled map[meter.Window]map[Account][]unbilled
	batch    []entry
}

// newPosting reads the balances of the subjects (nil: all) and the lives of instances since the given time.
func (c *Closer) newPosting(ctx context.Context, d *draft, subjects []string, since time.Time, contested map[string][]SubjectMeter) (*posting, error) {
	p := &posting{
		draft: d, c: c, balances: map[Account]meter.Quantity{}, original: map[Account]meter.Quantity{}, waiting: map[Account]bool{},
		lives: map[string]Life{}, unfinished: map[string]bool{}, contested: contested, collisions: map[string][]SubjectMeter{},
		claims: map[string]SubjectMeter{}, taken: map[MeteringSN]bool{}, unbilled: map[meter.Window]map[Account][]unbilled{},
	}
	last, _, err := c.o.Books.LastClosed(ctx)
	if err != nil {
		return nil, fmt.Errorf("read last closed window: %w", err)
	}
	p.closed = last.Window.End
	balances, err := c.o.Books.Balances(ctx, subjects)
	if err != nil {
		return nil, fmt.Errorf("read balances: %w", err)
	}
	for _, b := range balances {
		p.balances[Account{b.Subject, b.Meter}] = b.Quantity
	}
	end := d.At
	if end.Before(d.Window.End) {
		end = d.Window.End
	}
	lives, err := c.o.Books.Lives(ctx, meter.Window{Start: since, End: end}, c.instancesOf(subjects))
	if err != nil {
		return nil, fmt.Errorf("read lives of instances: %w", err)
	}
	for _, l := range lives {
		p.lives[l.InstanceID] = l
	}
	if c.o.Lives != nil {
		open, err := c.o.Lives.ReleasedWithoutFinal(ctx, unfinishedLimit)
		if err != nil {
			return nil, fmt.Errorf("read releases that are not booked yet: %w", err)
		}
		for _, change := range open {
			if change.Kind == LifeReleased {
				p.unfinished[change.InstanceID] = true
			}
		}
	}
	return p, nil
}

// maxInstances is up to how many instances lives are asked for by name.
const maxInstances = 2000

// instancesOf returns the instances that usage of the subjects is billed to; nil, which means any, for all subjects and for too
// many.
func (c *Closer) instancesOf(subjects []string) []string {
	if subjects == nil {
		return nil
	}
	instances := []string{}
	for _, subject := range subjects {
		for slug := range c.meters {
			if target, mapped := c.o.Mapper.Target(subject, slug); mapped {
				instances = append(instances, target.InstanceID)
			}
		}
		if len(instances) > maxInstances {
			return nil
		}
	}
	slices.Sort(instances)
	return slices.Compact(instances)
}

// take accepts a difference. Call it in any order; the account's balance runs through its entries in that order.
func (p *posting) take(ctx context.Context, e entry) error {
	e.slot = p.slotOf(e)
	p.batch = append(p.batch, e)
	if len(p.batch) >= placeBatch {
		return p.placeAll(ctx)
	}
	return nil
}

// slotOf finds where the entry is billed.
func (p *posting) slotOf(e entry) slot {
	var s slot
	s.target, s.mapped = p.c.o.Mapper.Target(e.account.Subject, e.account.Meter)
	s.period = p.c.terms(e.account.Meter).Cycle.period(e.hour, p.c.o.DayZone)
	hour := e.hour
	s.window = s.period
	if !p.final.IsZero() {
		hour.End, s.window.End = earlier(hour.End, p.final), earlier(s.period.End, p.final)
	}
	life, known := p.lives[s.target.InstanceID]
	if !s.mapped || !known {
		return s
	}
	s.life = &life
	if _, s.into, s.why = life.openPart(hour); s.into != 0 {
		s.window = meter.Window{}
		return s
	}
	s.window, _, _ = life.openPart(s.window)
	return s
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// sns returns the numbers that would be in the way of a record of the entry: those of its window and of the whole period.
func (p *posting) sns(e entry) []MeteringSN {
	id := RecordIdentity{
		Seller: p.c.o.Seller, InstanceID: e.slot.target.InstanceID, Window: e.slot.window,
		Subject: e.account.Subject, Meter: e.account.Meter,
	}
	if e.overflow {
		id.InstanceID = ""
	}
	if id.Window.IsZero() {
		id.Window = e.slot.period
	}
	sns := []MeteringSN{id.SN()}
	if id.Window != e.slot.period {
		id.Window = e.slot.period
		sns = append(sns, id.SN())
	}
	return sns
}

// placeAll places what was taken so far. Where a record may be in the way, the books are asked first.
func (p *posting) placeAll(ctx context.Context) error {
	var sns []MeteringSN
	for _, e := range p.batch {
		if p.mayBeTaken(e) {
			sns = append(sns, p.sns(e)...)
		}
	}
	if len(sns) > 0 {
		records, err := p.c.o.Books.RecordsBySN(ctx, sns)
		if err != nil {
			return fmt.Errorf("read records of the windows: %w", err)
		}
		for _, r := range records {
			p.taken[r.SN] = true
		}
	}
	for i := range p.batch {
		if err := p.findOverlap(ctx, &p.batch[i]); err != nil {
			return err
		}
		if err := p.findUnbilled(ctx, p.batch[i]); err != nil {
			return err
		}
	}
	for _, e := range p.batch {
		p.place(e)
		if err := p.spill(ctx); err != nil {
			return err
		}
	}
	p.batch = p.batch[:0]
	return nil
}

// place puts one difference where it belongs.
func (p *posting) place(e entry) {
	switch {
	case e.overflow:
		if !p.isTaken(e) {
			p.bill(e)
		}
	case e.way == wayLate || e.way == wayDecided:
		p.placeLate(e)
	case e.slot.into != 0:
		p.placeLate(e)
	case e.way == wayRegular && e.hour.End.Before(e.slot.window.End):
		p.addBalance(e.account, e.diff) // daily: the day goes on
	case p.isTaken(e):
		p.placeLate(e)
	case e.way == wayFinal && p.tooOld(e.slot.window):
		p.addBalance(e.account, e.diff)
	default:
		p.bill(e)
	}
}

// mayBeTaken reports whether a record of the entry's window can be in the books already. Of most accounts only the one
// close of the hour makes records, and the books need not be asked.
func (p *posting) mayBeTaken(e entry) bool {
	return e.way != wayRegular || e.before || e.overflow || e.slot.life != nil || !p.final.IsZero()
}

// findOverlap looks for records of the instance that overlap the entry's window without having its number: the life may
// have been told after they were made. The marketplace must never see overlapping windows (section 4.2).
func (p *posting) findOverlap(ctx context.Context, e *entry) error {
	s := &e.slot
	if s.window.IsZero() || !s.mapped || (s.life == nil && p.final.IsZero()) || (e.way == wayRegular && !e.before && p.final.IsZero()) {
		return nil
	}
	records, err := p.c.o.Books.Records(ctx, RecordFilter{InstanceID: s.target.InstanceID, From: s.period.Start, To: s.period.End, Limit: placeBatch})
	if err != nil {
		return fmt.Errorf("read records of instance %q: %w", s.target.InstanceID, err)
	}
	s.taken = slices.ContainsFunc(records, func(r BillRecord) bool {
		return !r.Billed.IsZero() && r.Window.Start.Before(s.window.End) && s.window.Start.Before(r.Window.End)
	})
	return nil
}

// isTaken reports whether a record of the entry's window is in the books already.
func (p *posting) isTaken(e entry) bool {
	return e.slot.taken || p.mayBeTaken(e) && slices.ContainsFunc(p.sns(e), func(sn MeteringSN) bool { return p.taken[sn] })
}

// split divides an amount into what is billed, truncated to the marketplace's decimals, and the rest. A credit bills
// nothing: the marketplace takes neither zero nor negative amounts (KooGallery usage push, section 1.7).
func (p *posting) split(total meter.Quantity, m meter.Meter) (billed, rest meter.Quantity) {
	if total.Sign() <= 0 {
		return meter.Quantity{}, total
	}
	return total.DivTruncate(m.Scale, p.c.o.Rules.Limits().Scale)
}

// bill makes the record of an entry: its difference and the account's balance, truncated, with the rest as the new balance.
// It returns the record's number; "" when it made none, because there is nothing to bill and nothing was used.
func (p *posting) bill(e entry) MeteringSN {
	o := &p.c.o
	carried := p.balances[e.account]
	billed, rest := p.split(e.diff.Add(carried), e.m)
	if e.overflow {
		billed, rest = meter.Quantity{}, carried
	}
	if billed.IsZero() && !e.overflow && (e.way != wayRegular || !p.final.IsZero() || e.diff.IsZero()) {
		p.addBalance(e.account, e.diff)
		return ""
	}
	terms := p.c.terms(e.account.Meter)
	r := BillRecord{
		Seller: o.Seller, Subject: e.account.Subject, Meter: e.account.Meter, Window: e.slot.window, Mode: terms.Mode,
		Usage: e.diff, CarriedIn: carried, CarriedOut: rest, Billed: billed, Scale: e.m.Scale, RecordTime: p.recordTime(e),
		ProductID: e.m.ProductID,
	}
	if r.Window.IsZero() {
		r.Window = e.slot.period
	}
	if e.slot.mapped {
		r.ProductID = e.slot.target.ProductID
	}
	var reason string
	r.InstanceID, reason = p.instanceOf(e)
	r.SN = r.Identity().SN()
	p.setBalance(e.account, rest)
	p.record(r, p.firstState(r, e.overflow, &reason), reason)
	if p.mayBeTaken(e) {
		p.taken[r.SN] = true
	}
	return r.SN
}

// recordTime says when the record was produced. It is no time of writing: whoever makes the same record, and however
// often, sends the same bytes. It is never before the end of the window, nor in the future (section 4.2).
func (p *posting) recordTime(e entry) time.Time {
	if !p.final.IsZero() && p.final.Before(e.hour.End.Add(p.c.o.Grace)) {
		return p.final
	}
	t := e.hour.End.Add(p.c.o.Grace)
	if t.After(p.At) || e.slot.window.End.After(t) {
		return e.slot.window.End
	}
	return t
}

// firstState is the state in which a record begins.
func (p *posting) firstState(r BillRecord, overflow bool, reason *string) State {
	if overflow {
		*reason = "the usage is larger than the store can hold; void the events that are wrong, or bill in a larger unit"
		return StateHeld
	}
	if r.Billed.IsZero() {
		return StateCarried // nothing to send yet, wherever it may go
	}
	if *reason == "" {
		if err := checkRecord(p.c.o.Rules, r); err != nil {
			*reason = err.Error()
		}
	}
	switch {
	case r.Mode == ModeDryRun:
		return StateDryRun
	case *reason != "":
		return StateHeld
	}
	return StatePending
}

// instanceOf returns the instance that the entry's record names; "" with the reason when it can't be given to one.
func (p *posting) instanceOf(e entry) (id, reason string) {
	switch {
	case e.overflow:
		return "", ""
	case !e.slot.mapped:
		return "", fmt.Sprintf("subject %q has no marketplace instance for meter %q; add a mapping, then resend the record",
			e.account.Subject, e.account.Meter)
	}
	id = e.slot.target.InstanceID
	if others := p.claim(id, e.account); others != "" {
		return "", fmt.Sprintf("marketplace instance %q is shared with %s; the marketplace takes one record per instance and hour",
			id, others)
	}
	return id, ""
}

// claim notes that usage of the account is billed to the instance and returns who else has some for it, "" for nobody.
func (p *posting) claim(instance string, account SubjectMeter) (others string) {
	if accounts, shared := p.contested[instance]; shared {
		var names []string
		for _, a := range accounts {
			if a != account {
				names = append(names, fmt.Sprintf("subject %q meter %q", a.Subject, a.Meter))
			}
		}
		return strings.Join(names, ", ")
	}
	if !p.c.o.Mapper.contested(instance) {
		return ""
	}
	first, claimed := p.claims[instance]
	switch {
	case !claimed:
		p.claims[instance] = account
	case first != account:
		p.abandoned = true
		if len(p.collisions[instance]) == 0 {
			p.collisions[instance] = []SubjectMeter{first}
		}
		if !slices.Contains(p.collisions[instance], account) {
			p.collisions[instance] = append(p.collisions[instance], account)
		}
	}
	return ""
}

func (p *posting) addBalance(a Account, q meter.Quantity) {
	if !q.IsZero() {
		p.setBalance(a, p.balances[a].Add(q))
	}
}

func (p *posting) setBalance(a Account, q meter.Quantity) {
	if _, touched := p.original[a]; !touched {
		p.original[a] = p.balances[a]
	}
	p.balances[a] = q
}

// sweep books the rest of a released instance's account as unbillable: no record will ever carry it.
func (p *posting) sweep(a Account, hour meter.Window, l Life) {
	rest := p.balances[a]
	if rest.IsZero() {
		return
	}
	p.setBalance(a, meter.Quantity{})
	p.adjust(Adjustment{
		Hour: hour, Subject: a.Subject, Meter: a.Meter, InstanceID: l.InstanceID, Quantity: rest, Into: IntoUnbillable,
		Reason: fmt.Sprintf("what was left when the instance was released at %s can't be billed any more",
			l.Released.UTC().Format(time.RFC3339)),
	}, "rest")
}

// finish places what is left and writes the balances that changed.
func (p *posting) finish(ctx context.Context) error {
	if err := p.placeAll(ctx); err != nil {
		return err
	}
	if len(p.collisions) > 0 {
		maps.Copy(p.contested, p.collisions)
		return errRepeat
	}
	for _, a := range slices.SortedFunc(maps.Keys(p.original), compareAccounts) {
		if now := p.balances[a]; !now.Equal(p.original[a]) {
			p.balance(Balance{Subject: a.Subject, Meter: a.Meter, Quantity: now})
			if err := p.spill(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkRecord reports why a record with a positive quantity can't be sent.
func checkRecord(rules Rules, r BillRecord) error {
	if limit := rules.Limits().MaxQuantity; !limit.IsZero() && r.Billed.Cmp(limit) > 0 {
		return fmt.Errorf("quantity %s is above the largest the marketplace takes, %s; bill in a larger unit (scale)", r.Billed, limit)
	}
	if err := rules.Check(r.UsageRecord()); err != nil {
		return fmt.Errorf("the marketplace would refuse it: %w", err)
	}
	return nil
}
