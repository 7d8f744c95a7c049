package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// ErrClockAhead is wrapped by the errors of [ClockGuard.Check]: no hour may be closed by such a clock.
var ErrClockAhead = errors.New("the machine's clock is ahead of what can be trusted")

// Defaults of [ClockGuardOptions].
const (
	defaultClockTolerance = time.Minute
	defaultClockPatience  = 30 * time.Minute
	defaultClockProbe     = 5 * time.Second
	clockProbeInterval    = time.Minute
)

// ClockGuardOptions configure a [ClockGuard]. Now, Monotonic and Logger are required.
type ClockGuardOptions struct {
	// Now is the wall clock that closing goes by.
	Now func() time.Time
	// Monotonic is the time since some fixed moment by a clock that nobody sets. It may stand still while the machine is
	// suspended.
	Monotonic func() time.Duration
	// Marketplace returns how far the wall clock was ahead of the marketplace's (negative: behind) when that was last
	// seen, and when that was by the wall clock; ok is false when it was never seen. Nil: there is no marketplace to ask.
	Marketplace func() (ahead time.Duration, at time.Time, ok bool)
	// Probe makes the marketplace's clock be looked at now, if it can be reached. Nil: it is seen only by the way.
	Probe func(ctx context.Context) error
	// Tolerance is how far ahead the clock may be; 0 means 1 m. Leap seconds, slewing and the age of an answer stay below it.
	Tolerance time.Duration
	// Patience is how long a clock that jumped ahead is distrusted, by Monotonic, while no marketplace's clock can be seen; 0
	// means 30 m. A machine that was suspended looks like a clock that jumped.
	Patience time.Duration
	Logger   *slog.Logger
}

// ClockTrust says on whose word the trusted time stands.
type ClockTrust string

// The grounds for trust.
const (
	// TrustStart: the clock the process was started with; nothing contradicts it.
	TrustStart ClockTrust = "start"
	// TrustMarketplace: the marketplace's clock.
	TrustMarketplace ClockTrust = "marketplace"
	// TrustPerson: somebody said that the clock is right.
	TrustPerson ClockTrust = "person"
	// TrustPatience: the clock jumped, and for [ClockGuardOptions.Patience] nobody could say whether rightly.
	TrustPatience ClockTrust = "patience"
)

// ClockState is what a [ClockGuard] knows.
type ClockState struct {
	// Ahead is how far the wall clock is ahead of the trusted time; negative: behind.
	Ahead time.Duration `json:"ahead"`
	// Refusing says that no hour may be closed, because Ahead is above the tolerance.
	Refusing bool `json:"refusing"`
	// Since is when refusing began, by the wall clock; zero while not refusing.
	Since time.Time `json:"since"`
	// Trust is whose word the trusted time is.
	Trust ClockTrust `json:"trust"`
	// Steps is how often the wall clock jumped by more than the tolerance, forth or back, since the start.
	Steps int `json:"steps"`
}

// ClockGuard keeps hours from being closed before they end because the machine's clock is wrong. It keeps a trusted time
// that runs on with the monotonic clock, and compares the wall clock with it whenever it is asked:
//
//   - Ahead by more than the tolerance: closing is refused. The clock jumped, the machine was suspended, or the
//     marketplace's clock shows another time. It ends when the wall clock comes back, when the marketplace's clock agrees,
//     when a person says that the clock is right ([ClockGuard.Trust]), or, if the marketplace's clock can't be seen at
//     all, after a time limit.
//   - Behind: nothing is refused, since hours end later by such a clock. Coming back to what was trusted before is no
//     jump ahead: those hours were closed already.
//   - Within the tolerance: the trusted time follows, as clocks are slewed.
//
// A clock that is wrong from the start on is found out by the marketplace's clock alone; without one it is believed. An hour
// that was closed too early all the same loses nothing: its later events are late usage. It is safe for concurrent use.
type ClockGuard struct {
	o   ClockGuardOptions
	log *slog.Logger

	mu        sync.Mutex
	trusted   time.Time     // the trusted time when the monotonic clock showed trustedAt
	trustedAt time.Duration // see trusted
	trust     ClockTrust
	looked    time.Duration // monotonic time of the last look
	lead      time.Duration // how far the wall clock was ahead of the trusted time then
	steps     int           // jumps so far
	followed  time.Duration // what the trusted time followed the wall clock by since the marketplace's clock was last seen

	seen     time.Time     // when the marketplace's clock was last seen, by the wall clock
	offset   time.Duration // how far the wall clock was ahead of it
	answered bool          // it was seen since the last jump
	accepted time.Duration // an offset that a person accepted; 0: none
	nextAsk  time.Duration // no probe before this monotonic time

	refusing bool
	since    time.Time     // when refusing began, by the wall clock
	doubtAt  time.Duration // when refusing began or the clock last jumped, by the monotonic clock
}

