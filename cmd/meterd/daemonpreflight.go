package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// What a preflight asks for.
const (
	preflightDisk        = 1 << 30          // bytes free in the data directory
	preflightCertificate = 72 * time.Hour   // for which the marketplace's certificate is still valid
	preflightOffset      = 30 * time.Second // between the marketplace's clock and ours; it refuses signatures beyond a minute
)

// preflightChecks are what must be right a few minutes before an hour is reported.
func (d *daemon) preflightChecks() []reporter.PreflightCheck {
	checks := []reporter.PreflightCheck{
		{Name: "disk", Run: d.checkDisk},
		{Name: "store", Run: d.checkStore},
		{Name: "spool", Run: func(context.Context) (string, error) {
			s := d.spool.Stats()
			return fmt.Sprintf("%d events wait for ClickHouse", s.UnconfirmedEvents), spoolHealth(s, d.clock.Now())
		}},
	}
	if d.lease != nil {
		checks = append(checks, reporter.PreflightCheck{Name: "lease", Run: d.checkLease})
	}
	if d.market != nil {
		checks = append(checks,
			reporter.PreflightCheck{Name: "key", Run: d.market.CheckKey},
			reporter.PreflightCheck{Name: "marketplace", Run: d.checkMarketplace},
			reporter.PreflightCheck{Name: "clock", Run: d.checkClock},
			reporter.PreflightCheck{Name: "breaker", Run: d.checkBreaker},
		)
	}
	return checks
}

func (d *daemon) checkDisk(context.Context) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.cfg.DataDir, &st); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:gosec,unconvert // bytes of a disk fit; the types differ by system
	found := fmt.Sprintf("%d MiB free in the data directory", free>>20)
	if free < preflightDisk {
		return found, errors.New("less than 1 GiB free: make room, or ingest and ClickHouse soon stop")
	}
	return found, nil
}

func (d *daemon) checkStore(ctx context.Context) (string, error) {
	if err := d.store.Ready(ctx); err != nil {
		return "", err
	}
	s := d.store.Store()
	if s == nil {
		return "", store.ErrNotOpen
	}
	return "ClickHouse " + s.ServerVersion().String() + " answers", nil
}

func (d *daemon) checkLease(context.Context) (string, error) {
	l := d.service.Status().Lease
	switch {
	case l == nil:
		return "not asked for yet", nil
	case l.Err != "":
		return "", errors.New(l.Err)
	case l.Held:
		return "held by this daemon", nil
	}
	return "held by another daemon", nil
}

// checkMarketplace finds out whether name, connection, certificate and answer are there. No key and no usage are sent.
func (d *daemon) checkMarketplace(ctx context.Context) (string, error) {
	res, err := d.market.Probe(ctx)
	if err != nil {
		return "", err
	}
	found := fmt.Sprintf("%s answers in %s", res.Endpoint, res.Latency.Round(time.Millisecond))
	if res.Note != "" {
		return found, fmt.Errorf("only the fallback can be connected: %s", res.Note)
	}
	if at := res.CertificateExpires; !at.IsZero() && at.Sub(d.clock.Now()) < preflightCertificate {
		return found, fmt.Errorf("the certificate of %s expires at %s", res.Endpoint, at.UTC().Format(time.RFC3339))
	}
	return found, nil
}

func (d *daemon) checkClock(ctx context.Context) (string, error) {
	if d.guard != nil {
		if err := d.guard.Check(ctx); err != nil {
			return "", err
		}
	}
	offset, _, ok := d.market.ClockOffset()
	if !ok {
		return "the marketplace's clock is not known", nil
	}
	found := fmt.Sprintf("our clock is ahead of the marketplace's by %s", offset)
	if offset.Abs() > preflightOffset {
		return found, errors.New("synchronise this machine's clock (NTP): the marketplace refuses signatures of another time")
	}
	return found, nil
}

func (d *daemon) checkBreaker(context.Context) (string, error) {
	s := d.delivery.Status()
	if m := s.Misconfigured; m != nil {
		return "", fmt.Errorf("the marketplace refuses us: %s %s", m.Code, m.Message)
	}
	if s.Breaker == reporter.BreakerOpen {
		return "", fmt.Errorf("the breaker is open until %s", s.BreakerRetryAt.UTC().Format(time.RFC3339))
	}
	return s.Breaker.String(), nil
}
