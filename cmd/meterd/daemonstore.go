package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/embedded"
)

// storeOpener opens ClickHouse in the background, embedded or on a server, and tries again for ever.
type storeOpener struct {
	config  store.Config
	late    *store.Late
	engine  *embedded.Options // nil with a server
	running atomic.Pointer[embedded.Engine]
	opened  chan struct{} // closed once the store is open
}

// openStore prepares the store without contacting it. What can never work (no engine library, an unreadable CA) fails here.
func (d *daemon) openStore(catalog *meter.Catalog) error {
	s := d.cfg.Store
	d.store = new(store.Late)
	d.opener = &storeOpener{late: d.store, opened: make(chan struct{}), config: store.Config{
		Addrs: s.Addrs, Database: s.Database, Username: s.Username, Password: s.Password.Reveal(), Cluster: s.Cluster,
		DialTimeout: s.DialTimeout.Std(), QueryTimeout: s.QueryTimeout.Std(),
		StampedLookback: d.cfg.Closing.StampedLookback.Std(), Values: catalog,
		Now: d.clock.Now, Logger: d.log,
	}}
	if !s.Embedded {
		var err error
		d.opener.config.TLS, err = storeTLS(s)
		return err
	}
	library, err := embedded.FindLibrary(s.EngineLibrary)
	if err != nil {
		return err
	}
	d.opener.engine = &embedded.Options{
		DataDir: filepath.Join(d.cfg.DataDir, "engine"), Library: library, Connections: s.EngineConnections,
		Logger: d.log.With("component", "engine"),
	}
	return nil
}

// storeTLS is the client side of TLS towards a ClickHouse server; nil when it is off.
func storeTLS(s config.Store) (*tls.Config, error) {
	if !s.TLS {
		return nil, nil //nolint:nilnil // no TLS is no fault
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.TLSCAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(s.TLSCAFile)
	if err != nil {
		return nil, fmt.Errorf("store.tls_ca_file: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("store.tls_ca_file: %s holds no certificate in PEM form", s.TLSCAFile)
	}
	return c, nil
}

// runStore opens the store and then keeps it until ctx ends.
func (d *daemon) runStore(ctx context.Context) error {
	backoff := reporter.Backoff{Min: 200 * time.Millisecond, Max: 10 * time.Second}
	for failures := 1; ; failures++ {
		err := d.opener.open(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.store.Failed(err)
		d.log.Warn("ClickHouse can't be reached yet; events stay in the spool", "attempt", failures, "err", err)
		timer := time.NewTimer(backoff.Delay(failures, rand.Float64))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	d.backfill(ctx)
	<-ctx.Done()
	return ctx.Err()
}

// backfill computes the values of meters that were declared after events had been stored. Closing does the same for the hour it
// closes; this is for queries over the past, which fail with the reason until it is done.
func (d *daemon) backfill(ctx context.Context) {
	report, err := d.store.Store().BackfillMeters(ctx, d.opener.config.Values, d.meters, time.Time{}, time.Time{})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		d.log.Error("values of newly declared meters could not be computed; restart to try again", "err", err)
	case report.Hours > 0:
		d.log.Info("values of newly declared meters computed", "hours", report.Hours, "events", report.Events, "no_value", report.NoValue)
	}
}

// open starts the engine if there is one to start, and opens the store on it.
func (o *storeOpener) open(ctx context.Context) error {
	if o.engine != nil && o.running.Load() == nil {
		engine, err := embedded.Start(ctx, *o.engine)
		if err != nil {
			return fmt.Errorf("start the embedded engine: %w", err)
		}
		o.running.Store(engine)
		o.config.DialContext = engine.DialContext
	}
	s, err := store.Open(ctx, o.config)
	if err != nil {
		return err
	}
	o.late.Opened(s)
	close(o.opened)
	return nil
}

// close closes the store and stops the engine.
func (o *storeOpener) close(ctx context.Context) error {
	err := o.late.Close()
	if engine := o.running.Load(); engine != nil {
		err = errors.Join(err, engine.Close(ctx))
	}
	return err
}

// engineRestarts is how often the engine crashed; 0 with a server.
func (o *storeOpener) engineRestarts() uint64 {
	if engine := o.running.Load(); engine != nil {
		return engine.Restarts()
	}
	return 0
}