// NewClockGuard returns a guard that trusts the clock as it is now.
func NewClockGuard(o ClockGuardOptions) (*ClockGuard, error) {
	switch {
	case o.Now == nil || o.Monotonic == nil || o.Logger == nil:
		return nil, errors.New("clock guard: Now, Monotonic and Logger are required")
	case o.Tolerance < 0 || o.Patience < 0:
		return nil, errors.New("clock guard: no option may be negative")
	}
	setDefault(&o.Tolerance, defaultClockTolerance)
	setDefault(&o.Patience, defaultClockPatience)
	g := &ClockGuard{o: o, log: o.Logger.With("component", "clock_guard"), trust: TrustStart}
	g.trusted, g.trustedAt = wall(o.Now()), o.Monotonic()
	g.looked = g.trustedAt
	return g, nil
}

// wall strips the monotonic reading: differences must be those of the wall clock.
func wall(t time.Time) time.Time { return t.Round(0).UTC() }

// Check returns nil when hours may be closed by the wall clock, else an error that wraps [ErrClockAhead]. It may ask the
// marketplace for its time first, which takes some seconds at most.
func (g *ClockGuard) Check(ctx context.Context) error {
	if g.wantsProbe() {
		g.probe(ctx)
	}
	st := g.State()
	if !st.Refusing {
		return nil
	}
	return fmt.Errorf("%w, by %s since %s: no hour is closed until the clock is put right, the marketplace's clock agrees "+
		"with it or a person confirms it", ErrClockAhead, st.Ahead.Round(time.Second), st.Since.Format(time.RFC3339))
}

// wantsProbe reports whether the marketplace's clock would decide something now. It does so once in a while only.
func (g *ClockGuard) wantsProbe() bool {
	if g.o.Probe == nil || g.o.Marketplace == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, mono := g.look()
	settled := g.trust != TrustStart && g.followed.Abs() <= g.o.Tolerance // many small steps make a large one
	if !g.refusing && settled || mono < g.nextAsk {
		return false
	}
	g.nextAsk = mono + clockProbeInterval
	return true
}

func (g *ClockGuard) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, defaultClockProbe)
	defer cancel()
	if err := g.o.Probe(ctx); err != nil {
		g.log.Info("the marketplace's clock can't be seen", "err", err)
	}
}

// State returns what is known now.
func (g *ClockGuard) State() ClockState {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, mono := g.look()
	st := ClockState{Ahead: now.Sub(g.at(mono)), Refusing: g.refusing, Trust: g.trust, Steps: g.steps}
	if g.refusing {
		st.Since = g.since
	}
	return st
}

// Trust makes the wall clock as it is now the trusted time, on a person's word. Should the marketplace's clock differ, that
// difference is accepted as well, until it changes by more than the tolerance.
func (g *ClockGuard) Trust() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now, mono := g.look()
	g.accepted = 0
	if g.answered && g.offset > g.o.Tolerance {
		g.accepted = g.offset
	}
	g.log.Warn("a person confirmed the machine's clock", "now", now, "ahead", now.Sub(g.at(mono)))
	g.set(now, now, mono, TrustPerson)
	g.judge(now, mono)
}

