package telemetry

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// reading is one instrument that is read when somebody asks, from a snapshot of type S that all instruments of a source
// share: one look at the source per scrape.
type reading[S any] struct {
	name  string // OpenTelemetry name; "meterd.spool.size" with unit "By" is meterd_spool_size_bytes in Prometheus
	unit  string
	help  string // a sentence
	gauge bool   // else a counter
	// Exactly one of these is set. Labelled values have one label, whose values come from a fixed set.
	value    func(S) float64
	label    string
	labelled func(S) map[string]float64
	// constant labels are the same for every value.
	constant []attribute.KeyValue
}

// observe registers the readings of one source.
func observe[S any](m metric.Meter, readings []reading[S], snapshot func() S) error {
	instruments := make([]metric.Observable, len(readings))
	for i, r := range readings {
		var err error
		if r.gauge {
			instruments[i], err = m.Float64ObservableGauge(r.name, metric.WithUnit(r.unit), metric.WithDescription(r.help))
		} else {
			instruments[i], err = m.Float64ObservableCounter(r.name, metric.WithUnit(r.unit), metric.WithDescription(r.help))
		}
		if err != nil {
			return fmt.Errorf("register metric %s: %w", r.name, err)
		}
	}
	_, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := snapshot()
		for i, r := range readings {
			observeOne(o, instruments[i].(metric.Float64Observable), r, s)
		}
		return nil
	}, instruments...)
	if err != nil {
		return fmt.Errorf("register metrics callback: %w", err)
	}
	return nil
}

func observeOne[S any](o metric.Observer, instrument metric.Float64Observable, r reading[S], s S) {
	if r.labelled == nil {
		o.ObserveFloat64(instrument, r.value(s), metric.WithAttributes(r.constant...))
		return
	}
	for label, v := range r.labelled(s) {
		o.ObserveFloat64(instrument, v, metric.WithAttributes(append([]attribute.KeyValue{attribute.String(r.label, label)}, r.constant...)...))
	}
}

// age is the time since t in seconds; 0 for the zero time and for the future.
func age(t, now time.Time) float64 {
	if t.IsZero() || t.After(now) {
		return 0
	}
	return now.Sub(t).Seconds()
}
