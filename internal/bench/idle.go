package main

import (
	"context"
	"errors"
	"time"
)

// measureIdle reads the memory of a daemon that has nothing to do.
func (b *bench) measureIdle(ctx context.Context) (err error) {
	b.say("e  idle daemon without engine")
	config, what := daemonConfig{store: noStore}, "idle daemon, its store out of reach"
	if b.server {
		server, err := b.startServer(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.stop()) }()
		config, what = daemonConfig{store: server.config()}, "idle daemon with a clickhouse-server"
	}
	res := b.report.add("e", "%s", what)
	d, err := b.startMeterd(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stopMeterd(d)) }()
	if b.server {
		if err := d.awaitStore(ctx); err != nil {
			return err
		}
	}
	timer := time.NewTimer(b.plan.idle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	m, err := processMemory(d.pid())
	if err != nil {
		return err
	}
	res.got("resident memory", "MB", megabytes(m.resident)).most(60)
	return nil
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }
