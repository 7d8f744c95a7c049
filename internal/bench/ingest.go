package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const eventsPath = "/api/v1/events"

// intake is one measurement of durable ingest: the daemon without a store, so that nothing but the intake is measured.
type intake struct {
	*bench
	res    *result
	daemon *meterd
	ref    *child // the net/http limit
	load   load   // at the daemon
	refURL string
}

// measureIngest measures batches, over few and over many connections.
func (b *bench) measureIngest(ctx context.Context) error {
	for _, connections := range []int{8, 64} {
		err := b.measureIntake(ctx, fmt.Sprintf("a%d", connections), connections, batchEvents, func(res *result) {
			res.Figures[0].least(1_000_000)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// measureSingle measures one event a request.
func (b *bench) measureSingle(ctx context.Context) error {
	return b.measureIntake(ctx, "c", 64, 1, func(res *result) {
		res.Figures[0].least(25_000)
		named(&res.Figures, "ack p99", "ms").most(20)
	})
}

func (b *bench) measureIntake(ctx context.Context, id string, connections, batch int, judge func(*result)) (err error) {
	what := fmt.Sprintf("durable ingest, batches of %d, %d connections", batch, connections)
	if batch == 1 {
		what = fmt.Sprintf("durable ingest, one event a request, %d connections", connections)
	}
	b.say("%s  %s", id, what)
	m := &intake{bench: b, res: b.report.add(id, "%s", what)}
	if m.daemon, err = b.startMeterd(ctx, daemonConfig{store: noStore}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stopMeterd(m.daemon)) }()
	if m.ref, m.refURL, err = b.startLimit(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.ref.stop(10*time.Second)) }()
	m.load = load{
		url: m.daemon.API, path: eventsPath, connections: connections, batch: batch, instances: b.instances,
		hour: lastHour(), first: new(atomic.Uint64), duration: b.plan.warm,
	}
	for _, url := range []string{m.daemon.API, m.refURL} {
		warm := m.load
		warm.url = url
		if _, err := warm.send(ctx); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
	}
	for range b.plan.runs {
		if err := m.once(ctx); err != nil {
			return err
		}
		judge(m.res)
	}
	return nil
}

// once measures the daemon and then its limits.
func (m *intake) once(ctx context.Context) error {
	before, err := m.observe(ctx)
	if err != nil {
		return err
	}
	l := m.load
	l.duration = m.plan.run
	done, err := l.send(ctx)
	if err != nil {
		return err
	}
	after, err := m.observe(ctx)
	if err != nil {
		return err
	}
	if stored := after.ingested - before.ingested; stored != float64(done.events) {
		return fmt.Errorf("%d events were acknowledged, but the daemon counts %.0f", done.events, stored)
	}
	groups := after.syncs - before.syncs
	groupBytes := (after.written - before.written) / groups
	perGroup := float64(done.events) / groups
	rate, unit := m.rate(done)
	m.res.got(unit, "", rate)
	m.res.got("ack p50", "ms", done.p50.Seconds()*1000)
	m.res.got("ack p99", "ms", done.p99.Seconds()*1000)
	m.res.got("daemon's CPU an event", "µs", (after.cpu-before.cpu).Seconds()*1e6/float64(done.events))
	m.res.got("requests a sync", "", float64(done.requests)/groups)
	m.res.got("bytes written an event", "B", groupBytes/perGroup)
	return m.limits(ctx, int(groupBytes), perGroup)
}

// rate is what the target is about.
func (m *intake) rate(s sent) (float64, string) {
	if m.load.batch == 1 {
		return s.requestRate(), "requests/s"
	}
	return s.eventRate(), "events/s"
}

// limits measures what this machine could do at best.
func (m *intake) limits(ctx context.Context, groupBytes int, perGroup float64) error {
	_, unit := m.rate(sent{})
	raw, err := m.appendAndSync(ctx, groupBytes, m.plan.ref)
	if err != nil {
		return err
	}
	m.res.limit("append+fdatasync of what the spool writes", unit, raw*perGroup)
	fixed, name := 200<<10, "append+fdatasync of 200 KiB"
	if m.load.batch == 1 {
		fixed, name = 4<<10, "append+fdatasync of 4 KiB"
	}
	raw, err = m.appendAndSync(ctx, fixed, m.plan.ref/2)
	if err != nil {
		return err
	}
	m.res.limit(name, "syncs/s", raw)
	l := m.load
	l.url, l.duration = m.refURL, m.plan.ref
	done, err := l.send(ctx)
	if err != nil {
		return fmt.Errorf("net/http limit: %w", err)
	}
	rate, unit := m.rate(done)
	m.res.limit("net/http reads the same and answers 204", unit, rate)
	return nil
}

// observed is what is known of the daemon at one moment.
type observed struct {
	ingested, syncs, written float64
	cpu                      time.Duration
}

func (m *intake) observe(ctx context.Context) (observed, error) {
	values, err := m.daemon.metrics(ctx)
	if err != nil {
		return observed{}, err
	}
	cpu, err := processCPU(m.daemon.pid())
	return observed{
		ingested: values["meterd_ingest_events_total"], syncs: values["meterd_spool_syncs_total"],
		written: values["meterd_spool_written_bytes_total"], cpu: cpu,
	}, err
}

// lastHour is the beginning of the last full hour.
func lastHour() time.Time { return clockNow().UTC().Truncate(time.Hour).Add(-time.Hour) }
