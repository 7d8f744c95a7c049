package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// errLogBroken is returned once the state log could not be written: what is on disk and what is in memory may differ.
var errLogBroken = errors.New("the state log failed; restart the sandbox")

// ledger is everything that the sandbox remembers about records. It is guarded by Sandbox.mu.
type ledger struct {
	records  []*Record // by Seq, from 1
	received []*Record // not validated yet
	// oldest is no later than any arrival on the received list; it spares looking through a list on which nothing is due.
	oldest    time.Time
	valid     []*Record // not collected yet
	instances map[string]Instance
	// snOwner is the first record with a unique id, in whatever state it is.
	snOwner map[snKey]int64
	// windowOwner is the record that counts for a window.
	windowOwner map[windowKey]int64
	// names holds one copy of every instance id.
	names map[string]string
	// offset is how far advance requests moved the clock.
	offset time.Duration
	// processed is the time up to which validation and collection have been done.
	processed time.Time
	// broken is set once the state log failed.
	broken error
}

// newLedger is an empty ledger that starts at a time.
func newLedger(at time.Time, declared []Instance) ledger {
	l := ledger{
		instances:   map[string]Instance{},
		snOwner:     map[snKey]int64{},
		windowOwner: map[windowKey]int64{},
		names:       map[string]string{},
		processed:   at,
	}
	for _, inst := range declared {
		l.instances[inst.ID] = inst
	}
	return l
}

// upload is an accepted call.
type upload struct {
	api      API
	seller   string
	form     SignatureForm
	nonce    string
	ts       time.Time
	records  []usage
	abnormal map[int]string // codes that the answer itself gives, by index
}

// event is the upload's line in the state log.
func (u upload) event(first int64, at time.Time) event {
	ev := event{Kind: eventUpload, At: at, First: first, Seller: u.seller, API: u.api, Form: u.form, Usage: u.records}
	if u.nonce != "" {
		ev.Nonce, ev.TS = u.nonce, u.ts.UnixMilli()
	}
	for _, i := range slices.Sorted(maps.Keys(u.abnormal)) {
		if ev.Abnormal == nil {
			ev.Abnormal = map[string][]seqRange{}
		}
		ev.Abnormal[u.abnormal[i]] = addSeq(ev.Abnormal[u.abnormal[i]], first+int64(i))
	}
	return ev
}

// store adds an upload's records.
func (l *ledger) store(u upload, at time.Time) {
	for i, sent := range u.records {
		name, ok := l.names[sent.InstanceID]
		if !ok {
			name = sent.InstanceID
			l.names[name] = name
		}
		r := &Record{
			Seq: int64(len(l.records)) + 1, Seller: u.seller,
			MeteringSN: sent.MeteringSN, InstanceID: name, ProductID: sent.ProductID,
			BeginTime: sent.BeginTime, EndTime: sent.EndTime, RecordTime: sent.RecordTime,
			UsageValue: sent.UsageValue, RelatePkgInstance: sent.RelatePkgInstance,
			ReceivedAt: at, State: StateReceived, API: u.api, SignatureForm: u.form,
		}
		l.records = append(l.records, r)
		if r.API == APINew {
			key := snKey{r.Seller, r.MeteringSN}
			if _, taken := l.snOwner[key]; !taken {
				l.snOwner[key] = r.Seq
			}
		}
		if code := u.abnormal[i]; code != "" {
			l.decide(r, code, at)
			continue
		}
		if len(l.received) == 0 || at.Before(l.oldest) {
			l.oldest = at
		}
		l.received = append(l.received, r)
	}
}

// decide ends a record's validation: with a code it is abnormal, without one it is valid and takes its window. The
// caller takes it off the list of received records.
func (l *ledger) decide(r *Record, code string, at time.Time) {
	r.ValidatedAt = at
	r.Code = code
	if code != "" {
		r.State = StateAbnormal
		return
	}
	r.State = StateValid
	l.valid = append(l.valid, r)
	if begin, end, ok := r.window(); ok {
		key := windowKey{r.InstanceID, begin.Unix(), end.Unix()}
		if _, taken := l.windowOwner[key]; !taken {
			l.windowOwner[key] = r.Seq
		}
	}
}

