package reporter

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
)

// heldSampleSize bounds how many held records of one window are logged one by one above debug level.
const heldSampleSize = 10

// closing is one attempt to close one window.
type closing struct {
	c       *Closer
	w       meter.Window
	version uint64
	at      time.Time

	carried map[SubjectMeter]meter.Quantity // remainders open before the window
	// contested are instances that several subjects or meters with usage in this window share, known beforehand.
	contested map[string][]SubjectMeter
	// claims remembers who was billed to an instance that somebody else could be billed to as well. Other instances
	// are not remembered, so that memory does not grow with their number.
	claims map[string]SubjectMeter
	// collisions are instances found to be shared during this attempt; when there are any, the attempt is abandoned.
	collisions map[string][]SubjectMeter

	usage   []HourlyUsage
	records []BillRecord
	before  SubjectMeter // the row before, to check the order

	usages, billed uint64
	states         map[State]uint64
	heldSample     []BillRecord
}

func newClosing(c *Closer, w meter.Window, version uint64, contested map[string][]SubjectMeter) *closing {
	return &closing{
		c: c, w: w, version: version, at: c.o.Now().UTC(), contested: contested,
		claims: map[string]SubjectMeter{}, collisions: map[string][]SubjectMeter{}, states: map[State]uint64{},
	}
}

// run aggregates the window and writes its usage and records. They count only once the returned close is written.
func (cl *closing) run(ctx context.Context) (Booking, error) {
	books := cl.c.o.Books
	remainders, err := books.Balances(ctx, nil)
	if err != nil {
		return Booking{}, fmt.Errorf("read balances: %w", err)
	}
	cl.carried = make(map[SubjectMeter]meter.Quantity, len(remainders))
	for _, r := range remainders {
		cl.carried[SubjectMeter{r.Subject, r.Meter}] = r.Quantity
	}
	if len(cl.c.o.Meters) > 0 {
		err = books.AggregateWindow(ctx, Scope{Hour: cl.w}, cl.c.o.Meters, func(u WindowUsage) error { return cl.take(ctx, u) })
		if err != nil {
			return Booking{}, fmt.Errorf("aggregate: %w", err)
		}
	}
	if err := cl.write(ctx); err != nil {
		return Booking{}, err
	}
	events, err := books.CountWindowEvents(ctx, cl.w)
	if err != nil {
		return Booking{}, fmt.Errorf("count events: %w", err)
	}
	return Booking{
		Kind: BookingClose, Window: cl.w, Version: cl.version, At: cl.at, Events: events, Usages: cl.usages, Records: cl.billed,
	}, nil
}

// take accepts one row of usage.
func (cl *closing) take(ctx context.Context, u WindowUsage) error {
	m, known := cl.c.meters[u.Meter]
	if !known {
		return fmt.Errorf("usage of %q for meter %q, which was not asked for", u.Subject, u.Meter)
	}
	pair := SubjectMeter{u.Subject, u.Meter}
	if cl.usages > 0 && comparePairs(cl.before, pair) >= 0 {
		return fmt.Errorf("usage of %s came after %s: rows must be unique and ordered", pair, cl.before)
	}
	cl.before = pair
	cl.usages++
	cl.usage = append(cl.usage, HourlyUsage{
		Window: cl.w, Subject: u.Subject, Meter: u.Meter, Quantity: u.Quantity, Events: u.Events, Version: cl.version,
	})
	if m.Billed {
		cl.add(cl.bill(u, m))
	}
	if len(cl.usage) >= cl.c.o.ChunkRows {
		return cl.write(ctx)
	}
	return nil
}

func comparePairs(a, b SubjectMeter) int {
	if c := strings.Compare(a.Subject, b.Subject); c != 0 {
		return c
	}
	return strings.Compare(a.Meter, b.Meter)
}

// add counts a record and queues it for writing.
func (cl *closing) add(r BillRecord) {
	cl.billed++
	cl.states[r.Last.State]++
	if r.Last.State == StateHeld && len(cl.heldSample) < heldSampleSize {
		cl.heldSample = append(cl.heldSample, r)
	}
	cl.records = append(cl.records, r)
}

