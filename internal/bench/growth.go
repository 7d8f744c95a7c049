package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// growthPoint is one combination of what the cost of a close might depend on.
type growthPoint struct {
	events, instances, days int
}

// growthPoints vary one thing at a time: events, instances, and days of history. History is made with a tenth of the
// instances, so that 30 days of it (7.2 M records) are there within minutes.
func (o options) growthPoints() []growthPoint {
	few := max(o.instances/10, 1)
	if o.smoke {
		return []growthPoint{{o.closeEvents / 4, few, o.days}}
	}
	return []growthPoint{
		{o.closeEvents / 4, o.instances, 0},
		{o.closeEvents / 2, o.instances, 0},
		{o.closeEvents, o.instances, 0},
		{o.closeEvents, few, 0},
		{o.closeEvents / 4, few, 0},
		{o.closeEvents / 4, few, o.days / 4},
		{o.closeEvents / 4, few, o.days},
	}
}

// measureGrowth closes an hour at each point, each time with a new daemon on new books.
func (b *bench) measureGrowth(ctx context.Context) error {
	begins := lastHour()
	res := b.report.add("g", "how the close of an hour grows (%s)", b.engineName())
	res.Table = [][]string{{
		"events", "instances", "days of history", "closing s", "delivery s", "daemon MB", "engine MB", "engine MB, loading",
	}}
	for _, p := range b.growthPoints() {
		b.say("g  %s events, %s instances, %d days of history", short(float64(p.events)), short(float64(p.instances)), p.days)
		row, err := b.growthRun(ctx, p, begins)
		if err != nil {
			return fmt.Errorf("%+v: %w", p, err)
		}
		res.Table = append(res.Table, row)
		b.say("g  closed in %s s, delivered in %s s", row[3], row[4])
	}
	return nil
}

// growthRun closes one hour and returns its line of the table.
func (b *bench) growthRun(ctx context.Context, p growthPoint, begins time.Time) (row []string, err error) {
	sized := *b
	sized.instances = p.instances
	h := &hour{bench: &sized, events: p.events - p.events%batchEvents, begins: begins}
	if err := h.start(ctx); err != nil {
		return nil, errors.Join(err, h.stop())
	}
	defer func() { err = errors.Join(err, h.stop()) }()
	if p.days > 0 {
		began := clockNow()
		if err := h.writeHistory(ctx, p.days); err != nil {
			return nil, fmt.Errorf("write history: %w", err)
		}
		b.say("g  %d hours of history written in %.0f s", 24*p.days, time.Since(began).Seconds())
	}
	measured := &result{}
	tokens, err := h.fill(ctx, &result{}, measured)
	if err != nil {
		return nil, fmt.Errorf("fill the hour: %w", err)
	}
	if err := h.close(ctx, measured, tokens); err != nil {
		return nil, fmt.Errorf("close the hour: %w", err)
	}
	row = []string{short(float64(h.events)), short(float64(h.instances)), strconv.Itoa(p.days)}
	for _, name := range []string{
		"of it closing", deliveryFigure, "daemon's peak memory while closing and delivering",
		"engine's peak memory while closing and delivering", "engine's peak memory while loading",
	} {
		row = append(row, measured.value(name))
	}
	return row, nil
}

// deliveryFigure begins the name of the figure that has the number of calls in it.
const deliveryFigure = "of it delivery"
