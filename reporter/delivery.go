package reporter

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/meter"
)

// pass is one delivery pass over the records of one lane.
type pass struct {
	r         *Reporter
	l         *lane
	sum       PassSummary
	isolation int       // calls left for finding bad records
	sick      int       // sick answers in a row
	notBefore time.Time // the next call must wait until then
	skipped   bool      // records were passed over in search of another probe
	others    bool      // due records of another lane were seen
}

// run makes the pass.
func (p *pass) run(ctx context.Context) error {
	counts, err := p.r.flushUnwritten(ctx)
	if err != nil {
		return err
	}
	p.count(counts)
	if at := p.r.throttledUntil(p.l); !at.IsZero() {
		p.stop(StopThrottled, at)
	}
	if err := p.bookings(ctx); err != nil {
		return err
	}
	if p.skipped && p.sum.Calls == 0 && p.sum.Stopped == StopNone {
		// Every record has been the probe once: begin again with the first.
		clear(p.l.suspects.probes)
		p.sum.DueLeft, p.sum.Unsettled, p.sum.OldestDue, p.sum.NewestDue = 0, 0, meter.Window{}, meter.Window{}
		if err := p.bookings(ctx); err != nil {
			return err
		}
	}
	p.countDue(ctx)
	if p.sum.Calls > 0 || p.sum.Stopped != StopNone || p.sum.Shadowed > 0 {
		p.r.log.Info("delivery pass done", "destination", p.l.name, "bookings", p.sum.Windows, "settled", p.sum.Settled,
			"calls", p.sum.Calls, "accepted", p.sum.Accepted, "rejected", p.sum.Rejected, "expired", p.sum.Expired,
			"held", p.sum.Held, "shadowed", p.sum.Shadowed, "due_left", p.sum.DueLeft, "stopped", p.sum.Stopped)
	}
	return nil
}

// bookings goes through the unsettled bookings, oldest window first: what is nearest to its expiry must not wait for others.
func (p *pass) bookings(ctx context.Context) error {
	all, err := p.r.o.Books.UnsettledBookings(ctx)
	if err != nil {
		return fmt.Errorf("read unsettled bookings: %w", err)
	}
	slices.SortStableFunc(all, func(a, b Booking) int { return a.Window.Start.Compare(b.Window.Start) })
	all = p.relevant(all)
	p.sum.Windows = len(all)
	for i, b := range all {
		if p.sum.Stopped == StopNone && ctx.Err() != nil {
			p.stop(StopShutdown, time.Time{})
		}
		if p.sum.Stopped != StopNone {
			p.unfinished(b, b.Records)
			continue
		}
		if err := p.booking(ctx, b); err != nil {
			for _, rest := range all[i:] {
				p.unfinished(rest, rest.Records)
			}
			return fmt.Errorf("booking %d (%s): %w", b.Number, b.Window, err)
		}
	}
	return nil
}

// relevant leaves out, in a pass over shadow records, bookings known to have none.
func (p *pass) relevant(all []Booking) []Booking {
	if p.l.mode != ModeShadow {
		unsettled := make(map[uint64]bool, len(all))
		for _, b := range all {
			if p.r.noShadow[b.Number] {
				unsettled[b.Number] = true
			}
		}
		p.r.noShadow = unsettled // settled ones are forgotten
		return all
	}
	return slices.DeleteFunc(all, func(b Booking) bool { return p.r.noShadow[b.Number] })
}

// stop ends the pass; the reason that came first stays.
func (p *pass) stop(reason StopReason, retryAt time.Time) {
	if p.sum.Stopped == StopNone {
		p.sum.Stopped, p.sum.RetryAt = reason, retryAt
	}
}

// unfinished counts a booking that has records left to send.
func (p *pass) unfinished(b Booking, due uint64) {
	p.sum.Unsettled++
	p.sum.DueLeft += due
	if p.sum.OldestDue.IsZero() || b.Window.Start.Before(p.sum.OldestDue.Start) {
		p.sum.OldestDue = b.Window
	}
	if p.sum.NewestDue.IsZero() || b.Window.Start.After(p.sum.NewestDue.Start) {
		p.sum.NewestDue = b.Window
	}
}

// countDue replaces the estimate of a pass that stopped early by the true number, if the books can tell.
func (p *pass) countDue(ctx context.Context) {
	counter, ok := p.r.o.Books.(DueCounter)
	if !ok || p.l.mode != ModeLive || p.sum.Stopped == StopNone || p.sum.Stopped == StopShutdown {
		return
	}
	n, err := counter.CountDue(ctx)
	if err != nil {
		p.r.log.Warn("count of due records is an estimate", "err", err)
		return
	}
	p.sum.DueLeft = n
}

