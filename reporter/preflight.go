package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// PreflightCheck is one thing that must be right before the next hour is reported.
type PreflightCheck struct {
	// Name is short and constant, such as "dns" or "disk": it is a label of a metric.
	Name string
	// Run returns what was found, for people, and why it is not good enough. It must return when ctx ends.
	Run func(ctx context.Context) (found string, err error)
}

// PreflightResult is what one check found.
type PreflightResult struct {
	Name  string        `json:"name"`
	OK    bool          `json:"ok"`
	Found string        `json:"found,omitempty"`
	Err   string        `json:"err,omitempty"` // "" if OK
	Took  time.Duration `json:"took"`
}

// PreflightReport is what one run of all checks found.
type PreflightReport struct {
	At      time.Time         `json:"at"`
	OK      bool              `json:"ok"` // all of them
	Results []PreflightResult `json:"results"`
}

// PreflightOptions are what a [Preflight] needs. Clock and Logger are required.
type PreflightOptions struct {
	// Checks run one after the other, in this order: a later one may use what an earlier one found out.
	Checks []PreflightCheck
	// Timeout bounds each check, in real time; 0 means 10 s.
	Timeout time.Duration
	Clock   Clock
	Logger  *slog.Logger
}

// Preflight looks, a few minutes before an hour ends, whether its report could go out: there is still time to act then.
type Preflight struct {
	o   PreflightOptions
	log *slog.Logger
}

// NewPreflight checks the options and reports every fault at once.
func NewPreflight(o PreflightOptions) (*Preflight, error) {
	if o.Clock == nil || o.Logger == nil {
		return nil, errors.New("preflight: Clock and Logger are required")
	}
	var errs []error
	names := map[string]bool{}
	for i, c := range o.Checks {
		if c.Name == "" || c.Run == nil {
			errs = append(errs, fmt.Errorf("preflight: check %d lacks a name or a function", i))
		}
		if names[c.Name] {
			errs = append(errs, fmt.Errorf("preflight: two checks are named %q", c.Name))
		}
		names[c.Name] = true
	}
	if o.Timeout < 0 {
		errs = append(errs, errors.New("preflight: the timeout must not be negative"))
	}
	setDefault(&o.Timeout, 10*time.Second)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Preflight{o: o, log: o.Logger.With("component", "preflight")}, nil
}

// Run runs every check. One that fails, panics or hangs doesn't keep the others from being run.
func (p *Preflight) Run(ctx context.Context) PreflightReport {
	report := PreflightReport{At: p.o.Clock.Now().UTC(), OK: true, Results: make([]PreflightResult, 0, len(p.o.Checks))}
	for _, c := range p.o.Checks {
		if ctx.Err() != nil {
			break // we are stopping: nothing more can be said
		}
		res := p.check(ctx, c)
		if !res.OK && ctx.Err() != nil {
			break
		}
		if !res.OK {
			report.OK = false
			p.log.WarnContext(ctx, "preflight check failed, the next report is at risk", "check", c.Name, "err", res.Err, "took", res.Took)
		} else {
			p.log.DebugContext(ctx, "preflight check passed", "check", c.Name, "found", res.Found, "took", res.Took)
		}
		report.Results = append(report.Results, res)
	}
	if report.OK && ctx.Err() == nil {
		p.log.InfoContext(ctx, "preflight passed", "checks", len(report.Results))
	}
	return report
}

// check runs one check.
func (p *Preflight) check(ctx context.Context, c PreflightCheck) (res PreflightResult) {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	began := p.o.Clock.Now()
	res.Name = c.Name
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("panic", "in", c.Name, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			res.OK, res.Err = false, fmt.Sprintf("internal error: %v", v)
		}
		res.Took = max(p.o.Clock.Now().Sub(began), 0)
	}()
	found, err := c.Run(ctx)
	res.Found, res.OK = found, err == nil
	if err != nil {
		res.Err = err.Error()
	}
	return res
}
