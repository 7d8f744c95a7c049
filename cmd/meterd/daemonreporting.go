package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
	"github.com/meterd/meterd/store"
)

// reporting is the daemon's half from the store to the marketplace.
type reporting struct {
	service  *reporter.Service
	delivery *reporter.Reporter // nil when reporting is off
	desk     *reporter.Desk
	slo      *reporter.SLO
	verifier *reporter.Verifier   // nil when it never runs by itself
	guard    *reporter.ClockGuard // nil when the clock is not guarded
	lease    *store.Lease         // nil with the embedded engine, which no other daemon can use
	barrier  *reporter.Barrier    // like the lease
	market   *koogallery.Client   // nil when reporting is off
	shadow   *koogallery.Client   // nil when records in mode shadow go nowhere
}

// close closes the connections to marketplaces.
func (r *reporting) close() {
	for _, c := range []*koogallery.Client{r.market, r.shadow} {
		if c != nil {
			c.Close()
		}
	}
}

// openReporting builds booking, the desk and, unless it is off, delivery.
func (d *daemon) openReporting(monotonic func() time.Duration) error {
	log := d.log.With("component", "reporter")
	observer, err := d.telemetry.ReportingObserver()
	if err != nil {
		return err
	}
	if !d.cfg.Store.Embedded && !withoutLease() {
		if err := d.joinOthers(); err != nil {
			return err
		}
	}
	closer, err := d.newCloser(observer)
	if err != nil {
		return err
	}
	d.desk, err = reporter.NewDesk(reporter.DeskOptions{Closer: closer, Books: d.store, Logger: log, Observer: observer})
	if err != nil {
		return err
	}
	schedule, err := reporter.ParseSchedule(d.cfg.Closing.Schedule)
	if err != nil {
		return fmt.Errorf("closing.schedule: %w", err)
	}
	profile, err := d.cfg.Profile()
	if err != nil {
		return err
	}
	hourly := profile.Hourly()
	backoff := reporter.Backoff{Min: d.cfg.Reporting.RetryMin.Std(), Max: d.cfg.Reporting.RetryMax.Std()}
	options := reporter.ServiceOptions{
		Closer: closer, Schedule: schedule, Clock: d.clock, Logger: log,
		Retry:  reporter.RetryPolicy{Backoff: backoff, Deadline: hourly.OnTime, LateLimit: hourly.Late},
		Random: mathrand.Float64, Jitter: d.cfg.Closing.Jitter.Std(), LeaseInterval: d.cfg.Reporting.LeaseTTL.Std() / 6, PreflightLead: d.cfg.Reporting.Preflight.Std(),
	}
	if d.cfg.Reporting.Enabled {
		if d.delivery, err = d.newDelivery(observer, backoff, hourly.OnTime); err != nil {
			return err
		}
		options.Reporter = d.delivery
	}
	if d.lease != nil {
		options.Lease = d.lease
	}
	if monotonic != nil {
		if d.guard, err = d.newGuard(monotonic); err != nil {
			return err
		}
		options.Guard = d.guard
	}
	if d.cfg.Reporting.Preflight > 0 {
		options.Preflight, err = reporter.NewPreflight(reporter.PreflightOptions{Checks: d.preflightChecks(), Clock: d.clock, Logger: log})
		if err != nil {
			return err
		}
	}
	if d.service, err = reporter.NewService(options); err != nil {
		return err
	}
	return d.openWatching(hourly.OnTime)
}

func (d *daemon) newCloser(observer reporter.Observer) (*reporter.Closer, error) {
	mappings := make([]reporter.Mapping, 0, len(d.cfg.Mappings))
	for _, m := range d.cfg.Mappings {
		mappings = append(mappings, reporter.Mapping(m))
	}
	mapper, err := reporter.NewMapper(d.meters, mappings)
	if err != nil {
		return nil, err
	}
	rules, err := marketplaceRules(d.cfg)
	if err != nil {
		return nil, err
	}
	zone, err := d.cfg.DayZone()
	if err != nil {
		return nil, err
	}
	return reporter.NewCloser(reporter.CloserOptions{
		Books: d.store, Lives: d.store, Flusher: d.flusher(), Meters: d.meters, Terms: d.cfg.Terms(), Mapper: mapper, Rules: rules,
		Seller: d.cfg.Reporting.Seller, Grace: d.cfg.Closing.Grace.Std(), DayZone: zone, LateMargin: d.cfg.Closing.LateMargin.Std(),
		FlushTimeout: d.cfg.Closing.FlushTimeout.Std(), Now: d.clock.Now, Logger: d.log.With("component", "reporter"), Observer: observer,
	})
}

// expiryMargin leaves it to the marketplace to say that a record is too old: giving revenue up for good must not hang on
// this machine's clock, which may be wrong.
const expiryMargin = 365 * 24 * time.Hour

// pushTimeout leaves room for the two attempts that one call may make, each with a timeout of its own.
func pushTimeout(attempt time.Duration) time.Duration { return 2*attempt + 10*time.Second }

func (d *daemon) newDelivery(observer reporter.Observer, backoff reporter.Backoff, deadline time.Duration) (_ *reporter.Reporter, err error) {
	log := d.log.With("component", "reporter")
	if d.market, err = openMarketplace(d.cfg, d.clock, log); err != nil {
		return nil, err
	}
	if d.shadow, err = openShadow(d.cfg, d.clock, log); err != nil {
		return nil, fmt.Errorf("reporting.shadow_base_url: %w", err)
	}
	options := reporter.ReporterOptions{
		Books: d.store, Marketplace: d.telemetry.TraceMarketplace(d.market), Clock: d.clock, Logger: log, Observer: observer,
		Random: mathrand.Float64, Backoff: backoff, MaxBatch: d.cfg.KooGallery.MaxBatch,
		BreakerFailures: uint32(d.cfg.Reporting.BreakerFailures), //nolint:gosec // the configuration bounds it to 1000
		BreakerTimeout:  d.cfg.Reporting.BreakerTimeout.Std(),
		PushTimeout:     pushTimeout(d.cfg.KooGallery.Timeout.Std()),
		Deadline:        deadline,
		ExpiryMargin:    expiryMargin,
	}
	if d.shadow != nil {
		options.Shadow = d.telemetry.TraceMarketplace(d.shadow)
	}
	return reporter.NewReporter(options)
}

// joinOthers prepares to share the store with other daemons. This one is named after its data directory, which one process at
// a time has: after a restart the lease is its own again at once.
func (d *daemon) joinOthers() error {
	name, err := dataDirName(d.cfg.DataDir)
	if err != nil {
		return err
	}
	// A copy of the data directory on another machine must not take the lease for its own: the two would take it from each other
	// for ever.
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name of this machine: %w", err)
	}
	began := time.Now()
	d.lease, err = d.store.NewLease(store.LeaseOptions{
		TTL: d.cfg.Reporting.LeaseTTL.Std(), Holder: name + "@" + host, Elapsed: func() time.Duration { return time.Since(began) },
	})
	if err != nil {
		return err
	}
	d.barrier, err = reporter.NewBarrier(reporter.BarrierOptions{
		Local: d.loader, Books: d.store, Name: name, Now: d.clock.Now, Logger: d.log.With("component", "barrier"),
		Spool: func() (uint64, time.Time) {
			s := d.spool.Stats()
			return count(s.UnconfirmedEvents), s.OldestUnconfirmedAt
		},
	})
	return err
}

// flusher brings in what was accepted: by this daemon, and by the others on its store.
func (d *daemon) flusher() reporter.Flusher {
	if d.barrier != nil {
		return d.barrier
	}
	return d.loader
}

// dataDirName returns the random name that a data directory was given when it was first used.
func dataDirName(dir string) (string, error) {
	path := filepath.Join(dir, "name")
	text, err := os.ReadFile(path) //nolint:gosec // a file of ours in the configured directory
	if name := strings.TrimSpace(string(text)); err == nil && len(name) == 32 {
		return name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read name of the data directory: %w", err)
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	name := hex.EncodeToString(random[:])
	// A name lost in a crash only means that the next one is another: the lease then runs out by itself.
	if err := os.WriteFile(path, []byte(name+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write name of the data directory: %w", err)
	}
	return name, nil
}

func (d *daemon) newGuard(monotonic func() time.Duration) (*reporter.ClockGuard, error) {
	options := reporter.ClockGuardOptions{Now: d.clock.Now, Monotonic: monotonic, Logger: d.log.With("component", "clock")}
	if d.market != nil {
		options.Marketplace = d.market.ClockOffset
		options.Probe = func(ctx context.Context) error {
			_, err := d.market.Probe(ctx)
			return err
		}
	}
	return reporter.NewClockGuard(options)
}

// openWatching builds what looks at the books from outside.
func (d *daemon) openWatching(deadline time.Duration) (err error) {
	log := d.log.With("component", "books")
	watch := reporter.SLOOptions{Books: d.store, Meters: d.meters, Deadline: deadline, Clock: d.clock, Logger: log}
	if d.lease != nil {
		watch.Found = d.service.Trigger // another daemon's act made it; this one may be who delivers
	}
	d.slo, err = reporter.NewSLO(watch)
	if err != nil || d.cfg.Verify.Every <= 0 {
		return err
	}
	d.verifier, err = reporter.NewVerifier(reporter.VerifierOptions{
		Books: d.store, Meters: d.meters, Interval: d.cfg.Verify.Every.Std(), Hours: int(d.cfg.Verify.Window.Std() / time.Hour),
		Intake: d.intake, Mine: func() bool { return !d.service.Status().Standby() }, Clock: d.clock, Logger: log,
	})
	return err
}

// observeReporting exports what not every daemon has.
func (d *daemon) observeReporting(now func() time.Time) error {
	var errs []error
	if d.market != nil {
		errs = append(errs, d.telemetry.ObserveClock(d.market.ClockOffset))
	}
	if d.verifier != nil {
		errs = append(errs, d.telemetry.ObserveVerify(d.verifier.Last, now))
	}
	return errors.Join(errs...)
}

// doors is what the API reads the books and changes them with.
func (d *daemon) doors() httpapi.Doors {
	doors := httpapi.Doors{
		Held: d.store, Lives: d.store, Audit: d.store,
		BackfillIngester: d.ingester, Backfiller: d.store, Voider: d.store, Events: d.store, Flush: d.loader.Flush,
		Explain: func(ctx context.Context, sn reporter.MeteringSN) (reporter.Explanation, error) {
			return reporter.Explain(ctx, d.store, sn)
		},
		Verify: func(ctx context.Context, o reporter.VerifyOptions) (reporter.Report, error) {
			o.Meters, o.Clock, o.Intake = d.meters, d.clock, d.intake
			return reporter.Verify(ctx, d.store, o)
		},
	}
	desk := deskDoor{Desk: d.desk, trigger: d.service.Trigger}
	if d.guard != nil {
		desk.guard = d.guard
		doors.Clock = clockDoor{d.guard, d.service}
	}
	if d.lease != nil {
		doors.Standby = func() bool {
			s := d.service.Status()
			return s.Standby() && !s.Lease.At.IsZero() && s.Lease.Err == "" // else nobody knows
		}
	}
	doors.Desk = desk
	if d.delivery != nil {
		doors.Breaker = breakerDoor{d.delivery, d.service}
	}
	return doors
}

// breakerDoor lets the service deliver at once when somebody reset the breaker.
type breakerDoor struct {
	*reporter.Reporter

	service *reporter.Service
}

// ResetBreaker implements [httpapi.Breaker].
func (b breakerDoor) ResetBreaker(actor string) {
	b.Reporter.ResetBreaker(actor)
	b.service.Trigger()
}

// clockDoor lets the service close at once what waited for the clock.
type clockDoor struct {
	*reporter.ClockGuard

	service *reporter.Service
}

// Trust implements [httpapi.Clock].
func (c clockDoor) Trust() {
	c.ClockGuard.Trust()
	c.service.Trigger()
}

// intake tells what lies before the store. Spool and loader count each for itself, so the counts are left out unless they were
// seen in a moment when both tell of the same position.
func (d *daemon) intake(context.Context) (reporter.Intake, error) {
	const looks = 20
	for range looks {
		before := d.loader.Progress()
		sp := d.spool.Stats()
		after := d.loader.Progress()
		if before != after || after.Confirmed != sp.Confirmed {
			continue
		}
		return reporter.Intake{
			InSpool: count(sp.UnconfirmedEvents), DeadLetters: d.dead.Stats().Acknowledged,
			Counts: &reporter.IntakeCounts{
				Before: count(d.spool.Recovery().Events), Acknowledged: count(sp.Events), Stored: after.Events, Refused: after.Refused,
				Lost: count(sp.LostEvents),
			},
		}, nil
	}
	return reporter.Intake{InSpool: count(d.spool.Stats().UnconfirmedEvents), DeadLetters: d.dead.Stats().Acknowledged}, nil
}

// count converts a number that is never negative.
func count(n int64) uint64 { return uint64(max(n, 0)) }
