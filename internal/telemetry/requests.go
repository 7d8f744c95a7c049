package telemetry

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/meterd/meterd/internal/httpapi"
)

// RequestObserver returns a function that counts and times the API's requests. It allocates label sets once for each
// combination it meets, which httpapi keeps bounded.
func (t *Telemetry) RequestObserver() (func(httpapi.Observation), error) {
	m := t.Meter()
	requests, err1 := m.Int64Counter("meterd.http.requests",
		metric.WithDescription("Requests answered by the API, by route, method, status and name of the API key."))
	duration, err2 := m.Float64Histogram("meterd.http.request.duration", metric.WithUnit("s"),
		metric.WithDescription("How long the API took to answer, by route."),
		metric.WithExplicitBucketBoundaries(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30))
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	var labels labelCache
	return func(o httpapi.Observation) {
		l := labels.of(o)
		requests.Add(context.Background(), 1, l.request)
		duration.Record(context.Background(), o.Duration.Seconds(), l.route)
	}, nil
}

// requestLabels are the options of one combination of labels.
type requestLabels struct {
	request metric.AddOption
	route   metric.RecordOption
}

type labelKey struct {
	route, method, key string
	status             int
}

// labelCache keeps the hot path from building the same label sets again and again.
type labelCache struct{ m sync.Map } // labelKey → requestLabels

func (c *labelCache) of(o httpapi.Observation) requestLabels {
	k := labelKey{o.Route, o.Method, o.Key, o.Status}
	if l, ok := c.m.Load(k); ok {
		return l.(requestLabels)
	}
	l := requestLabels{
		request: metric.WithAttributeSet(attribute.NewSet(
			attribute.String("route", o.Route), attribute.String("method", o.Method),
			attribute.String("status", strconv.Itoa(o.Status)), attribute.String("key", o.Key))),
		route: metric.WithAttributeSet(attribute.NewSet(attribute.String("route", o.Route))),
	}
	c.m.Store(k, l)
	return l
}
