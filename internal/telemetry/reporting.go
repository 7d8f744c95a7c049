package telemetry

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/meterd/meterd/reporter"
)

// ReportingObserver exports what the reporter tells. It implements reporter.Observer.
type ReportingObserver struct {
	records        metric.Int64Counter
	calls          metric.Int64Counter
	callTime       metric.Float64Histogram
	windows        metric.Int64Counter
	closeTime      metric.Float64Histogram
	breakerState   metric.Int64Gauge
	breakerOpened  metric.Int64Counter
	breakerChanges metric.Int64Counter
	bookings       metric.Int64Counter
	bookingTime    metric.Float64Histogram
	adjustments    metric.Int64Counter
	adjusted       metric.Float64Counter
}

var _ reporter.Observer = (*ReportingObserver)(nil)

// ReportingObserver makes the instruments.
func (t *Telemetry) ReportingObserver() (*ReportingObserver, error) {
	m := t.Meter()
	var o ReportingObserver
	var errs [12]error
	o.records, errs[0] = m.Int64Counter("meterd.reporter.records",
		metric.WithDescription("Bill records that went to a state, by state."))
	o.calls, errs[1] = m.Int64Counter("meterd.reporter.calls",
		metric.WithDescription("Calls to the marketplace, by class of the answer and the marketplace's code."))
	o.callTime, errs[2] = m.Float64Histogram("meterd.reporter.call.duration", metric.WithUnit("s"),
		metric.WithDescription("How long the marketplace took to answer."),
		metric.WithExplicitBucketBoundaries(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
	o.windows, errs[3] = m.Int64Counter("meterd.closing.windows",
		metric.WithDescription("Windows closed."))
	o.closeTime, errs[4] = m.Float64Histogram("meterd.closing.duration", metric.WithUnit("s"),
		metric.WithDescription("How long closing a window took, flush barrier included."),
		metric.WithExplicitBucketBoundaries(0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120))
	o.breakerState, errs[5] = m.Int64Gauge("meterd.reporter.breaker.state",
		metric.WithDescription("State of the marketplace's circuit breaker: 0 closed, 1 half-open, 2 open."))
	o.breakerOpened, errs[6] = m.Int64Counter("meterd.reporter.breaker.opened",
		metric.WithDescription("How often the circuit breaker opened."))
	o.breakerChanges, errs[7] = m.Int64Counter("meterd.reporter.breaker.changes",
		metric.WithDescription("Changes of a circuit breaker, by the state it went to."))
	o.bookings, errs[8] = m.Int64Counter("meterd.books.bookings",
		metric.WithDescription("Bookings committed by this process, by kind."))
	o.bookingTime, errs[9] = m.Float64Histogram("meterd.books.booking.duration", metric.WithUnit("s"),
		metric.WithDescription("How long making a booking took, by kind."),
		metric.WithExplicitBucketBoundaries(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120))
	o.adjustments, errs[10] = m.Int64Counter("meterd.books.adjustments",
		metric.WithDescription("Amounts that did not go into their hour's record, by where they went; sign is credit for negative ones."))
	o.adjusted, errs[11] = m.Float64Counter("meterd.books.adjusted.quantity",
		metric.WithDescription("What these amounts add up to, without their sign, in the meter's unit."))
	return &o, errors.Join(errs[:]...)
}

// RecordsChanged counts records by state.
func (o *ReportingObserver) RecordsChanged(state reporter.State, n int) {
	o.records.Add(context.Background(), int64(n), metric.WithAttributes(attribute.String("state", state.String())))
}

// CallDone counts and times calls.
func (o *ReportingObserver) CallDone(c reporter.Call) {
	market := attribute.String("marketplace", c.Marketplace)
	o.calls.Add(context.Background(), 1, metric.WithAttributes(market,
		attribute.String("class", c.Class.String()), attribute.String("code", boundedCode(c.Code))))
	o.callTime.Record(context.Background(), c.Latency.Seconds(), metric.WithAttributes(market))
}

// boundedCode keeps a marketplace that answers nonsense from making a time series of each answer.
func boundedCode(code string) string {
	const longest = 16
	if len(code) > longest {
		return "other"
	}
	for _, r := range code {
		ok := r == '.' || r == '_' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z'
		if !ok {
			return "other"
		}
	}
	return code
}

// Booked counts and times bookings.
func (o *ReportingObserver) Booked(b reporter.Booking, took time.Duration) {
	ctx := context.Background()
	kind := metric.WithAttributes(attribute.String("kind", b.Kind.String()))
	o.bookings.Add(ctx, 1, kind)
	o.bookingTime.Record(ctx, took.Seconds(), kind)
	if b.Kind == reporter.BookingClose {
		o.windows.Add(ctx, 1)
		o.closeTime.Record(ctx, took.Seconds())
	}
}

// Adjusted counts and adds up amounts that went somewhere else than into their hour's record.
func (o *ReportingObserver) Adjusted(a reporter.Adjustment) {
	ctx := context.Background()
	sign, amount := "debit", a.Quantity.Decimal()
	if amount.Sign() < 0 {
		sign, amount = "credit", amount.Neg()
	}
	attrs := metric.WithAttributes(attribute.String("meter", a.Meter), attribute.String("into", a.Into.String()), attribute.String("sign", sign))
	o.adjustments.Add(ctx, 1, attrs)
	o.adjusted.Add(ctx, amount.InexactFloat64(), attrs)
}

// BreakerChanged keeps the breaker's state and counts its changes.
func (o *ReportingObserver) BreakerChanged(marketplace string, to reporter.BreakerState) {
	ctx := context.Background()
	market := attribute.String("marketplace", marketplace)
	o.breakerState.Record(ctx, int64(to), metric.WithAttributes(market))
	o.breakerChanges.Add(ctx, 1, metric.WithAttributes(market, attribute.String("to", to.String())))
	if to == reporter.BreakerOpen {
		o.breakerOpened.Add(ctx, 1, metric.WithAttributes(market))
	}
}
