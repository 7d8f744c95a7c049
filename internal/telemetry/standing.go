package telemetry

import (
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/meterd/meterd/reporter"
)

// ObserveReporting exports where closing and delivery stand.
func (t *Telemetry) ObserveReporting(status func() reporter.Status) error {
	return observe(t.Meter(), []reading[reporter.Status]{
		{
			name: "meterd.reporter.deadline", unit: "s", gauge: true,
			help:  "Time until the oldest unsettled window is late, or else the running hour's; negative once it has passed.",
			value: func(s reporter.Status) float64 { return s.UntilDeadline.Seconds() },
		},
		{
			name: "meterd.reporter.due_records", gauge: true, help: "Bill records left to send as of the last pass; 0 while another daemon delivers them.",
			value: func(s reporter.Status) float64 { return float64(s.DueRecords()) },
		},
		{
			name: "meterd.reporter.oldest_unsettled", unit: "s", gauge: true,
			help: "Time since the end of the oldest window with records left to send; 0 if there is none.",
			value: func(s reporter.Status) float64 {
				if w := s.OldestUnsettled(); !w.IsZero() {
					return age(w.End, s.Now)
				}
				return 0
			},
		},
		{
			name: "meterd.reporter.misconfigured", gauge: true,
			help: "1 while the marketplace refuses our key, signature, clock or authority and delivery stands still.",
			value: func(s reporter.Status) float64 {
				return oneIf(s.Delivery != nil && s.Delivery.Misconfigured != nil)
			},
		},
		{
			name: "meterd.reporter.shadow.due_records", gauge: true,
			help: "Bill records in mode shadow left to send to the shadow destination as of the last pass.",
			value: func(s reporter.Status) float64 {
				if s.Delivery == nil || s.Delivery.LastPass.Shadow == nil {
					return 0
				}
				return float64(s.Delivery.LastPass.Shadow.DueLeft)
			},
		},
		{
			name: "meterd.reporter.throttled", unit: "s", gauge: true,
			help: "How much longer the marketplace asked to be left alone; 0 if it didn't.",
			value: func(s reporter.Status) float64 {
				if s.Delivery == nil || s.Delivery.ThrottledUntil.IsZero() {
					return 0
				}
				return max(s.Delivery.ThrottledUntil.Sub(s.Now).Seconds(), 0)
			},
		},
		{
			name: "meterd.lease.held", gauge: true,
			help:  "1 while this process closes and delivers, 0 while another one holds the lease. Without a lease always 1.",
			value: func(s reporter.Status) float64 { return oneIf(!s.Standby()) },
		},
		{
			name: "meterd.clock.distrusted", gauge: true, help: "1 while nothing is closed because this machine's clock can't be trusted.",
			value: func(s reporter.Status) float64 { return oneIf(s.ClockErr != "") },
		},
		{
			name: "meterd.preflight.passed", gauge: true, label: "check",
			help: "1 if the check passed in the last preflight, 0 if it failed. None before the first preflight.",
			labelled: func(s reporter.Status) map[string]float64 {
				values := map[string]float64{}
				if s.Preflight != nil {
					for _, r := range s.Preflight.Results {
						values[r.Name] = oneIf(r.OK)
					}
				}
				return values
			},
		},
		{
			name: "meterd.preflight.age", unit: "s", gauge: true, help: "Time since the last preflight; 0 if there was none.",
			value: func(s reporter.Status) float64 {
				if s.Preflight == nil {
					return 0
				}
				return age(s.Preflight.At, s.Now)
			},
		},
		{
			name: "meterd.reporter.failed_rounds", gauge: true, help: "Rounds in a row that left something undone.",
			value: func(s reporter.Status) float64 { return float64(s.Failures) },
		},
		{
			name: "meterd.closing.failing", gauge: true, help: "1 while the last attempt to close a window failed.",
			value: func(s reporter.Status) float64 { return oneIf(s.CloseErr != "") },
		},
		{
			name: "meterd.closing.age", unit: "s", gauge: true, help: "Time since the end of the last closed window; 0 if none was closed yet, or while another daemon closes them.",
			value: func(s reporter.Status) float64 {
				if s.Standby() {
					return 0
				}
				return age(s.LastClosed.Window.End, s.Now)
			},
		},
	}, status)
}

// ObserveClock exports how far this machine's clock is ahead of the marketplace's, as the marketplace's client last saw it.
func (t *Telemetry) ObserveClock(offset func() (ahead time.Duration, at time.Time, ok bool)) error {
	return observe(t.Meter(), []reading[time.Duration]{{
		name: "meterd.clock.offset", unit: "s", gauge: true,
		help:  "How far this machine's clock was ahead of the marketplace's at its last answer; negative: behind. 0 before the first.",
		value: func(ahead time.Duration) float64 { return ahead.Seconds() },
	}}, func() time.Duration {
		ahead, _, ok := offset()
		if !ok {
			return 0
		}
		return ahead
	})
}