// write writes what is queued. Once a collision was found nothing of this attempt will count, and nothing more is written.
func (cl *closing) write(ctx context.Context) error {
	defer func() { cl.usage, cl.records = cl.usage[:0], cl.records[:0] }()
	if len(cl.collisions) > 0 {
		return nil
	}
	if err := cl.c.o.Books.WriteRows(ctx, Booking{Window: cl.w, Version: cl.version}, Rows{Usage: cl.usage, Records: cl.records}); err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	if cl.c.log.Enabled(ctx, slog.LevelDebug) {
		for _, r := range cl.records {
			cl.c.log.Debug("bill record written", "record_id", r.SN, "instance_id", r.InstanceID, "subject", r.Subject,
				"meter", r.Meter, "window_start", r.Window.Start, "state", r.Last.State, "billed", r.Billed.String(),
				"reason", r.Last.Message)
		}
	}
	return nil
}

// bill makes the record of one row of usage, with its first transition. It is a pure function of the usage, the carried
// remainder and the configuration: closing again after an interruption gives the same record.
func (cl *closing) bill(u WindowUsage, m meter.Meter) BillRecord {
	o := &cl.c.o
	r := BillRecord{
		Seller: o.Seller, Subject: u.Subject, Meter: u.Meter, Window: cl.w, Booked: cl.w,
		Usage: u.Quantity, CarriedIn: cl.carried[SubjectMeter{u.Subject, u.Meter}], Scale: m.Scale,
		// Not the time of writing: a second reporter, or the same one after an interruption, must produce the same bytes.
		RecordTime: cl.w.End.Add(o.Grace), Version: cl.version,
	}
	r.Billed, r.CarriedOut = r.Usage.Add(r.CarriedIn).DivTruncate(m.Scale, o.Rules.Limits().Scale)
	target, mapped := o.Mapper.Target(u.Subject, u.Meter)
	r.ProductID = m.ProductID
	var reason string
	switch {
	case !mapped:
		reason = fmt.Sprintf("subject %q has no marketplace instance for meter %q; add a mapping, then release the record",
			u.Subject, u.Meter)
	default:
		r.ProductID = target.ProductID
		if others := cl.claim(target.InstanceID, SubjectMeter{u.Subject, u.Meter}); others != "" {
			reason = fmt.Sprintf("marketplace instance %q is shared with %s; the marketplace takes one record per instance and hour",
				target.InstanceID, others)
		} else {
			r.InstanceID = target.InstanceID
		}
	}
	r.SN = r.Identity().SN()
	state := StatePending
	switch {
	case r.Billed.IsZero():
		state = StateCarried // nothing to send yet, wherever it may go
	case reason != "":
		state = StateHeld
	default:
		if err := checkRecord(o.Rules, r); err != nil {
			state, reason = StateHeld, err.Error()
		}
	}
	r.Last = Transition{SN: r.SN, Booked: r.Booked, Seq: 1, State: state, At: cl.at, Message: reason}
	return r
}

// claim notes that the usage of pair is billed to the instance and returns who else has usage for it, "" for nobody.
func (cl *closing) claim(instance string, pair SubjectMeter) (others string) {
	if pairs, shared := cl.contested[instance]; shared {
		var names []string
		for _, p := range pairs {
			if p != pair {
				names = append(names, fmt.Sprintf("subject %q meter %q", p.Subject, p.Meter))
			}
		}
		return strings.Join(names, ", ")
	}
	if !cl.c.o.Mapper.contested(instance) {
		return ""
	}
	first, taken := cl.claims[instance]
	if !taken {
		cl.claims[instance] = pair
		return ""
	}
	if len(cl.collisions[instance]) == 0 {
		cl.collisions[instance] = []SubjectMeter{first}
	}
	cl.collisions[instance] = append(cl.collisions[instance], pair)
	return ""
}

// checkRecord reports why a record with a positive quantity can't be sent.
func checkRecord(rules Rules, r BillRecord) error {
	if r.Billed.Sign() < 0 {
		return fmt.Errorf("quantity %s is negative; the marketplace takes no credits", r.Billed)
	}
	if limit := rules.Limits().MaxQuantity; !limit.IsZero() && r.Billed.Cmp(limit) > 0 {
		return fmt.Errorf("quantity %s is above the largest the marketplace takes, %s; bill in a larger unit (scale)", r.Billed, limit)
	}
	if err := rules.Check(r.UsageRecord()); err != nil {
		return fmt.Errorf("the marketplace would refuse it: %w", err)
	}
	return nil
}
