package main

import (
	"context"
	"errors"
	"time"
)

// measureIdle reads the memory of a daemon that has nothing to do.
func (b *bench) measureIdle(ctx context.Context) (err error) {
	b.say("e  idle daemon without engine")
	res := b.report.add("e", "idle daemon, its store out of reach")
	d, err := b.startMeterd(ctx, daemonConfig{store: noStore})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.stopMeterd(d)) }()
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