// earliest is the arrival of the oldest record that waits for validation or collection. There must be one.
func (l *ledger) earliest() time.Time {
	var at time.Time
	for _, list := range [][]*Record{l.received, l.valid} {
		for _, r := range list {
			if at.IsZero() || r.ReceivedAt.Before(at) {
				at = r.ReceivedAt
			}
		}
	}
	return at
}

// advance brings validation and collection up to now. It runs the collections that came due in their order, each on
// what had arrived before it, so that the result is the same however long nobody asked.
func (s *Sandbox) advance(now time.Time) error {
	if s.broken != nil {
		return s.broken
	}
	for len(s.received)+len(s.valid) > 0 {
		if s.nextCollection(s.processed).After(now) {
			break
		}
		from := s.processed
		if at := s.earliest(); at.After(from) {
			from = at
		}
		at := s.nextCollection(from)
		if at.After(now) {
			break
		}
		if err := s.collect(at); err != nil {
			return err
		}
		s.processed = at
	}
	if len(s.received) > 0 && !s.oldest.Add(s.opts.ValidationDelay).After(now) {
		err := s.validateDue(func(r *Record) (time.Time, bool) {
			at := r.ReceivedAt.Add(s.opts.ValidationDelay)
			return at, !at.After(now)
		})
		if err != nil {
			return err
		}
	}
	if now.After(s.processed) {
		s.processed = now
	}
	return nil
}

// nextCollection is the first collection strictly after a time.
func (s *Sandbox) nextCollection(t time.Time) time.Time {
	return nextCollection(t, s.opts.Collection, s.opts.Zone)
}

// validateDue validates every received record for which due says so, as of the time that due gives.
func (s *Sandbox) validateDue(due func(*Record) (time.Time, bool)) error {
	var runs []event
	rest := s.received[:0]
	for _, r := range s.received {
		at, ok := due(r)
		if !ok {
			if len(rest) == 0 || r.ReceivedAt.Before(s.oldest) {
				s.oldest = r.ReceivedAt
			}
			rest = append(rest, r)
			continue
		}
		code := s.validate(r, at)
		if code == "" {
			code = s.faults.reject(r)
		}
		s.decide(r, code, at)
		if n := len(runs); n == 0 || !runs[n-1].At.Equal(at) {
			runs = append(runs, event{Kind: eventVerdicts, At: at})
		}
		runs[len(runs)-1].addVerdict(r.Seq, code)
	}
	clear(s.received[len(rest):])
	s.received = rest
	for _, ev := range runs {
		if err := s.write(ev); err != nil {
			return err
		}
		s.opts.Logger.Debug("records validated", "at", ev.At, "abnormal_codes", len(ev.Abnormal))
	}
	return nil
}

// addVerdict notes one record's verdict.
func (ev *event) addVerdict(seq int64, code string) {
	if code == "" {
		ev.Good = addSeq(ev.Good, seq)
		return
	}
	if ev.Abnormal == nil {
		ev.Abnormal = map[string][]seqRange{}
	}
	ev.Abnormal[code] = addSeq(ev.Abnormal[code], seq)
}

// collect takes every valid record that arrived before the collection into its bill, after validating what still waits.
func (s *Sandbox) collect(at time.Time) error {
	err := s.validateDue(func(r *Record) (time.Time, bool) {
		when := r.ReceivedAt.Add(s.opts.ValidationDelay)
		if when.After(at) {
			when = at
		}
		return when, r.ReceivedAt.Before(at)
	})
	if err != nil {
		return err
	}
	ev := event{Kind: eventCollect, At: at}
	rest := s.valid[:0]
	for _, r := range s.valid {
		if !r.ReceivedAt.Before(at) {
			rest = append(rest, r)
			continue
		}
		r.State, r.CollectedAt = StateCollected, at
		ev.Good = addSeq(ev.Good, r.Seq)
	}
	clear(s.valid[len(rest):])
	s.valid = rest
	if len(ev.Good) == 0 {
		return nil
	}
	s.opts.Logger.Info("records collected into a bill", "at", at, "ranges", len(ev.Good))
	return s.write(ev)
}

