package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/meterd/meterd/meter"
)

// Defaults of [VerifierOptions].
const (
	defaultVerifyInterval = time.Hour
	defaultVerifyHours    = 3
	// loggedDifferences bounds how many differences of one run are logged one by one.
	loggedDifferences = 10
)

// VerifierOptions are what a [Verifier] needs. Books, Clock and Logger are required.
type VerifierOptions struct {
	Books  VerifySource
	Meters []meter.Meter
	// Interval is the time between the beginnings of two runs; 0 means an hour. It is longer when runs take more than a tenth
	// of it. Runs half an hour or more apart don't begin in the first 20 minutes of an hour.
	Interval time.Duration
	// Hours is how many of the last closed hours each run counts again; 0 means 3, negative none.
	Hours  int
	Intake func(ctx context.Context) (Intake, error) // nil: not compared
	// Mine says whether this process is the one to verify, so that of several daemons one does; nil: always.
	Mine   func() bool
	Clock  Clock
	Logger *slog.Logger
	// Done is told of each run, for metrics; nil for nobody. It is called synchronously.
	Done func(VerifyRun)
}

// VerifyRun is the result of one run of a [Verifier].
type VerifyRun struct {
	At     time.Time     `json:"at"` // when it began
	Took   time.Duration `json:"took"`
	Report Report        `json:"report"`
	// Err says why the run could not finish, "" if it did. Then the report is incomplete and says nothing.
	Err string `json:"err,omitempty"`
}

// OK says that the run finished and found no difference.
func (r VerifyRun) OK() bool { return r.Err == "" && r.Report.OK }

// Verifier runs [Verify] again and again. Errors and panics are logged and told, and never end it. It is safe for
// concurrent use.
type Verifier struct {
	o   VerifierOptions
	log *slog.Logger

	turn chan struct{} // holds one token; whoever took it may verify
	mu   sync.Mutex
	last VerifyRun
}

// NewVerifier checks the options.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	if o.Books == nil || o.Clock == nil || o.Logger == nil {
		return nil, errors.New("verifier: Books, Clock and Logger are required")
	}
	if o.Interval < 0 {
		return nil, fmt.Errorf("verifier: the interval must not be negative (got %s)", o.Interval)
	}
	if o.Interval == 0 {
		o.Interval = defaultVerifyInterval
	}
	if o.Hours == 0 {
		o.Hours = defaultVerifyHours
	}
	v := &Verifier{o: o, log: o.Logger.With("component", "verify"), turn: make(chan struct{}, 1)}
	v.turn <- struct{}{}
	return v, nil
}

// Run verifies until ctx ends, and then returns nil: first after one interval, when a daemon that just started has caught
// up. It starts no goroutine that outlives it.
func (v *Verifier) Run(ctx context.Context) error {
	for next := v.after(v.o.Clock.Now(), 0); ; {
		if err := v.o.Clock.WaitUntil(ctx, next); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("wait for the next verification: %w", err)
		}
		began := v.o.Clock.Now()
		if v.o.Mine == nil || v.o.Mine() {
			v.RunOnce(ctx)
		}
		// After a clock was set ahead, one run is enough for all the intervals that were passed over.
		next = v.after(began, v.o.Clock.Now().Sub(began))
	}
}

// quietMinute is the minute of an hour from which on verifying competes with no report: those are due by minute 15.
const quietMinute = 20

// restFactor is how many times as long as a run took is between two of them: verifying grows with the books, and must not
// keep the store from its work.
const restFactor = 10

// after is the time of the next run. With intervals of half an hour or more it keeps clear of the time in which hours are
// closed and reported.
func (v *Verifier) after(began time.Time, took time.Duration) time.Time {
	next := began.Add(max(v.o.Interval, restFactor*took))
	quiet := next.Truncate(time.Hour).Add(quietMinute * time.Minute)
	if v.o.Interval >= 30*time.Minute && next.Before(quiet) {
		return quiet
	}
	return next
}

// Last returns the last run; ok is false before the first has finished.
func (v *Verifier) Last() (run VerifyRun, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last, !v.last.At.IsZero()
}

// RunOnce verifies now, after a run that is under way, and returns the result.
func (v *Verifier) RunOnce(ctx context.Context) VerifyRun {
	select {
	case <-v.turn:
		defer func() { v.turn <- struct{}{} }()
	case <-ctx.Done():
		return VerifyRun{At: v.o.Clock.Now(), Err: ctx.Err().Error()}
	}
	run := VerifyRun{At: v.o.Clock.Now()}
	report, err := v.verify(ctx)
	run.Report, run.Took = report, v.o.Clock.Now().Sub(run.At)
	if err != nil {
		run.Report.OK = false
		run.Err = err.Error()
	}
	if ctx.Err() != nil {
		return run // stopping is no result
	}
	v.mu.Lock()
	v.last = run
	v.mu.Unlock()
	v.tell(run)
	return run
}

// verify is [Verify] with the options of the verifier; a panic is an error.
func (v *Verifier) verify(ctx context.Context) (r Report, err error) {
	defer func() {
		if p := recover(); p != nil {
			v.log.Error("panic while verifying the books", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	o := VerifyOptions{Meters: v.o.Meters, Clock: v.o.Clock, Intake: v.o.Intake}
	if v.o.Hours > 0 {
		last, ok, err := v.o.Books.LastClosed(ctx)
		if err != nil {
			return r, fmt.Errorf("read the last close: %w", err)
		}
		if ok {
			o.Recount, o.To = true, last.Window.End
			o.From = last.Window.End.Add(-time.Duration(v.o.Hours) * time.Hour)
		}
	}
	return Verify(ctx, v.o.Books, o)
}

// tell logs a run and hands it on.
func (v *Verifier) tell(run VerifyRun) {
	r := &run.Report
	switch {
	case run.Err != "":
		v.log.Error("the books could not be verified", "err", run.Err, "took", run.Took)
	case !r.OK:
		v.log.Error("the books differ; run meterd verify", "differences", r.DifferenceCount, "booking", r.Booking, "took", run.Took)
		for _, d := range r.Differences[:min(len(r.Differences), loggedDifferences)] {
			v.log.Error("difference in the books", "check", string(d.Check), "what", d.What, "do", d.Do)
		}
	default:
		v.log.Info("books verified", "accounts", r.Accounts, "booking", r.Booking, "took", run.Took)
	}
	if v.o.Done == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			v.log.Error("panic while telling of a verification", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	v.o.Done(run)
}
