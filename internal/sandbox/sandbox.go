package sandbox

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Sandbox is the simulated marketplace: an http.Handler that serves the usage-data API, the page and the
// administration, and the same in process. All methods are safe for concurrent use. Build it with [New].
type Sandbox struct {
	opts       Options
	sellers    []seller
	notSellers map[string]bool
	started    time.Time
	admin      http.Handler

	nonces nonceMemory
	faults faultSet
	calls  callLog

	mu sync.Mutex // guards what follows
	ledger
	state *stateLog
}

var _ http.Handler = (*Sandbox)(nil)

// New builds a sandbox. With Options.StateFile it reads that file first, and Close must be called in the end. It
// reports mistakes in the options, a state file in use, and one that is damaged elsewhere than at its end.
func New(opts Options) (*Sandbox, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	sellers, err := opts.sellers()
	if err != nil {
		return nil, err
	}
	for _, inst := range opts.Instances {
		if err := inst.validate(); err != nil {
			return nil, err
		}
	}
	s := &Sandbox{opts: opts, sellers: sellers, notSellers: map[string]bool{}, started: opts.Now().UTC()}
	for _, name := range opts.NotSellers {
		s.notSellers[name] = true
	}
	s.calls.limit = opts.RequestLog
	for _, f := range opts.Faults {
		if _, err := s.faults.inject(f); err != nil {
			return nil, err
		}
	}
	s.ledger = newLedger(time.Time{}, opts.Instances)
	if opts.StateFile != "" {
		if err := s.openState(); err != nil {
			return nil, err
		}
	}
	if s.processed.IsZero() {
		s.processed = s.started
	}
	if s.admin, err = s.newAdminHandler(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openState reads the state log and starts an empty one with its first line.
func (s *Sandbox) openState() error {
	log, err := openStateLog(s.opts.StateFile, s.opts.SyncState, s.opts.Logger, s.apply)
	if err != nil {
		return err
	}
	s.state = log
	if s.processed.IsZero() {
		if err := log.append(event{Kind: eventOpen, At: s.started, Version: stateVersion}); err != nil {
			return errors.Join(err, log.close())
		}
	}
	s.opts.Logger.Info("state log opened", "path", s.opts.StateFile, "records", len(s.records))
	return nil
}

// Close closes the state log. The sandbox must not be used afterwards.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.state.close()
	s.state = nil
	if s.opts.StateFile != "" && s.broken == nil {
		s.broken = errLogBroken
	}
	return err
}

// clock is the marketplace's time: the injected clock and what advance requests added. The caller holds mu.
func (s *Sandbox) clock() time.Time { return s.opts.Now().UTC().Add(s.offset) }

// Now is the marketplace's time.
func (s *Sandbox) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clock()
}

// Advance brings validation and collection up to the clock. Every request does so as well; it is for callers who
// want to read Records after the clock moved. The error is a failed state log.
func (s *Sandbox) Advance() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.advance(s.clock())
}

// AdvanceBy moves the marketplace's clock forward and brings validation and collection up to it. Timestamps of calls
// are still compared with the clock that was not moved, so that clients need not move theirs.
func (s *Sandbox) AdvanceBy(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("advance: the clock cannot go back (got %s)", d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.advance(s.clock()); err != nil {
		return err
	}
	if d > 0 {
		s.offset += d
		if err := s.write(event{Kind: eventClock, At: s.clock(), Offset: Duration(s.offset)}); err != nil {
			return err
		}
	}
	return s.advance(s.clock())
}

// Validate runs the background validation now on every record that waits for it.
func (s *Sandbox) Validate() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	if err := s.advance(now); err != nil {
		return err
	}
	return s.validateDue(func(*Record) (time.Time, bool) { return now, true })
}

// Records gives a copy of every record in the order of arrival. Call Advance first to see the state as of now.
func (s *Sandbox) Records() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Record, len(s.records))
	for i, r := range s.records {
		out[i] = *r
	}
	return out
}

// Inject adds a fault and returns it with its id.
func (s *Sandbox) Inject(f Fault) (Fault, error) {
	f, err := s.faults.inject(f)
	if err == nil {
		s.opts.Logger.Info("fault injected", "fault", f.ID, "kind", string(f.Kind))
	}
	return f, err
}

// Faults lists the injected faults, those used up included.
func (s *Sandbox) Faults() []Fault { return s.faults.list() }

// RemoveFaults removes the fault with an id, or all of them for "", and returns how many it removed.
func (s *Sandbox) RemoveFaults(id string) int { return s.faults.remove(id) }

// Calls gives the last calls, the latest first.
func (s *Sandbox) Calls() []Call {
	calls, _ := s.calls.list()
	return calls
}

// Declare declares instances, replacing earlier declarations of the same ids. Either all are declared or none.
func (s *Sandbox) Declare(list ...Instance) error {
	for _, inst := range list {
		if err := inst.validate(); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// What arrived before the declaration is judged without it as far as it is due.
	if err := s.advance(s.clock()); err != nil {
		return err
	}
	fresh := 0
	for _, inst := range list {
		if _, ok := s.instances[inst.ID]; !ok {
			fresh++
		}
	}
	if len(s.instances)+fresh > s.opts.MaxRecords {
		return fmt.Errorf("declare instances: the sandbox holds at most %d", s.opts.MaxRecords)
	}
	if err := s.write(event{Kind: eventInstances, At: s.clock(), Instances: list}); err != nil {
		return err
	}
	for _, inst := range list {
		s.instances[inst.ID] = inst
	}
	return nil
}

// Instances lists the declared instances by id.
func (s *Sandbox) Instances() []Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Instance, 0, len(s.instances))
	for _, inst := range s.instances {
		out = append(out, inst)
	}
	slices.SortFunc(out, func(a, b Instance) int { return compareCodeUnits(a.ID, b.ID) })
	return out
}

// Reset forgets everything and returns to the options: records, declarations, faults, calls, nonces, a moved clock and
// the state log.
func (s *Sandbox) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	now := s.opts.Now().UTC()
	if err := s.state.restart(now); err != nil {
		s.broken = fmt.Errorf("%w: %w", errLogBroken, err)
		return s.broken
	}
	s.ledger = newLedger(now, s.opts.Instances)
	s.nonces.forget()
	s.calls.forget()
	s.faults.remove("")
	for _, f := range s.opts.Faults {
		if _, err := s.faults.inject(f); err != nil {
			return err
		}
	}
	s.opts.Logger.Info("sandbox reset")
	return nil
}