// write appends to the state log. After a failure the sandbox accepts nothing more: a restart finds the truth on disk.
func (s *Sandbox) write(ev event) error {
	if s.broken != nil {
		return s.broken
	}
	if err := s.state.append(ev); err != nil {
		s.opts.Logger.Error("the state log cannot be written", "err", err)
		s.broken = fmt.Errorf("%w: %w", errLogBroken, err)
		return s.broken
	}
	return nil
}

// apply replays one event of the state log.
func (s *Sandbox) apply(ev event) error {
	if ev.At.After(s.processed) {
		s.processed = ev.At
	}
	switch ev.Kind {
	case eventOpen:
		return nil
	case eventUpload:
		return s.applyUpload(ev)
	case eventVerdicts:
		if err := s.applyVerdicts(ev); err != nil {
			return err
		}
		// oldest stays a lower bound, which is all that it must be.
		s.received = slices.DeleteFunc(s.received, func(r *Record) bool { return r.State != StateReceived })
		return nil
	case eventCollect:
		return s.applyCollect(ev)
	case eventInstances:
		for _, inst := range ev.Instances {
			s.instances[inst.ID] = inst
		}
		return nil
	case eventClock:
		s.offset = time.Duration(ev.Offset)
		return nil
	default:
		return fmt.Errorf("unknown kind %q", ev.Kind)
	}
}

func (s *Sandbox) applyUpload(ev event) error {
	if ev.First != int64(len(s.records))+1 {
		return fmt.Errorf("upload starts at record %d, expected %d", ev.First, len(s.records)+1)
	}
	u := upload{api: ev.API, seller: ev.Seller, form: ev.Form, records: ev.Usage, abnormal: map[int]string{}}
	for code, ranges := range ev.Abnormal {
		err := s.eachSeq(ranges, ev.First+int64(len(ev.Usage))-1, func(seq int64) error {
			u.abnormal[int(seq-ev.First)] = code
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.store(u, ev.At)
	if ev.Nonce != "" {
		ts := time.UnixMilli(ev.TS)
		// A refusal means that the memory is full of nonces just as recent; there is nothing to add.
		_ = s.nonces.take(ev.Seller, ev.Nonce, ts, ts, s.opts.Tolerance)
	}
	return nil
}

func (s *Sandbox) applyVerdicts(ev event) error {
	decide := func(code string) func(int64) error {
		return func(seq int64) error {
			r := s.records[seq-1]
			if r.State != StateReceived {
				return fmt.Errorf("record %d is validated twice", seq)
			}
			s.decide(r, code, ev.At)
			return nil
		}
	}
	last := int64(len(s.records))
	if err := s.eachSeq(ev.Good, last, decide("")); err != nil {
		return err
	}
	for code, ranges := range ev.Abnormal {
		if err := s.eachSeq(ranges, last, decide(code)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sandbox) applyCollect(ev event) error {
	err := s.eachSeq(ev.Good, int64(len(s.records)), func(seq int64) error {
		r := s.records[seq-1]
		if r.State != StateValid {
			return fmt.Errorf("record %d is collected but %s", seq, r.State)
		}
		r.State, r.CollectedAt = StateCollected, ev.At
		return nil
	})
	s.valid = slices.DeleteFunc(s.valid, func(r *Record) bool { return r.State != StateValid })
	return err
}

// eachSeq visits the numbers of the ranges, which must lie in 1 to last.
func (s *Sandbox) eachSeq(ranges []seqRange, last int64, visit func(int64) error) error {
	for _, rg := range ranges {
		if rg[0] < 1 || rg[1] < rg[0] || rg[1] > last {
			return fmt.Errorf("records %d to %d are out of range", rg[0], rg[1])
		}
		for seq := rg[0]; seq <= rg[1]; seq++ {
			if err := visit(seq); err != nil {
				return err
			}
		}
	}
	return nil
}
