package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"sync/atomic"
	"time"
)

// hour is one hour of events on its way through a daemon: sent, loaded, closed, delivered.
type hour struct {
	*bench
	events  int
	begins  time.Time
	daemon  *meterd
	engine  engine
	sandbox *child
	shop    string // the sandbox's URL
}

// measureHour fills an hour and closes it, first a small one, to see what grows with the number of events, then the whole
// one. Filling it is the measurement of sustained ingest.
func (b *bench) measureHour(ctx context.Context) error {
	begins := lastHour() // of both runs, whatever the clock does meanwhile
	size := fmt.Sprintf("%s events, %s instances", short(float64(b.closeEvents)), short(float64(b.instances)))
	few := b.closeEvents / 10
	b.say("d  fill and close an hour of %s events first", short(float64(few)))
	before := &result{}
	if err := b.runHour(ctx, few, begins, &result{}, before, false); err != nil {
		return err
	}
	b.say("b, d  fill and close an hour of %s", size)
	sustained := b.report.add("b", "sustained into ClickHouse (%s): %s, batches of %d, 8 connections", b.engineName(), size, batchEvents)
	closing := b.report.add("d", "close of an hour and delivery to the sandbox: %s", size)
	if err := b.runHour(ctx, b.closeEvents, begins, sustained, closing, true); err != nil {
		return err
	}
	for _, f := range before.Figures {
		closing.note("with %s events: %s %s %s", short(float64(few)), f.Name, short(f.Median), f.Unit)
	}
	return nil
}

