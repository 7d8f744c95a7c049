package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meterd/meterd/internal/telemetry"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/reporter"
)

// How much delay is still progress. Beyond it the daemon isn't ready, whatever its processes do.
const (
	maxStoreLag   = 5 * time.Minute  // age of the oldest event that ClickHouse doesn't have
	maxClosingLag = 30 * time.Minute // how long after its due time an hour may still be open
	minSpoolRoom  = 8 << 20          // below it large requests are refused
)

// observe exports everything and registers the health checks.
func (d *daemon) observe() error {
	now := d.clock.Now
	h := &d.telemetry.Health
	h.AddReady("store", d.store.Ready)
	h.AddReady("spool", func(context.Context) error { return spoolHealth(d.spool.Stats(), now()) })
	h.AddReady("closing", func(context.Context) error {
		return closingHealth(d.service.Status(), d.cfg.Closing.Grace.Std())
	})
	h.AddReady("delivery", func(context.Context) error { return deliveryHealth(d.service.Status()) })
	return errors.Join(
		d.telemetry.ObserveIngest(d.ingester.Stats),
		d.telemetry.ObserveSpool(d.spool.Stats, now),
		d.telemetry.ObserveLoader(d.loader.Progress),
		d.telemetry.ObserveDeadLetters(d.dead.Stats),
		d.telemetry.ObserveReporting(d.service.Status),
		d.telemetry.ObserveSLO(d.slo.Status, d.cfg.Reporting.Currency, now),
		d.observeReporting(now),
		d.telemetry.ObserveStore(func() telemetry.StoreStats {
			return telemetry.StoreStats{Open: d.store.Store() != nil, EngineRestarts: d.opener.engineRestarts()}
		}),
	)
}

// spoolHealth asks for progress on the way from the disk to ClickHouse.
func spoolHealth(s spool.Stats, now time.Time) error {
	if s.Failing {
		return fmt.Errorf("the disk refuses events: %w", s.LastError)
	}
	// The spool refuses what no longer fits, so it never gets full to the last byte.
	if free := s.CapacityBytes - s.UnconfirmedBytes - s.QueuedBytes; free < min(s.CapacityBytes/8, minSpoolRoom) {
		return fmt.Errorf("full with %d events that ClickHouse doesn't have yet", s.UnconfirmedEvents)
	}
	if s.OldestUnconfirmedAt.IsZero() {
		return nil
	}
	if lag := now.Sub(s.OldestUnconfirmedAt); lag > maxStoreLag {
		return fmt.Errorf("%d events are not in ClickHouse yet, the oldest for %s", s.UnconfirmedEvents, lag.Round(time.Second))
	}
	return nil
}

// closingHealth asks for progress of the hours.
func closingHealth(s reporter.Status, grace time.Duration) error {
	if s.Standby() {
		return nil // another daemon closes
	}
	if s.ClockErr != "" {
		return errors.New(s.ClockErr)
	}
	if s.CloseErr != "" {
		return errors.New(s.CloseErr)
	}
	last := s.LastClosed.Window
	if last.IsZero() {
		return nil // nothing to close yet
	}
	if lag := s.Now.Sub(last.End.Add(time.Hour + grace)); lag > maxClosingLag {
		return fmt.Errorf("the hour after %s is due for %s", last.End.Format(time.RFC3339), lag.Round(time.Second))
	}
	return nil
}

// deliveryHealth asks whether records reach the marketplace in time.
func deliveryHealth(s reporter.Status) error {
	if s.Delivery == nil || s.Standby() {
		return nil // reporting is off, or another daemon's work
	}
	if m := s.Delivery.Misconfigured; m != nil {
		return fmt.Errorf("stands still, the marketplace refuses us: %s %s", m.Code, m.Message)
	}
	if s.DueRecords() > 0 && s.UntilDeadline < 0 {
		return fmt.Errorf("%d records are late by %s (breaker %s)", s.DueRecords(), (-s.UntilDeadline).Round(time.Second), s.Delivery.Breaker)
	}
	return nil
}

// daemonStatus is the answer of GET /api/v1/admin/status.
type daemonStatus struct {
	Version   string               `json:"version"`
	Now       time.Time            `json:"now"`
	Store     storeStatus          `json:"store"`
	Loader    meter.LoaderProgress `json:"loader"`
	Ingest    meter.IngestStats    `json:"ingest"`
	Reporting reporter.Status      `json:"reporting"`
	SLO       reporter.SLOStatus   `json:"slo"`
	// Clock is nil when the clock is not guarded, Verified when the books were not verified yet.
	Clock    *reporter.ClockState `json:"clock,omitempty"`
	Verified *reporter.VerifyRun  `json:"verified,omitempty"`
}

type storeStatus struct {
	Open           bool   `json:"open"`
	Version        string `json:"version,omitempty"`
	Embedded       bool   `json:"embedded"`
	EngineRestarts uint64 `json:"engine_restarts"`
}

// status gathers what an operator asks first.
func (d *daemon) status(context.Context) any {
	st := storeStatus{Embedded: d.cfg.Store.Embedded, EngineRestarts: d.opener.engineRestarts()}
	if s := d.store.Store(); s != nil {
		st.Open, st.Version = true, s.ServerVersion().String()
	}
	all := daemonStatus{
		Version: buildVersion(), Now: d.clock.Now(), Store: st,
		Loader: d.loader.Progress(), Ingest: d.ingester.Stats(), Reporting: d.service.Status(), SLO: d.slo.Status(),
	}
	if d.guard != nil {
		clock := d.guard.State()
		all.Clock = &clock
	}
	if d.verifier != nil {
		if run, ok := d.verifier.Last(); ok {
			all.Verified = &run
		}
	}
	return all
}