// booking sends what is due of one booking and settles it when nothing is left.
func (p *pass) booking(ctx context.Context, b Booking) error {
	var left, others uint64
	for after := MeteringSN(""); p.sum.Stopped == StopNone; {
		recs, err := p.r.o.Books.DueRecords(ctx, b, after, p.r.o.PageSize)
		if err != nil {
			return fmt.Errorf("read due records: %w", err)
		}
		if len(recs) == 0 {
			break
		}
		after = recs[len(recs)-1].SN
		mine := p.mine(recs)
		others += uint64(len(recs) - len(mine)) //nolint:gosec // mine is a part of recs
		if err := p.page(ctx, mine); err != nil {
			return err
		}
		for i := range mine {
			if mine[i].Last.State.Due() {
				left++
			}
		}
	}
	p.others = p.others || others > 0
	if p.sum.Stopped != StopNone {
		p.unfinished(b, max(left, b.Records)) // pages behind the stop were not read
		return nil
	}
	p.r.noShadow[b.Number] = p.l.mode == ModeShadow && left == 0 || p.l.mode != ModeShadow && others == 0
	switch {
	case left > 0:
		p.unfinished(b, left)
		return nil
	case others > 0:
		return nil // for the pass over the other lane to settle
	}
	return p.settle(ctx, b)
}

// mine returns the records of this lane. Every mode but shadow is the marketplace's: one that nobody knows is held there (see
// triage) rather than passed over for ever.
func (p *pass) mine(recs []BillRecord) []BillRecord {
	return slices.DeleteFunc(slices.Clone(recs), func(r BillRecord) bool {
		return (r.Mode == ModeShadow) != (p.l.mode == ModeShadow)
	})
}

// settle settles the booking, unless something is due after all: settling what is due would lose it.
func (p *pass) settle(ctx context.Context, b Booking) error {
	recs, err := p.r.o.Books.DueRecords(ctx, b, "", 1)
	if err != nil {
		return fmt.Errorf("read due records: %w", err)
	}
	if len(recs) > 0 {
		p.unfinished(b, 1)
		return nil
	}
	b.SettledAt = p.r.o.Clock.Now().UTC()
	if err := p.r.o.Books.SettleBooking(ctx, b); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	p.sum.Settled++
	p.r.log.Info("booking settled", "booking", b.Number, "kind", b.Kind.String(), "window_start", b.Window.Start, "records", b.Records)
	return nil
}

// page handles one page of due records.
func (p *pass) page(ctx context.Context, recs []BillRecord) error {
	if err := p.recoverSending(ctx, recs); err != nil {
		return err
	}
	if p.l.market == nil {
		return p.shadow(ctx, recs)
	}
	if err := p.triage(ctx, recs); err != nil {
		return err
	}
	return p.send(ctx, recs)
}

// shadow ends the life of shadow records that have nowhere to go.
func (p *pass) shadow(ctx context.Context, recs []BillRecord) error {
	changes := make([]change, len(recs))
	for i := range recs {
		changes[i] = change{rec: &recs[i], state: StateShadowed, message: "mode shadow without a destination"}
	}
	if err := p.r.commit(ctx, changes, false); err != nil {
		return err
	}
	p.sum.Shadowed += len(recs)
	return nil
}

// recoverSending marks records whose call was never concluded: the process ended, or the outcome could not be written.
// No call is under way now, because passes run one at a time.
func (p *pass) recoverSending(ctx context.Context, recs []BillRecord) error {
	var changes []change
	for i := range recs {
		if recs[i].Last.State == StateSending {
			changes = append(changes, change{
				rec: &recs[i], state: StateUnknown, code: recs[i].Last.Code, message: "the call was interrupted; its answer is not known",
			})
		}
	}
	if len(changes) == 0 {
		return nil
	}
	p.r.log.Warn("records found in state sending, they are sent again with the same number", "batch_size", len(changes))
	return p.r.commit(ctx, changes, false)
}

// triage takes the records that can't be sent any more out of the due states.
func (p *pass) triage(ctx context.Context, recs []BillRecord) error {
	limits := p.l.market.Limits()
	now := p.r.o.Clock.Now()
	var changes []change
	var expired, held int
	for i := range recs {
		rec := &recs[i]
		if rec.Mode != p.l.mode {
			changes = append(changes, change{rec: rec, state: StateHeld, message: fmt.Sprintf(
				"its mode (%d, %s) is not one that is delivered; write it off, or release it after mending the books", rec.Mode, rec.Mode)})
			held++
		} else if age := now.Sub(rec.Window.Start); limits.MaxAge > 0 && age > limits.MaxAge+p.r.o.ExpiryMargin {
			changes = append(changes, change{rec: rec, state: StateExpired, message: expiryMessage(*rec, limits.MaxAge)})
			expired++
		} else if err := checkRecord(p.l.market, *rec); err != nil {
			changes = append(changes, change{rec: rec, state: StateHeld, message: err.Error()})
			held++
		}
	}
	if err := p.r.commit(ctx, changes, false); err != nil {
		return err
	}
	p.sum.Expired += expired
	p.sum.Held += held
	return nil
}

// earlierAttempt warns the person who decides about a record that was sent before without an answer: reporting it under a new
// number could bill it twice.
const earlierAttempt = "; an earlier attempt may have arrived, look it up in the marketplace's own books"

// expiryMessage explains why a record was given up.
func expiryMessage(rec BillRecord, maxAge time.Duration) string {
	text := fmt.Sprintf("the marketplace takes nothing that began more than %s ago", maxAge)
	if rec.Last.State == StateUnknown {
		text += earlierAttempt
	}
	return text
}

// segment is a run of records that go out together.
type segment struct {
	recs []BillRecord
	// depth is how often the refused batch it comes from was cut in two; 0 for records not under suspicion.
	depth int
	// half links the two halves of a refused batch; left is set on the first one.
	half *halves
	left bool
	// passed is set when the records were passed over in search of a probe.
	passed bool
}

// halves tells the second half of a refused batch what became of the first.
type halves struct{ firstClean bool }

// send sends the due ones of recs, in order, in batches. It changes the records in place.
func (p *pass) send(ctx context.Context, recs []BillRecord) error {
	stack := dueRuns(recs)
	for len(stack) > 0 && p.sum.Stopped == StopNone {
		seg := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seg.depth > 0 && p.isolation <= 0 {
			continue // stays due, for the next pass
		}
		if seg.half != nil && !seg.left && seg.half.firstClean && len(seg.recs) > 1 {
			// The whole was refused and the first half is clean: the bad record is in here, no need to ask.
			stack = append(stack, seg.split()...)
			continue
		}
		if stack = p.chooseProbe(&seg, stack); len(seg.recs) == 0 {
			continue
		}
		stack = p.cut(&seg, stack)
		class, err := p.call(ctx, seg)
		if err != nil {
			return err
		}
		switch class {
		case ClassAccepted:
			if seg.half != nil { // of interest while the second half waits, which is when this is the first
				seg.half.firstClean = true
			}
		case ClassRecordBad, ClassRecordExpired:
			if len(seg.recs) > 1 && p.isolation > 0 {
				stack = append(stack, seg.split()...)
			}
		case ClassBatchTooLarge:
			if len(seg.recs) > 1 {
				stack = append(stack, segment{recs: seg.recs}) // cut by the lower limit
			}
		case ClassUnavailable, ClassUnknown, ClassMisconfigured:
		}
	}
	return nil
}

// chooseProbe takes records that have been a probe in vain from the beginning of a segment that a probe is to be taken
// from. They get their turn behind all others, if a probe has come through by then; otherwise they stay due.
func (p *pass) chooseProbe(seg *segment, stack []segment) []segment {
	if !p.r.probing(p.l) {
		return stack
	}
	rest := p.l.suspects.untried(seg.recs)
	n := len(seg.recs) - len(rest)
	if n == 0 {
		return stack
	}
	p.skipped = true
	if !seg.passed {
		stack = slices.Insert(stack, 0, segment{recs: seg.recs[:n], depth: seg.depth, passed: true})
	}
	*seg = segment{recs: rest, depth: seg.depth}
	return stack
}

// dueRuns returns the runs of due records, the first on top of the stack.
func dueRuns(recs []BillRecord) []segment {
	var runs []segment
	for end := len(recs); end > 0; {
		if !recs[end-1].Last.State.Due() {
			end--
			continue
		}
		start := end - 1
		for start > 0 && recs[start-1].Last.State.Due() {
			start--
		}
		runs = append(runs, segment{recs: recs[start:end]})
		end = start
	}
	return runs
}

// split cuts a refused segment in two halves, the first on top of the stack.
func (s segment) split() []segment {
	mid := len(s.recs) / 2
	both := &halves{}
	return []segment{
		{recs: s.recs[mid:], depth: s.depth + 1, half: both},
		{recs: s.recs[:mid], depth: s.depth + 1, half: both, left: true},
	}
}

