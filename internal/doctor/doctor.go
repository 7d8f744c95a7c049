// Package doctor looks at everything a daemon needs before and while it runs: directories and disk, the spool, the
// ClickHouse engine or server, the clock, keys, the marketplace's reachability, listeners and limits.
//
// Invariants:
//
//   - A check changes nothing that the daemon owns: it creates only temporary files of its own and removes them, creates no
//     database, and sends the marketplace nothing but one HEAD request without credentials.
//   - Checks are independent: one that fails, hangs or panics is one finding and disturbs no other.
//   - No finding holds a secret.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/config"
)

// Status is the verdict of a finding.
type Status string

// The verdicts.
const (
	OK   Status = "ok"
	Warn Status = "warn" // it works, but somebody should look
	Fail Status = "fail" // it doesn't work, or money is at risk
)

// Finding is one line of the report.
type Finding struct {
	Check  string `json:"check"` // what was looked at; the same words in every report
	Status Status `json:"status"`
	Found  string `json:"found"`
	Advice string `json:"advice,omitempty"` // what to do; empty when OK
}

// Report is what all checks found, in a fixed order.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Count returns the number of findings with a verdict.
func (r Report) Count(s Status) (n int) {
	for _, f := range r.Findings {
		if f.Status == s {
			n++
		}
	}
	return n
}

// Defaults of [Options].
const (
	DefaultTimeout       = 15 * time.Second
	DefaultEngineTimeout = 90 * time.Second
)

// Options say what to check. Config and Now are required.
type Options struct {
	Config config.Config
	// Marketplace are the base addresses of the marketplace, the one to fall back to second. Not asked while reporting is
	// disabled.
	Marketplace []string
	// Proxy chooses the proxy towards the marketplace; nil means none.
	Proxy func(*http.Request) (*url.URL, error)
	// Executable and EngineArgs start the engine, as in embedded.Options; empty means this program's engine command.
	Executable string
	EngineArgs []string
	// Timeout bounds each check, EngineTimeout that of the engine, whose library may have to be read from a cold disk. Zero
	// means the defaults.
	Timeout, EngineTimeout time.Duration
	// Now is the clock that is checked.
	Now func() time.Time
}

// doctor is one run.
type doctor struct {
	Options
	cfg config.Config
}

// check is one check.
type check struct {
	name    string
	timeout time.Duration // 0 means Options.Timeout
	run     func(context.Context) []Finding
}

// Run makes every check. It returns an error only for faulty options: whatever a check meets is a finding. A check that does
// not come back in time is reported, and its goroutine left behind until the system call it hangs in returns.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Now == nil {
		return Report{}, errors.New("doctor: a clock is required")
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.EngineTimeout <= 0 {
		o.EngineTimeout = DefaultEngineTimeout
	}
	d := &doctor{Options: o, cfg: o.Config}
	// The disk is measured before an engine reads half a gigabyte from it.
	disk := []check{
		{name: "configuration", run: d.checkWarnings},
		{name: "data directory", run: d.checkDirectories},
		{name: "disk space", run: d.checkSpace},
		{name: "disk sync", run: d.checkSync},
		{name: "spool", run: d.checkSpool},
	}
	rest := []check{
		d.storeCheck(),
		{name: "clock", run: d.checkClock},
		{name: "profile", run: d.checkProfile},
		{name: "keys", run: d.checkKeys},
		{name: "certificate", run: d.checkCertificate},
		{name: "marketplace", run: d.checkMarketplace},
		{name: "listeners", run: d.checkListeners},
		{name: "limits", run: d.checkLimits},
	}
	found := make([][]Finding, len(disk)+len(rest))
	for i, c := range disk {
		found[i] = d.guarded(ctx, c)
	}
	var wg sync.WaitGroup
	for i, c := range rest {
		wg.Go(func() { found[len(disk)+i] = d.guarded(ctx, c) })
	}
	wg.Wait()
	var report Report
	for _, findings := range found {
		report.Findings = append(report.Findings, findings...)
	}
	return report, nil
}

// guarded runs a check within its time and turns a panic into a finding.
func (d *doctor) guarded(ctx context.Context, c check) []Finding {
	timeout := c.timeout
	if timeout == 0 {
		timeout = d.Timeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan []Finding, 1)
	go func() { // ends with the check; see Run
		defer func() {
			if p := recover(); p != nil {
				done <- []Finding{fail(c.name, fmt.Sprintf("the check itself failed: %v", p), "please report this")}
			}
		}()
		done <- c.run(ctx)
	}()
	// A check that heeds its context has a moment to say what it found until then.
	grace := time.NewTimer(timeout + 2*time.Second)
	defer grace.Stop()
	select {
	case findings := <-done:
		return findings
	case <-grace.C:
		return []Finding{fail(c.name, fmt.Sprintf("no result within %s", timeout),
			"a disk or network file system that hangs does this; look at the kernel's log")}
	}
}

func ok(check, found string) Finding           { return Finding{check, OK, found, ""} }
func warn(check, found, advice string) Finding { return Finding{check, Warn, found, advice} }
func fail(check, found, advice string) Finding { return Finding{check, Fail, found, advice} }

// checkWarnings repeats what loading the configuration found.
func (d *doctor) checkWarnings(context.Context) []Finding {
	var findings []Finding
	for _, w := range d.cfg.Warnings() {
		findings = append(findings, warn("configuration", w, "mend it in the configuration, or leave it on purpose"))
	}
	if len(findings) == 0 {
		return []Finding{ok("configuration", fmt.Sprintf("valid, %d meters, %d mappings", len(d.cfg.Meters), len(d.cfg.Mappings)))}
	}
	return findings
}
