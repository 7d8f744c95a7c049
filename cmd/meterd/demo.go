package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/clock"
	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/demo"
	"github.com/meterd/meterd/internal/sandbox"
	"github.com/meterd/meterd/internal/sender"
	"github.com/meterd/meterd/internal/telemetry"
	"github.com/meterd/meterd/meter"
)

// demoSellerKey signs the demo's calls. It is no secret: it opens nothing but the sandbox of the same process.
const demoSellerKey = "demo-seller-key"

// demoPatience bounds each wait of the demo, in real time.
const demoPatience = 2 * time.Minute

// demoFlags are the flags of meterd demo.
type demoFlags struct {
	events    string
	instances int
	dir       string
	asJSON    bool
	keep      bool
	resend    bool
	faults    []string
	library   string
	logLevel  string
}

func newDemoCommand() *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole flow on a real trace: events, hours, records, marketplace",
		Long: `Start a daemon with its embedded ClickHouse and a marketplace sandbox, replay a trace of requests to an LLM
service on a clock that runs ahead, close its hours, push the bill records, and compare what the marketplace
accepted with the sums of the file.

Meters: requests (count), prompt tokens (sum), generated tokens (sum), longest prompt (max). The trace names no
customer: rows are spread over instances by row number. Times are moved, so that the last hour has just ended.

Exit codes: 0 everything agrees, 1 a difference or a failure, 2 wrong usage.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.instances < 1 || f.instances > 100_000 {
				return &usageError{fmt.Errorf("--instances must be from 1 to 100000 (got %d)", f.instances)}
			}
			return runDemo(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.events, "events", "", "trace to replay: CSV with the columns "+demo.TimeColumn+", "+demo.PromptColumn+", "+demo.GeneratedColumn+" (default: the built-in one)")
	flags.IntVar(&f.instances, "instances", 50, "number of instances to spread the rows over")
	flags.StringVar(&f.dir, "dir", "", "keep all data in this empty or new directory (default: a temporary one, removed at the end)")
	flags.BoolVar(&f.asJSON, "json", false, "print one JSON object instead of the story")
	flags.BoolVar(&f.keep, "keep", false, "leave daemon and sandbox running for a look until interrupted")
	flags.BoolVar(&f.resend, "resend", false, "send every event twice, to see that it counts once")
	flags.StringArrayVar(&f.faults, "fault", nil, "let the marketplace misbehave, as in meterd sandbox --help, for example 'kind=drop_answer,count=1' (repeatable)")
	flags.StringVar(&f.library, "engine-library", "", "path of libchdb.so (default: searched for)")
	flags.StringVar(&f.logLevel, "log-level", "warn", "daemon's log on standard error: debug, info, warn or error")
	return cmd
}

// demoRun is one run of the demo.
type demoRun struct {
	flags    demoFlags
	story    io.Writer // progress for people
	dir      string
	expected demo.Expected
	plan     demo.Replay
	clock    *clock.Shifted
	daemon   *daemon
	sandbox  *sandbox.Sandbox
	market   *http.Server
	marketLn net.Listener
	began    time.Time
	log      *slog.Logger
	ended    chan error // result of the daemon's Run
}

func runDemo(ctx context.Context, f demoFlags, stdout, stderr io.Writer) (err error) {
	r := &demoRun{flags: f, story: stdout, began: time.Now()}
	if f.asJSON {
		r.story = stderr
	}
	log, err := telemetry.NewLogger(stderr, f.logLevel, "text")
	if err != nil {
		return &usageError{err}
	}
	r.log = log
	if err := r.prepare(); err != nil {
		return err
	}
	cleanUp, err := r.makeDir()
	if err != nil {
		return err
	}
	defer cleanUp()

	running, stop := context.WithCancel(ctx)
	defer stop()
	if err := r.start(running); err != nil {
		return err
	}
	defer func() {
		stop()
		err = errors.Join(err, <-r.ended, r.market.Close(), r.sandbox.Close())
	}()
	outcome, err := r.replay(ctx)
	if err != nil {
		return err
	}
	if err := outcome.print(stdout, f.asJSON, r); err != nil {
		return err
	}
	if f.keep {
		r.invite(ctx)
	}
	if !outcome.ok() {
		return fmt.Errorf("the marketplace's books differ from the trace in %d points", len(outcome.differences))
	}
	return nil
}

// open opens the trace.
func (r *demoRun) open() (io.Reader, io.Closer, error) {
	if r.flags.events == "" {
		t, err := demo.OpenTrace()
		return t, io.NopCloser(nil), err
	}
	file, err := os.Open(r.flags.events)
	if err != nil {
		return nil, nil, &usageError{err}
	}
	return file, file, nil
}

// prepare sums the trace and plans when to replay it.
func (r *demoRun) prepare() error {
	trace, file, err := r.open()
	if err != nil {
		return err
	}
	defer file.Close()
	r.expected, err = demo.Expect(trace, r.flags.instances)
	if err != nil {
		return &usageError{err}
	}
	r.plan = demo.PlanReplay(r.expected.First, r.expected.Last, time.Now())
	r.clock = clock.NewShifted(r.plan.Start)
	fmt.Fprintf(r.story, "trace     %d requests from %s to %s, spread over %d instances\n", r.expected.Events,
		r.expected.First.Format("2006-01-02 15:04:05"), r.expected.Last.Format("15:04:05"), r.flags.instances)
	return nil
}

// makeDir makes the directory of the daemon's data and returns what removes it if it is temporary.
func (r *demoRun) makeDir() (func(), error) {
	if r.flags.dir == "" {
		dir, err := os.MkdirTemp("", "meterd-demo-")
		if err != nil {
			return nil, fmt.Errorf("make a temporary directory: %w", err)
		}
		r.dir = dir
		return func() { _ = os.RemoveAll(dir) }, nil // best effort: it is below the system's temporary directory
	}
	entries, err := os.ReadDir(r.flags.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, &usageError{err}
	}
	if len(entries) > 0 {
		return nil, &usageError{fmt.Errorf("--dir %s is not empty; the demo wants a directory of its own", r.flags.dir)}
	}
	r.dir, err = filepath.Abs(r.flags.dir)
	return func() {}, err
}

// start starts sandbox and daemon on one clock.
func (r *demoRun) start(ctx context.Context) (err error) {
	options := sandbox.Options{Now: r.clock.Now, Key: demoSellerKey}
	for _, text := range r.flags.faults {
		fault, err := sandbox.ParseFault(text)
		if err != nil {
			return &usageError{fmt.Errorf("--fault %s: %w", text, err)}
		}
		options.Faults = append(options.Faults, fault)
	}
	r.sandbox, err = sandbox.New(options)
	if err != nil {
		return fmt.Errorf("start the sandbox: %w", err)
	}
	r.marketLn, err = listenPreferred(ctx, "127.0.0.1:8090")
	if err != nil {
		return fmt.Errorf("start the sandbox: %w", err)
	}
	r.market = &http.Server{Handler: r.sandbox, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = r.market.Serve(r.marketLn) }() // ends with market.Close

	cfg, err := r.config(ctx)
	if err != nil {
		return err
	}
	r.daemon, err = newDaemon(ctx, daemonOptions{Config: cfg, Clock: r.clock, Logger: r.log})
	if err != nil {
		return errors.Join(err, r.market.Close(), r.sandbox.Close())
	}
	r.ended = make(chan error, 1)
	go func() { r.ended <- r.daemon.Run(ctx) }()
	fmt.Fprintf(r.story, "daemon    %s, data in %s\nsandbox   http://%s\n", r.daemon.apiURL(), r.dir, r.marketLn.Addr())
	return nil
}

// listenPreferred listens on the address, or on a free port if it is taken.
func listenPreferred(ctx context.Context, address string) (net.Listener, error) {
	l, err := listen(ctx, address)
	if err != nil {
		return listen(ctx, "127.0.0.1:0")
	}
	return l, nil
}

// freeAddress is the preferred address, or one with a free port if it is taken.
func freeAddress(ctx context.Context, preferred string) string {
	l, err := listen(ctx, preferred)
	if err != nil {
		return "127.0.0.1:0"
	}
	_ = l.Close() // it was only to see whether the address is free
	return preferred
}

// config is the demo's configuration: the defaults, the sandbox, and four meters.
func (r *demoRun) config(ctx context.Context) (config.Config, error) {
	cfg := config.Default()
	cfg.DataDir = r.dir
	cfg.Server.Listen = freeAddress(ctx, cfg.Server.Listen)
	cfg.Telemetry.Listen = freeAddress(ctx, cfg.Telemetry.Listen)
	cfg.Store.EngineLibrary = r.flags.library
	cfg.Loader.BatchDelay = config.Duration(100 * time.Millisecond)
	cfg.KooGallery.BaseURL = "http://" + r.marketLn.Addr().String()
	cfg.KooGallery.AllowHTTP = true
	cfg.KooGallery.SellerKey = demoSellerKey
	cfg.KooGallery.Spacing = config.Duration(10 * time.Millisecond)
	cfg.Reporting.Preflight = 0 // the clock jumps, which looks like trouble to it
	add := func(slug, description, aggregation, value, unit string) {
		cfg.Meters = append(cfg.Meters, config.Meter{
			Slug: slug, Description: description, EventType: demo.EventType, Aggregation: aggregation, Value: value,
			Unit: unit, Scale: "1", Billed: true, Instance: demo.InstanceID("{subject}", slug),
		})
	}
	add(demo.MeterRequests, "requests", "count", "", "request")
	add(demo.MeterPrompt, "prompt tokens", "sum", "$.prompt_tokens", "token")
	add(demo.MeterGenerated, "generated tokens", "sum", "$.generated_tokens", "token")
	add(demo.MeterLongest, "longest prompt of an hour", "max", "$.prompt_tokens", "token")
	if err := cfg.Validate(); err != nil {
		return config.Config{}, fmt.Errorf("the demo's own configuration: %w", err)
	}
	return cfg, nil
}

// replay sends the trace hour by hour and lets each hour be closed and reported before the next one begins.
func (r *demoRun) replay(ctx context.Context) (*demoOutcome, error) {
	trace, file, err := r.open()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	rows, err := sender.NewCSVSource(trace, demo.TraceName, sender.CSVOptions{
		Type: demo.EventType, Source: demo.EventSource,
		SpreadSubjects: r.flags.instances, SubjectPrefix: demo.SubjectPrefix, TimeColumn: demo.TimeColumn,
		Data: []sender.DataColumn{{Name: "prompt_tokens", Column: demo.PromptColumn}, {Name: "generated_tokens", Column: demo.GeneratedColumn}},
	})
	if err != nil {
		return nil, err
	}
	hours := &hourSource{source: sender.ShiftBy(rows, r.plan.Shift)}
	out := &demoOutcome{}
	for {
		window, more, err := hours.nextHour()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		if err := r.replayHour(ctx, out, hours, window); err != nil {
			return nil, err
		}
	}
	r.clock.AdvanceTo(r.plan.End.Add(15*time.Minute + time.Second))
	if err := r.sandbox.Advance(); err != nil {
		return nil, fmt.Errorf("collect at minute 15: %w", err)
	}
	r.clock.AdvanceTo(time.Now())
	return out, r.settle(ctx, out)
}

func (r *demoRun) replayHour(ctx context.Context, out *demoOutcome, hours *hourSource, window meter.Window) error {
	r.clock.AdvanceTo(window.Start)
	summary, err := sender.Send(ctx, sender.Options{
		URL: r.daemon.apiURL(), Now: time.Now, Logger: r.log, Concurrency: 1, Batch: 500,
		OnBatch: func(_ context.Context, b sender.BatchInfo) error {
			r.clock.AdvanceTo(b.Last)
			return nil
		},
	}, hours)
	if err != nil {
		return fmt.Errorf("send events: %w", err)
	}
	out.Sent += summary.Accepted
	fmt.Fprintf(r.story, "replayed  %s to %s: %d events acknowledged after fsync\n",
		window.Start.Format("2006-01-02 15:04"), window.End.Format("15:04"), summary.Accepted)
	if r.flags.resend {
		again, err := sender.Send(ctx, sender.Options{URL: r.daemon.apiURL(), Now: time.Now, Logger: r.log, Batch: 300}, hours.again())
		if err != nil {
			return fmt.Errorf("send events again: %w", err)
		}
		out.resent += again.Accepted
		fmt.Fprintf(r.story, "          and the same %d once more, in other batches\n", again.Accepted)
	}
	r.clock.AdvanceTo(window.End.Add(r.daemon.cfg.Closing.Grace.Std()))
	if err := r.awaitReported(ctx, window.End); err != nil {
		return err
	}
	fmt.Fprintf(r.story, "closed    %s to %s and reported\n", window.Start.Format("2006-01-02 15:04"), window.End.Format("15:04"))
	return nil
}

// awaitReported waits until every window up to end is closed and settled.
func (r *demoRun) awaitReported(ctx context.Context, end time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		closed, err := r.reported(ctx, end)
		if err == nil && closed {
			return nil
		}
		select {
		case <-ticker.C:
		case failure := <-r.ended:
			r.ended <- failure
			return errors.Join(errors.New("the daemon ended"), failure)
		case <-ctx.Done():
			return fmt.Errorf("the hour until %s was not reported: %s: %w", end.Format(time.RFC3339), r.why(err), ctx.Err())
		}
	}
}

// reported asks the books.
func (r *demoRun) reported(ctx context.Context, end time.Time) (bool, error) {
	last, ok, err := r.daemon.store.LastClosed(ctx)
	if err != nil || !ok || last.Window.End.Before(end) {
		return false, err
	}
	open, err := r.daemon.store.UnsettledBookings(ctx)
	return err == nil && len(open) == 0, err
}

// why describes the state of a daemon that does not get on.
func (r *demoRun) why(err error) string {
	status, encodeErr := json.Marshal(r.daemon.service.Status())
	return fmt.Sprintf("%v; status %s", errors.Join(err, encodeErr), status)
}

// invite leaves everything up until the user has seen enough.
func (r *demoRun) invite(ctx context.Context) {
	api := r.daemon.apiURL()
	fmt.Fprintf(r.story, `
Everything is still running; Ctrl-C ends it.
  marketplace sandbox   http://%[2]s/            records.csv: http://%[2]s/sandbox/v1/records.csv
  metrics, health       %[3]s/metrics   %[3]s/healthz/ready

Try next:
  curl -sS -i %[1]s/api/v1/events -H 'Content-Type: application/json' \
    -d '{"id":"try-1","source":"me","type":"%[4]s","subject":"vm-000","data":{"prompt_tokens":1200,"generated_tokens":"34.5"}}'
  curl -sS '%[1]s/api/v1/meters/%[5]s/query?windowSize=HOUR&groupBy=subject' -H 'Accept: text/csv' | head
  curl -sS '%[1]s/api/v1/bill-records?limit=2'
  bin/meterd bills list --server %[1]s --limit 5
  bin/meterd close --server %[1]s --until %[6]s
`, api, r.marketLn.Addr(), r.daemon.metricsURL(), demo.EventType, demo.MeterPrompt, r.clock.Now().Truncate(time.Hour).Format(time.RFC3339))
	<-ctx.Done()
	fmt.Fprintln(r.story, "\nstopping")
}