// cut shortens the segment to what one batch may carry now and puts the rest back on the stack.
func (p *pass) cut(seg *segment, stack []segment) []segment {
	n := p.l.suspects.limit(seg.recs, p.l.batch.limit)
	if p.r.probing(p.l) {
		n = 1
	}
	if n >= len(seg.recs) {
		return stack
	}
	stack = append(stack, segment{recs: seg.recs[n:], depth: seg.depth})
	// What becomes of a part says nothing about the other half.
	*seg = segment{recs: seg.recs[:n], depth: seg.depth}
	return stack
}

// call makes one call: state sending durable before it, the outcome durable after it. The class is 0 when no call was made
// because the pass stopped.
func (p *pass) call(ctx context.Context, seg segment) (Class, error) {
	recs := seg.recs
	if err := p.wait(ctx); err != nil {
		p.stop(StopShutdown, time.Time{})
		return 0, nil //nolint:nilerr // an orderly stop
	}
	done, err := p.l.breaker.allow()
	if err != nil {
		p.stop(StopBreaker, p.l.breaker.retryAt())
		return 0, nil //nolint:nilerr // the breaker's refusal is the pass's end, not its failure
	}
	var res Result
	defer func() { done(res.Class, res.said()) }() // whatever happens below, the breaker must not wait for ever for an answer

	origin := make([]State, len(recs))
	changes := make([]change, len(recs))
	batch := make([]UsageRecord, len(recs))
	for i := range recs {
		origin[i] = recs[i].Last.State
		changes[i] = change{rec: &recs[i], state: StateSending}
		batch[i] = recs[i].UsageRecord()
	}
	killpoint.Hit("sending.before")
	if err := p.r.commit(ctx, changes, false); err != nil {
		return 0, err
	}
	killpoint.Hit("sending.written")
	res = p.r.push(ctx, p.l.market, batch)
	p.sum.Calls++
	if seg.depth > 0 {
		p.isolation--
	}
	return res.Class, p.conclude(ctx, recs, origin, res)
}

// wait keeps the distance that sick answers in this pass ask for. Nothing is waited for once the breaker is open.
func (p *pass) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.notBefore.IsZero() || p.l.breaker.state() == BreakerOpen {
		return nil
	}
	return p.r.o.Clock.WaitUntil(ctx, p.notBefore)
}

// push makes the call. It outlives the end of ctx by DrainTimeout at most, and a panic counts as "no usable answer".
func (r *Reporter) push(ctx context.Context, to Marketplace, batch []UsageRecord) (res Result) {
	callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.o.PushTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		drain := time.AfterFunc(r.o.DrainTimeout, cancel)
		context.AfterFunc(callCtx, func() { drain.Stop() })
	})()
	defer func() {
		if v := recover(); v != nil {
			r.log.Error("the marketplace client panicked; the batch counts as sent without answer", "panic", fmt.Sprint(v))
			res = Result{Class: ClassUnknown, Message: "internal error in the marketplace client"}
		}
	}()
	killpoint.Hit("push.before")
	res = to.Push(callCtx, batch)
	killpoint.Hit("push.after")
	if res.Class.String() == "" {
		res.Message = fmt.Sprintf("answer of no known class (%d): %s", res.Class, res.Message)
		res.Class = ClassUnknown
	}
	return res
}

// conclude writes down what the answer means for each record, and draws the consequences for the pass.
func (p *pass) conclude(ctx context.Context, recs []BillRecord, origin []State, res Result) error {
	changes := make([]change, len(recs))
	counts := map[State]int{}
	for i := range recs {
		changes[i] = p.outcome(&recs[i], origin[i], &res, len(recs))
		counts[changes[i].state]++
	}
	p.logCall(ctx, res, len(recs), counts)
	p.r.o.Observer.CallDone(Call{
		Marketplace: p.l.name, Endpoint: res.Endpoint, Class: res.Class, Code: res.Code, Records: len(recs),
		Latency: res.Latency,
	})
	p.r.judge(p.l, res)
	p.learn(recs, res)
	// The outcome is written even when ctx has ended in the meantime.
	writeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.r.o.PushTimeout)
	defer cancel()
	killpoint.Hit("outcome.before")
	if err := p.r.commit(writeCtx, changes, true); err != nil {
		return err
	}
	killpoint.Hit("outcome.written")
	p.count(counts)
	return nil
}

// count adds records that left the due states by a call.
func (p *pass) count(counts map[State]int) {
	p.sum.Accepted += counts[StateAccepted]
	p.sum.Rejected += counts[StateRejected]
	p.sum.Expired += counts[StateExpired]
	p.sum.Shadowed += counts[StateShadowed]
}