// runHour runs one hour of events; limits says whether to measure those of the engine as well.
func (b *bench) runHour(ctx context.Context, events int, begins time.Time, sustained, closing *result, limits bool) (err error) {
	h := &hour{bench: b, events: events - events%batchEvents, begins: begins} // the client sends whole batches
	if err := h.start(ctx); err != nil {
		return errors.Join(err, h.stop())
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	tokens, err := h.fill(ctx, sustained, closing)
	if err != nil {
		return fmt.Errorf("fill the hour: %w", err)
	}
	if err := h.close(ctx, closing, tokens); err != nil {
		return fmt.Errorf("close the hour: %w", err)
	}
	if !limits {
		return nil
	}
	h.say("b  limit: clickhouse-go alone")
	return h.rawInserts(ctx, sustained)
}

var sandboxPage = regexp.MustCompile(`^\s*page\s+(http://\S+)/$`)

// start starts sandbox, engine and daemon.
func (h *hour) start(ctx context.Context) (err error) {
	h.sandbox, err = startChild("meterd sandbox", h.binary, []string{"METERD_SANDBOX_KEY=" + sellerKey}, "sandbox",
		"--listen", "127.0.0.1:0", "--validation-delay", "-1s", "--max-records", strconv.Itoa(2*h.instances))
	if err != nil {
		return err
	}
	h.shop, err = h.sandbox.await(ctx, func(line string) (string, bool) {
		found := sandboxPage.FindStringSubmatch(line)
		if found == nil {
			return "", false
		}
		return found[1], true
	})
	if err != nil {
		return err
	}
	if h.engine, err = h.startEngine(ctx); err != nil {
		return err
	}
	if h.daemon, err = h.startMeterd(ctx, daemonConfig{store: h.engine.config(), market: h.shop}); err != nil {
		return err
	}
	if err := h.daemon.awaitStore(ctx); err != nil {
		return err
	}
	return errors.Join(h.daemon.awaitIdle(ctx), h.engine.attach(h.daemon))
}

// stop ends what was started.
func (h *hour) stop() error {
	var errs []error
	if h.daemon != nil {
		errs = append(errs, h.stopMeterd(h.daemon))
	}
	if h.engine != nil {
		errs = append(errs, h.engine.stop())
	}
	if h.sandbox != nil {
		errs = append(errs, h.sandbox.stop(10*time.Second))
	}
	return errors.Join(errs...)
}

// backlog is how many durable events the store may lack before the client waits: then events come as fast as they are
// stored, as in a run without end.
const backlog = 1_000_000

// fill sends the hour's events and waits until the store has confirmed every one of them. It returns the sum of their quantities.
func (h *hour) fill(ctx context.Context, res, closing *result) (uint64, error) {
	pace := &pacer{daemon: h.daemon}
	pacing, stopPacing := context.WithCancel(ctx)
	defer stopPacing()
	go pace.watch(pacing) // ends with pacing
	cpuBefore, err := processCPU(h.daemon.pid())
	if err != nil {
		return 0, err
	}
	began := clockNow()
	done, err := load{
		url: h.daemon.API, path: eventsPath, connections: 8, batch: batchEvents, events: uint64(h.events), //nolint:gosec // positive
		instances: h.instances, hour: h.begins, first: new(atomic.Uint64), hold: pace.hold,
	}.send(ctx)
	if err != nil {
		return 0, err
	}
	err = h.daemon.poll(ctx, 10*time.Minute, "store what it took", func(m metrics) bool {
		return m["meterd_loader_events_total"] >= float64(h.events) && m["meterd_spool_unconfirmed_events"] == 0
	})
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	cpuAfter, err := processCPU(h.daemon.pid())
	if err != nil {
		return 0, err
	}
	res.got("events/s", "", float64(done.events)/took.Seconds()).least(200_000)
	res.got("ack p50, most of it waiting for its turn", "ms", done.p50.Seconds()*1000)
	res.got("ack p99", "ms", done.p99.Seconds()*1000)
	res.got("daemon's CPU an event", "µs", (cpuAfter-cpuBefore).Seconds()*1e6/float64(done.events))
	cpu, err := processCPU(h.engine.pid())
	if err != nil {
		return 0, err
	}
	res.got("engine's CPU an event, merges included", "µs", cpu.Seconds()*1e6/float64(done.events))
	return done.tokens, h.peaks(closing, "while loading")
}

// pacer holds the client back while the store lags behind.
type pacer struct {
	daemon      *meterd
	unconfirmed atomic.Int64
}

// watch looks at the daemon until ctx ends.
func (p *pacer) watch(ctx context.Context) {
	ticker := time.NewTicker(200 * time.Millisecond) // reading metrics costs the daemon time as well
	defer ticker.Stop()
	for {
		if m, err := p.daemon.metrics(ctx); err == nil {
			p.unconfirmed.Store(int64(m["meterd_spool_unconfirmed_events"]))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *pacer) hold(ctx context.Context) error {
	for p.unconfirmed.Load() > backlog {
		timer := time.NewTimer(10 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// peaks notes the memory of daemon and engine since the last call.
func (h *hour) peaks(res *result, when string) error {
	for _, p := range []struct {
		name  string
		pid   int
		limit float64
	}{{"daemon", h.daemon.pid(), 512}, {"engine", h.engine.pid(), 0}} {
		m, err := processMemory(p.pid)
		if err != nil {
			return err
		}
		f := res.got(p.name+"'s peak memory "+when, "MB", megabytes(m.peak))
		if p.limit > 0 {
			f.most(p.limit)
		}
		if err := resetPeak(p.pid); err != nil {
			return err
		}
	}
	return nil
}

// close closes the hour and checks that the marketplace got every record and the exact sum.
func (h *hour) close(ctx context.Context, res *result, tokens uint64) error {
	until := h.begins.Add(time.Hour).Format(time.RFC3339)
	closed := make(chan time.Duration, 1)
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	began := clockNow()
	go func() { closed <- h.awaitClosed(watching, began) }()
	var answer struct {
		Events, Usages, Records uint64
		Delivered               struct{ Accepted, Calls int }
	}
	if err := callJSON(ctx, http.MethodPost, h.daemon.API+"/api/v1/admin/close", `{"until":"`+until+`"}`, &answer); err != nil {
		return err
	}
	took := time.Since(began)
	stopWatching()
	closing := <-closed
	if answer.Events != uint64(h.events) || answer.Records != uint64(h.instances) || answer.Delivered.Accepted != h.instances { //nolint:gosec // positive
		return fmt.Errorf("%d events and %d instances were sent, the close tells of %d events, %d records and %d accepted", h.events, h.instances,
			answer.Events, answer.Records, answer.Delivered.Accepted)
	}
	if err := h.checkShop(ctx, tokens); err != nil {
		return err
	}
	res.got("closed and all records accepted", "s", took.Seconds()).most(60)
	if closing > 0 {
		res.got("of it closing", "s", closing.Seconds())
		res.got(fmt.Sprintf("of it delivery, in %d calls", answer.Delivered.Calls), "s", (took - closing).Seconds())
	}
	return h.peaks(res, "while closing and delivering")
}

// awaitClosed returns when, since began, the daemon's books had the hour closed; 0 when it can't be told.
func (h *hour) awaitClosed(ctx context.Context, began time.Time) time.Duration {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		status, err := h.daemon.status(ctx)
		if err == nil && !status.LastClosed.Window.End.Before(h.begins.Add(time.Hour)) {
			return time.Since(began)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return 0
		}
	}
}

// checkShop compares the marketplace's books with what was sent, to the last token.
func (h *hour) checkShop(ctx context.Context, tokens uint64) error {
	var summary struct {
		Total struct {
			Records    int
			UsageValue json.Number `json:"usage_value"`
		} `json:"total"`
	}
	text, err := call(ctx, http.MethodGet, h.shop+"/sandbox/v1/summary", "")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &summary); err != nil {
		return fmt.Errorf("read the sandbox's summary: %w", err)
	}
	if summary.Total.Records != h.instances || summary.Total.UsageValue.String() != strconv.FormatUint(tokens, 10) {
		return fmt.Errorf("%d tokens of %d instances were sent, the marketplace has %s in %d records", tokens, h.instances,
			summary.Total.UsageValue, summary.Total.Records)
	}
	return nil
}
