// Command bench measures the built meterd beside this machine's own limits: `make bench`.
//
// Each figure is taken from the real binary as a process of its own, over loopback, on a temporary data directory. Beside
// it stand limits measured in the same run, alternating with it: appending and syncing the same bytes, net/http
// that only reads and answers, clickhouse-go that only inserts. A figure of a machine that others use, too, means little; its
// ratio to such a limit means something. The program ends by itself within minutes, listens on loopback only, and ends no
// process but its own children.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main with everything it depends on. Exit codes: 0 measured, 1 a measurement failed, 2 wrong usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == limitCommand {
		if err := serveLimit(ctx, stdout); err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
		return 0
	}
	o, err := parseFlags(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	report, err := measure(ctx, o, stderr)
	// What was measured before a failure is worth printing.
	err = errors.Join(err, report.write(stdout, o.json))
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

// options say what to measure and how thoroughly.
type options struct {
	binary string // meterd; built when empty
	dir    string // parent of the temporary data
	only   string
	server bool // a clickhouse-server instead of the embedded engine
	json   bool
	keep   bool

	closeEvents, instances int
	days                   int // of history, at most
	plan                   plan
	smoke                  bool
}

// plan is how long and how often to measure.
type plan struct {
	runs           int           // repetitions of the short measurements
	warm, run, ref time.Duration // warm-up, one run of meterd, one run of a limit
	idle           time.Duration // how long the daemon idles before its memory is read
	insertBatch    int           // rows in one insert of the raw client
}

var (
	fullPlan  = plan{runs: 5, warm: time.Second, run: 4 * time.Second, ref: 2 * time.Second, idle: 5 * time.Second, insertBatch: 100_000}
	quickPlan = plan{runs: 3, warm: time.Second, run: 2 * time.Second, ref: time.Second, idle: 3 * time.Second, insertBatch: 100_000}
	smokePlan = plan{
		runs: 1, warm: 20 * time.Millisecond, run: 200 * time.Millisecond, ref: 100 * time.Millisecond, idle: 50 * time.Millisecond,
		insertBatch: 1000,
	}
)

// measurements in their order, with the names that --only takes.
var measurementNames = []string{"ingest", "single", "close", "idle", "growth"}

// usualMeasurements are those made when --only does not say; growth takes longer than all of them.
var usualMeasurements = measurementNames[:4]

func parseFlags(args []string, stderr io.Writer) (options, error) {
	o := options{plan: fullPlan}
	var quick bool
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.binary, "binary", os.Getenv("METERD_BINARY"), "the meterd to measure (default $METERD_BINARY, else one is built)")
	flags.StringVar(&o.dir, "dir", "", "directory, on the disk to measure, for the temporary data (default: the system's)")
	flags.StringVar(&o.only, "only", strings.Join(usualMeasurements, ","), "what to measure, separated by commas, of "+strings.Join(measurementNames, ", "))
	flags.BoolVar(&o.server, "server", false, "store into a clickhouse-server, started for this, instead of the embedded engine")
	flags.BoolVar(&o.json, "json", false, "print one JSON object instead of the table")
	flags.BoolVar(&o.keep, "keep", false, "keep the temporary data")
	flags.IntVar(&o.closeEvents, "close-events", 10_000_000, "events in the hour that is closed; a tenth is closed before, to see what grows")
	flags.IntVar(&o.instances, "instances", 100_000, "instances they belong to")
	flags.IntVar(&o.days, "days", 30, "days of history before the hour that is closed, for growth; a fourth is measured as well")
	flags.BoolVar(&quick, "quick", false, "1 M events over 10 k instances, shorter runs")
	flags.BoolVar(&o.smoke, "smoke", false, "tiny sizes, to see that everything works; the figures mean nothing")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see --help", flags.Arg(0))
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	size := func(events, instances int) {
		if !given["close-events"] {
			o.closeEvents = events
		}
		if !given["instances"] {
			o.instances = instances
		}
	}
	switch {
	case o.smoke:
		o.plan = smokePlan
		size(40_000, 200)
		if !given["days"] {
			o.days = 1
		}
	case quick:
		o.plan = quickPlan
		size(1_000_000, 10_000)
	}
	return o, o.check()
}

func (o options) check() error {
	var errs []error
	for name := range strings.SplitSeq(o.only, ",") {
		if !strings.Contains(","+strings.Join(measurementNames, ",")+",", ","+name+",") {
			errs = append(errs, fmt.Errorf("--only: must be of %s (got %q)", strings.Join(measurementNames, ", "), name))
		}
	}
	if o.closeEvents < 10*batchEvents {
		errs = append(errs, fmt.Errorf("--close-events: must be at least %d (got %d)", 10*batchEvents, o.closeEvents))
	}
	if o.instances < 1 || o.instances > min(o.closeEvents/10, maxInstances) {
		errs = append(errs, fmt.Errorf("--instances: must be from 1 to a tenth of --close-events, at most %d (got %d)", maxInstances, o.instances))
	}
	if o.days < 0 || o.days > 365 {
		errs = append(errs, fmt.Errorf("--days: must be from 0 to 365 (got %d)", o.days))
	}
	if o.wants("growth") && o.closeEvents < 40*batchEvents {
		errs = append(errs, fmt.Errorf("--close-events: must be at least %d for growth (got %d)", 40*batchEvents, o.closeEvents))
	}
	return errors.Join(errs...)
}

func (o options) wants(name string) bool {
	return strings.Contains(","+o.only+",", ","+name+",")
}

// bench is one run of the program.
type bench struct {
	options
	report   *report
	progress io.Writer
	self     string // this program, which also serves the net/http limit
	work     string // temporary data
}

// measure runs what was asked for. The report is valid, as far as it got, also with an error.
func measure(ctx context.Context, o options, progress io.Writer) (r *report, err error) {
	r = newReport(o)
	b := &bench{options: o, report: r, progress: progress}
	if b.self, err = os.Executable(); err != nil {
		return r, fmt.Errorf("find this program: %w", err)
	}
	if b.work, err = os.MkdirTemp(o.dir, "meterd-bench-"); err != nil {
		return r, fmt.Errorf("make a directory for the data: %w", err)
	}
	if !o.keep {
		defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	}
	if b.binary == "" {
		b.binary = filepath.Join(b.work, "meterd")
		b.say("building meterd")
		if err := buildMeterd(ctx, b.binary); err != nil {
			return r, err
		}
	}
	r.begin(b.work)
	for _, warning := range r.Warnings {
		b.say("warning: %s", warning)
	}
	defer r.end()
	steps := map[string]func(context.Context) error{
		"ingest": b.measureIngest, "single": b.measureSingle, "close": b.measureHour, "idle": b.measureIdle,
		"growth": b.measureGrowth,
	}
	for _, name := range measurementNames {
		if !o.wants(name) {
			continue
		}
		if err := steps[name](ctx); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx) // which names the signal
			}
			return r, fmt.Errorf("measure %s: %w", name, err)
		}
	}
	return r, nil
}

// say tells what happens now.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "%s  %s\n", clockNow().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// clockNow is the machine's time, which is what a benchmark measures.
func clockNow() time.Time { return time.Now() } //nolint:forbidigo // see above
