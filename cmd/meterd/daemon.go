package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/internal/telemetry"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// daemon owns everything that runs while meterd serves, and its order of starting and stopping.
type daemon struct {
	cfg   config.Config
	clock reporter.Clock
	log   *slog.Logger

	telemetry *telemetry.Telemetry
	spool     *spool.Spool
	dead      *meter.DeadLetters
	ingester  *meter.Ingester
	loader    *meter.Loader
	store     *store.Late
	opener    *storeOpener
	meters    []meter.Meter
	*reporting

	api         *http.Server
	handler     *httpapi.API
	apiListener net.Listener
	metrics     *http.Server // nil when off
	metricsLn   net.Listener
}

// daemonOptions are what a daemon needs beside its configuration.
type daemonOptions struct {
	Config config.Config
	Clock  reporter.Clock
	Logger *slog.Logger
	// Monotonic is the time since some moment by a clock that nobody sets, to guard Clock with; nil leaves Clock unguarded.
	Monotonic func() time.Duration
}

// newDaemon opens the data directory and the listeners; nothing runs yet. On error everything opened is closed again. It does
// not wait for ClickHouse: events are taken as soon as Run is called.
func newDaemon(ctx context.Context, o daemonOptions) (_ *daemon, err error) {
	d := &daemon{cfg: o.Config, clock: o.Clock, log: o.Logger, reporting: new(reporting)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if err := os.MkdirAll(d.cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	meters, err := d.cfg.MeterList()
	if err != nil {
		return nil, err
	}
	d.meters = meters
	catalog, err := meter.NewCatalog(meters)
	if err != nil {
		return nil, err
	}
	steps := []func() error{
		func() error { return d.openTelemetry(ctx) },
		func() error { return d.openStore(catalog) },
		func() error { return d.openIntake(catalog) },
		func() error { return d.openReporting(o.Monotonic) },
		func() error { return d.openAPI(ctx, catalog) },
		d.observe,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *daemon) openTelemetry(ctx context.Context) (err error) {
	t := d.cfg.Telemetry
	d.telemetry, err = telemetry.New(ctx, telemetry.Options{
		Version: buildVersion(), OTLPEndpoint: t.OTLPEndpoint, TraceRatio: t.TraceRatio,
	})
	if err != nil || t.Listen == "" {
		return err
	}
	d.metricsLn, err = listen(ctx, t.Listen)
	if err != nil {
		return fmt.Errorf("telemetry.listen: %w", err)
	}
	d.metrics = &http.Server{
		Handler:           d.telemetry.Handler(),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	return nil
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
}

// openIntake opens the way of an event from the API to the store.
func (d *daemon) openIntake(catalog *meter.Catalog) (err error) {
	d.spool, err = spool.Open(spool.Options{
		Dir:      filepath.Join(d.cfg.DataDir, "spool"),
		MaxBytes: int64(d.cfg.Spool.MaxBytes), SegmentBytes: int64(d.cfg.Spool.SegmentBytes),
		Now: d.clock.Now, Logger: d.log.With("component", "spool"),
	})
	if err != nil {
		return fmt.Errorf("open spool: %w", err)
	}
	d.dead, err = meter.OpenDeadLetters(filepath.Join(d.cfg.DataDir, "dead-letters.ndjson"), meter.DeadLetterOptions{
		MaxBytes: int64(d.cfg.Ingest.DeadLetterMaxBytes), Logger: d.log.With("component", "dead_letters"),
	})
	if err != nil {
		return fmt.Errorf("open dead letters: %w", err)
	}
	d.loader, err = meter.NewLoader(meter.LoaderOptions{
		Spool: d.spool, Store: d.store, Catalog: catalog, DeadLetters: d.dead,
		BatchEvents: d.cfg.Loader.BatchEvents, BatchDelay: d.cfg.Loader.BatchDelay.Std(), Inserters: d.cfg.Loader.Inserters,
		Closed: d.hourClosed, OnBatch: d.traceBatch,
		Now: d.clock.Now, Logger: d.log.With("component", "loader"),
	})
	if err != nil {
		return err
	}
	ack := meter.AckSpool
	if d.cfg.Ingest.Ack == "store" {
		ack = meter.AckStore
	}
	d.ingester, err = meter.NewIngester(meter.IngestOptions{
		Catalog: catalog, Spool: d.spool, Ack: ack, Confirmer: d.loader, DeadLetters: d.dead,
		MaxFuture: d.cfg.Ingest.MaxFuture.Std(), MaxAge: d.cfg.Ingest.MaxAge.Std(), BackfillAge: d.cfg.Ingest.BackfillMaxAge.Std(),
		ReceivedAfter: receivedAfter(d.spool.Recovery().Newest), Now: d.clock.Now, Logger: d.log.With("component", "ingest"),
	})
	return err
}

// receivedAfter is later than every time of receipt that an earlier run gave out, so that they don't go back with the clock.
// Where the clock went back in that run already, receipts were ahead of the appends by a nanosecond an event: a second is
// enough for a billion.
func receivedAfter(appended time.Time) time.Time {
	if appended.IsZero() {
		return time.Time{}
	}
	return appended.Add(time.Second)
}

// hourClosed reports whether an hour was closed already; the loader counts such events as late.
func (d *daemon) hourClosed(hour time.Time) bool {
	last := d.service.Status().LastClosed.Window
	return !last.IsZero() && hour.Before(last.End)
}

// traceBatch links an insert to the requests whose events it writes.
func (d *daemon) traceBatch(ctx context.Context, traceparents []string, events int) (context.Context, func(error)) {
	return d.telemetry.StartLinked(ctx, "insert events", traceparents, telemetry.EventCount(events))
}

func (d *daemon) openAPI(ctx context.Context, catalog *meter.Catalog) (err error) {
	s := d.cfg.Server
	keys := make([]httpapi.Key, 0, len(s.Keys))
	for _, k := range s.Keys {
		key := httpapi.Key{Name: k.Name, Value: k.Value.Reveal()}
		for _, scope := range k.Scopes {
			key.Scopes = append(key.Scopes, httpapi.Scope(scope))
		}
		keys = append(keys, key)
	}
	observe, err := d.telemetry.RequestObserver()
	if err != nil {
		return err
	}
	in := d.cfg.Ingest
	d.handler, err = httpapi.New(httpapi.Options{
		Keys: keys, Ingester: d.ingester, Catalog: catalog, Usage: d.store, Records: d.store, DeadLetters: d.dead,
		Close: d.service.CloseNow, StoreOpen: func() bool { return d.store.Store() != nil }, Status: d.status, Doors: d.doors(),
		MaxBody:        int64(in.MaxBody),
		Decode:         meter.DecodeOptions{MaxEvents: in.MaxBatch, MaxEventBytes: int(in.MaxEvent)},
		RequestTimeout: s.RequestTimeout.Std(), StreamIdle: s.IdleTimeout.Std(), StreamEvents: in.StreamChunkEvents, StreamDelay: in.StreamChunkDelay.Std(),
		Observe: observe, Now: d.clock.Now, Logger: d.log.With("component", "api"),
	})
	if err != nil {
		return err
	}
	d.apiListener, err = listen(ctx, s.Listen)
	if err != nil {
		return fmt.Errorf("server.listen: %w", err)
	}
	d.api = &http.Server{
		Handler:           d.telemetry.Middleware(d.handler),
		ReadHeaderTimeout: s.ReadHeaderTimeout.Std(), IdleTimeout: s.IdleTimeout.Std(),
		// No ReadTimeout and WriteTimeout: they would end streams. The handlers set deadlines for each request and chunk.
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
		Protocols:      new(http.Protocols),
	}
	d.api.Protocols.SetHTTP1(true)
	d.api.Protocols.SetHTTP2(true)
	d.api.Protocols.SetUnencryptedHTTP2(true)
	d.api.RegisterOnShutdown(d.handler.Drain)
	d.api.TLSConfig, err = serverTLS(s)
	return err
}

// serverTLS is the API's TLS configuration; nil without a certificate.
func serverTLS(s config.Server) (*tls.Config, error) {
	if s.TLSCertFile == "" {
		return nil, nil //nolint:nilnil // no TLS is no fault
	}
	certificate, err := tls.LoadX509KeyPair(s.TLSCertFile, s.TLSKeyFile)
	if err != nil {
		return nil, fmt.Errorf("server.tls_cert_file, server.tls_key_file: %w", err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	if s.ClientCAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(s.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("server.client_ca_file: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("server.client_ca_file: %s holds no certificate in PEM form", s.ClientCAFile)
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return c, nil
}

// apiURL and metricsURL are where the daemon listens, known once newDaemon returned.
func (d *daemon) apiURL() string {
	scheme := "http://"
	if d.cfg.Server.TLSCertFile != "" {
		scheme = "https://"
	}
	return scheme + d.apiListener.Addr().String()
}

func (d *daemon) metricsURL() string {
	if d.metricsLn == nil {
		return ""
	}
	return "http://" + d.metricsLn.Addr().String()
}

// Run serves until ctx ends, then stops in order: no new requests, what is spooled into the store as far as it is reachable,
// then the engine. A service that fails ends the others; its error is returned.
func (d *daemon) Run(ctx context.Context) error {
	// The loader and the store live longer than the API, so that what was accepted last is still flushed.
	backstage, stopBackstage := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackstage()
	front, stopFront := context.WithCancelCause(ctx)
	defer stopFront(nil)

	var wg sync.WaitGroup
	start := func(ctx context.Context, name string, run func(context.Context) error) {
		wg.Go(func() {
			err := run(ctx)
			if ctx.Err() != nil {
				return // it was told to end
			}
			if err == nil {
				err = errors.New("without an error")
			}
			stopFront(fmt.Errorf("%s ended: %w", name, err))
		})
	}
	start(backstage, "store", d.runStore)
	start(backstage, "loader", d.onceStoreOpened(d.loader.Run))
	start(front, "reporter", d.onceStoreOpened(d.service.Run))
	if d.barrier != nil {
		start(backstage, "barrier", d.onceStoreOpened(d.barrier.Run))
	}
	start(front, "slo", d.onceStoreOpened(d.slo.Run))
	if d.verifier != nil {
		start(front, "verifier", d.onceStoreOpened(d.verifier.Run))
	}
	start(front, "api", serve(d.api, d.apiListener, d.cfg.Server.TLSCertFile != ""))
	if d.metrics != nil {
		start(backstage, "telemetry endpoint", serve(d.metrics, d.metricsLn, false))
	}

	<-front.Done()
	failure := context.Cause(front)
	if errors.Is(failure, context.Canceled) {
		failure = nil
	}
	d.log.Info("stopping")
	errs := []error{failure, d.stopIntake()}
	stopBackstage()
	if d.metrics != nil {
		_ = d.metrics.Close() // scrapes under way lose nothing
	}
	wg.Wait()
	return errors.Join(append(errs, d.close())...)
}

// onceStoreOpened makes a service begin when ClickHouse was reached: before, it could only fail.
func (d *daemon) onceStoreOpened(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-d.opener.opened:
			return run(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// serve makes a service of an HTTP server. The daemon shuts the server down; here only its failure counts.
func serve(s *http.Server, l net.Listener, withTLS bool) func(context.Context) error {
	return func(context.Context) error {
		var err error
		if withTLS {
			err = s.ServeTLS(l, "", "")
		} else {
			err = s.Serve(l)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return err
	}
}

// stopIntake finishes requests and flushes the spool, both together within the configured time. What can't be flushed stays
// in the spool for the next start.
func (d *daemon) stopIntake() error {
	ctx, cancel := context.WithTimeout(context.Background(), d.cfg.Server.ShutdownTimeout.Std())
	defer cancel()
	if err := d.api.Shutdown(ctx); err != nil {
		d.log.Warn("requests cut off at the end of shutdown_timeout", "err", err)
		_ = d.api.Close() // what is left is cut off on purpose
	}
	err := store.ErrNotOpen
	if d.store.Store() != nil {
		err = d.loader.Flush(ctx)
	}
	if left := d.spool.Stats().UnconfirmedEvents; err != nil && left > 0 {
		d.log.Warn("events stay in the spool for the next start", "events", left, "err", err)
	}
	return nil
}

// engineStopTimeout is what the engine needs at most to finish running statements and to close its tables.
const engineStopTimeout = 45 * time.Second

// close closes what was opened, in reverse order; parts that were not opened are skipped.
func (d *daemon) close() error {
	var errs []error
	if d.apiListener != nil {
		_ = d.apiListener.Close() // usually closed by its server already
	}
	if d.metricsLn != nil {
		_ = d.metricsLn.Close()
	}
	d.reporting.close()
	if d.spool != nil {
		errs = append(errs, d.spool.Close())
	}
	if d.dead != nil {
		errs = append(errs, d.dead.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), engineStopTimeout)
	defer cancel()
	if d.opener != nil {
		errs = append(errs, d.opener.close(ctx))
	}
	if d.telemetry != nil {
		// An unreachable collector must not turn a clean stop into a failure.
		if err := d.telemetry.Shutdown(ctx); err != nil {
			d.log.Warn("telemetry not sent", "err", err)
		}
	}
	return errors.Join(errs...)
}