// at is the trusted time when the monotonic clock shows mono.
func (g *ClockGuard) at(mono time.Duration) time.Time { return g.trusted.Add(mono - g.trustedAt) }

// set makes t the trusted time at the moment when the clocks show now and mono.
func (g *ClockGuard) set(t, now time.Time, mono time.Duration, trust ClockTrust) {
	g.trusted, g.trustedAt, g.trust = t, mono, trust
	g.lead = now.Sub(t)
}

// look compares the clocks and draws the conclusions. g.mu is held.
func (g *ClockGuard) look() (now time.Time, mono time.Duration) {
	now, mono = wall(g.o.Now()), g.o.Monotonic()
	jump := now.Sub(g.at(mono)) - g.lead
	if jump.Abs() > g.o.Tolerance {
		g.steps++
		g.doubtAt = mono
		if !g.refusing { // a clock that the marketplace's contradicts does not get any better by jumping
			g.answered = false
		}
		g.log.Warn("the machine's clock jumped, or the machine was suspended", "by", jump.Round(time.Millisecond), "now", now)
	}
	g.consult(now, mono, jump)
	g.lead = now.Sub(g.at(mono))
	g.looked = mono
	if g.lead.Abs() <= g.o.Tolerance {
		g.followed += g.lead
		g.set(now, now, mono, g.trust) // it follows slow changes
	}
	g.judge(now, mono)
	return now, mono
}

// consult takes the marketplace's time over, if it was seen again since the last look and by the clock as it is now.
func (g *ClockGuard) consult(now time.Time, mono, jump time.Duration) {
	if g.o.Marketplace == nil {
		return
	}
	ahead, at, ok := g.o.Marketplace()
	at = wall(at)
	if !ok || at.Equal(g.seen) {
		return
	}
	g.seen = at
	if !g.fresh(now.Sub(at), mono-g.looked, jump) {
		return
	}
	g.offset, g.answered, g.followed = ahead, true, 0
	if g.accepted != 0 && (ahead-g.accepted).Abs() <= g.o.Tolerance {
		return // a person knows of that difference
	}
	g.accepted = 0
	g.set(now.Add(-ahead), now, mono, TrustMarketplace)
}

// fresh reports whether something that the wall clock says is of the given age was seen by the clock as it is now. It was seen
// since the last look, and between the two the monotonic clock measured elapsed and the wall clock jumped.
func (g *ClockGuard) fresh(age, elapsed, jump time.Duration) bool {
	if jump.Abs() > g.o.Tolerance && jump.Abs() <= elapsed+g.o.Tolerance {
		return false // before or after the jump, nobody knows
	}
	return age >= -g.o.Tolerance && age <= elapsed+g.o.Tolerance
}

// judge decides whether to refuse. g.mu is held.
func (g *ClockGuard) judge(now time.Time, mono time.Duration) {
	ahead := now.Sub(g.at(mono))
	if ahead <= g.o.Tolerance {
		if g.refusing {
			g.log.Info("the machine's clock can be trusted again", "trust", string(g.trust))
		}
		g.refusing = false
		return
	}
	if !g.refusing {
		g.refusing, g.since, g.doubtAt = true, now, mono
		g.log.Error("the machine's clock is ahead of what can be trusted; no hour is closed until it is put right, the "+
			"marketplace's clock agrees or a person confirms it", "ahead", ahead.Round(time.Millisecond), "trust", string(g.trust))
	}
	if !g.answered && mono-g.doubtAt >= g.o.Patience {
		g.log.Warn("nobody could say whether the machine's clock is right; it is trusted now", "after", mono-g.doubtAt)
		g.set(now, now, mono, TrustPatience)
		g.refusing = false
	}
}