// ObserveSLO exports what is at risk. The currency is that of the meters' prices; without one money is not exported.
func (t *Telemetry) ObserveSLO(status func() reporter.SLOStatus, currency string, now func() time.Time) error {
	byMeter := func(value func(reporter.AtRisk) float64, wanted func(reporter.AtRisk) bool) func(reporter.SLOStatus) map[string]float64 {
		return func(s reporter.SLOStatus) map[string]float64 {
			values := map[string]float64{}
			for _, a := range s.Meters {
				if wanted == nil || wanted(a) {
					values[a.Meter] = value(a)
				}
			}
			return values
		}
	}
	readings := []reading[reporter.SLOStatus]{
		{
			name: "meterd.slo.unsettled", gauge: true, help: "Bookings with bill records that have no final state.",
			value: func(s reporter.SLOStatus) float64 { return float64(s.Unsettled) },
		},
		{
			name: "meterd.slo.overdue", gauge: true, help: "Those of them whose deadline, 15 minutes after the end of the window, has passed.",
			value: func(s reporter.SLOStatus) float64 { return float64(s.Overdue) },
		},
		{
			name: "meterd.slo.deadline", unit: "s", gauge: true,
			help: "Time until the deadline of the oldest of them, negative once it has passed; 0 if there is none.",
			value: func(s reporter.SLOStatus) float64 {
				if s.Deadline.IsZero() {
					return 0
				}
				return s.Deadline.Sub(now()).Seconds()
			},
		},
		{
			name: "meterd.slo.at_risk.records", gauge: true, label: "meter",
			help:     "Live bill records that are due, rejected, held or failed.",
			labelled: byMeter(func(a reporter.AtRisk) float64 { return float64(a.Records) }, nil),
		},
		{
			name: "meterd.slo.at_risk.quantity", gauge: true, label: "meter", help: "What they bill, in billed units.",
			labelled: byMeter(func(a reporter.AtRisk) float64 { return a.Billed.Decimal().InexactFloat64() }, nil),
		},
		{
			name: "meterd.slo.at_risk.by_state", gauge: true, label: "state", help: "The same records by state.",
			labelled: func(s reporter.SLOStatus) map[string]float64 {
				values := map[string]float64{}
				for _, state := range reporter.AtRiskStates() {
					values[state.String()] = 0
				}
				for _, a := range s.Meters {
					for state, n := range a.States {
						values[state.String()] += float64(n)
					}
				}
				return values
			},
		},
		{
			name: "meterd.slo.failing", gauge: true, help: "1 while the books can't be asked what is at risk; the figures are old then.",
			value: func(s reporter.SLOStatus) float64 { return oneIf(s.Err != "") },
		},
	}
	if currency != "" {
		readings = append(readings, reading[reporter.SLOStatus]{
			name: "meterd.slo.at_risk.money", gauge: true, label: "meter", constant: []attribute.KeyValue{attribute.String("currency", currency)},
			help: "What they would cost the customers at the configured price, of meters that have one.",
			labelled: byMeter(func(a reporter.AtRisk) float64 { return a.Money.Decimal().InexactFloat64() },
				func(a reporter.AtRisk) bool { return a.Priced }),
		})
	}
	return observe(t.Meter(), readings, status)
}

// ObserveVerify exports the result of the last verification of the books; ok is false before the first.
func (t *Telemetry) ObserveVerify(last func() (run reporter.VerifyRun, ok bool), now func() time.Time) error {
	type state struct {
		run reporter.VerifyRun
		ok  bool
	}
	return observe(t.Meter(), []reading[state]{
		{
			name: "meterd.verify.ok", gauge: true,
			help:  "1 if the last verification of the books finished without a difference, or none was made yet.",
			value: func(s state) float64 { return oneIf(!s.ok || s.run.OK()) },
		},
		{
			name: "meterd.verify.failing", gauge: true, help: "1 if the last verification could not finish, so that nothing is known.",
			value: func(s state) float64 { return oneIf(s.ok && s.run.Err != "") },
		},
		{
			name: "meterd.verify.differences", gauge: true, help: "Differences that the last verification found.",
			value: func(s state) float64 { return float64(s.run.Report.DifferenceCount) },
		},
		{
			name: "meterd.verify.age", unit: "s", gauge: true, help: "Time since the last verification began; 0 if there was none.",
			value: func(s state) float64 { return age(s.run.At, now()) },
		},
		{
			name: "meterd.verify.duration", unit: "s", gauge: true, help: "How long the last verification took.",
			value: func(s state) float64 { return s.run.Took.Seconds() },
		},
	}, func() state {
		run, ok := last()
		return state{run, ok}
	})
}

// StoreStats is where the store stands.
type StoreStats struct {
	Open           bool
	EngineRestarts uint64
}

// ObserveStore exports whether the store was reached, and the embedded engine's crashes.
func (t *Telemetry) ObserveStore(stats func() StoreStats) error {
	return observe(t.Meter(), []reading[StoreStats]{
		{
			name: "meterd.store.open", gauge: true, help: "1 once ClickHouse was reached and its tables are up to date.",
			value: func(s StoreStats) float64 { return oneIf(s.Open) },
		},
		{
			name: "meterd.engine.restarts", help: "How often the embedded engine had to be started again.",
			value: func(s StoreStats) float64 { return float64(s.EngineRestarts) },
		},
	}, stats)
}

func oneIf(condition bool) float64 {
	if condition {
		return 1
	}
	return 0
}