// notOurDuplicate explains why a refusal as duplicate is no acceptance.
const notOurDuplicate = "refused as a duplicate, although no earlier attempt of ours can have arrived: something else reported " +
	"this number or this window; look it up in the marketplace's own books before releasing or writing off the record"

// outcome is what the answer means for one record of a batch of the given size.
func (p *pass) outcome(rec *BillRecord, origin State, res *Result, batch int) change {
	ch := change{rec: rec, call: res, code: res.Code, message: res.Message}
	refusal, refused := res.Refused[rec.SN]
	if refused {
		ch.detail = refusal.Raw
	}
	// Back to where it was: a record that may have arrived earlier stays unknown, whatever this call says about itself.
	ch.state = StatePending
	if origin == StateUnknown {
		ch.state = StateUnknown
	}
	switch res.Class {
	case ClassAccepted:
		ch.state = p.l.accepted()
		if refused {
			ch.code, ch.message = refusal.Code, refusal.Message
			switch {
			case !refusal.Duplicate:
				ch.state = StateRejected
			case origin != StateUnknown:
				ch.state, ch.message = StateRejected, joinMessages(notOurDuplicate, refusal.Message)
			default: // the earlier attempt arrived
			}
		}
	case ClassUnknown:
		ch.state = StateUnknown
	case ClassRecordBad, ClassBatchTooLarge:
		if batch == 1 {
			ch.state = StateRejected
		}
	case ClassRecordExpired:
		if batch == 1 {
			ch.state = StateExpired
		}
	case ClassUnavailable, ClassMisconfigured:
	}
	if origin == StateUnknown && (ch.state == StateRejected || ch.state == StateExpired) {
		ch.message += earlierAttempt
	}
	return ch
}

// accepted is the state of a record that the lane's destination took.
func (l *lane) accepted() State {
	if l.mode == ModeShadow {
		return StateShadowed
	}
	return StateAccepted
}

// joinMessages appends what the marketplace said to an explanation of ours.
func joinMessages(ours, theirs string) string {
	if theirs == "" {
		return ours
	}
	return ours + " (" + theirs + ")"
}

// learn draws the consequences of an answer for the calls that follow.
func (p *pass) learn(recs []BillRecord, res Result) {
	now := p.r.o.Clock.Now()
	switch {
	case !res.Class.Sick() && res.Class != ClassMisconfigured:
		clear(p.l.suspects.probes)
	case len(recs) == 1:
		p.l.suspects.probed(recs[0].SN)
	}
	if !res.Class.Sick() {
		p.sick, p.notBefore = 0, time.Time{}
		p.l.suspects.answered(recs)
	}
	switch res.Class {
	case ClassUnavailable, ClassUnknown:
		p.sick++
		p.notBefore = now.Add(p.r.o.Backoff.Delay(p.sick, p.r.o.Random))
		p.l.suspects.failed(recs)
		if res.RetryAfter > 0 {
			until := now.Add(res.RetryAfter)
			p.r.mu.Lock()
			p.l.throttled = throttle{from: now, until: until}
			p.r.mu.Unlock()
			p.stop(StopThrottled, until)
		}
	case ClassMisconfigured:
		p.stop(StopMisconfigured, time.Time{})
	case ClassBatchTooLarge:
		if p.l.batch.tooLarge(len(recs)) {
			p.r.log.Warn("the marketplace takes smaller batches than configured", "destination", p.l.name, "batch_size", p.l.batch.limit)
		}
	case ClassAccepted:
		if p.l.batch.accepted(len(recs)) {
			p.r.log.Info("trying larger batches again", "destination", p.l.name, "batch_size", p.l.batch.limit)
		}
	case ClassRecordBad, ClassRecordExpired:
	}
	known := 0
	for i := range recs {
		if _, ok := res.Refused[recs[i].SN]; ok {
			known++
		}
	}
	if known < len(res.Refused) {
		p.r.log.Warn("the marketplace refused records that were not in the batch", "count", len(res.Refused)-known)
	}
}

// logCall writes the one line per call.
func (p *pass) logCall(ctx context.Context, res Result, records int, counts map[State]int) {
	level := slog.LevelInfo
	if res.Class != ClassAccepted {
		level = slog.LevelWarn
	}
	p.r.log.Log(ctx, level, "batch sent", "destination", p.l.name, "batch_size", records, "class", res.Class.String(), "code", res.Code,
		"reason", res.Message, "status", res.Status, "endpoint", res.Endpoint, "latency", res.Latency,
		"accepted", counts[p.l.accepted()], "rejected", counts[StateRejected], "expired", counts[StateExpired],
		"pending", counts[StatePending], "unknown", counts[StateUnknown])
}
