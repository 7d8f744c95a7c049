package telemetry

import (
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
			name: "meterd.reporter.due_records", gauge: true, help: "Bill records left to send as of the last pass.",
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
			name: "meterd.reporter.failed_rounds", gauge: true, help: "Rounds in a row that left something undone.",
			value: func(s reporter.Status) float64 { return float64(s.Failures) },
		},
		{
			name: "meterd.closing.failing", gauge: true, help: "1 while the last attempt to close a window failed.",
			value: func(s reporter.Status) float64 { return oneIf(s.CloseErr != "") },
		},
		{
			name: "meterd.closing.age", unit: "s", gauge: true, help: "Time since the end of the last closed window; 0 if none was closed yet.",
			value: func(s reporter.Status) float64 { return age(s.LastClosed.Window.End, s.Now) },
		},
	}, status)
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
