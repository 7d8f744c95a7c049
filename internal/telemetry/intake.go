package telemetry

import (
	"github.com/meterd/meterd/meter"
)

// ObserveIngest exports what the ingester counted.
func (t *Telemetry) ObserveIngest(stats func() meter.IngestStats) error {
	return observe(t.Meter(), []reading[meter.IngestStats]{
		{
			name: "meterd.ingest.batches", help: "Requests whose events were made durable.",
			value: func(s meter.IngestStats) float64 { return float64(s.Batches) },
		},
		{
			name: "meterd.ingest.events", help: "Events made durable, duplicates and conflicts included.",
			value: func(s meter.IngestStats) float64 { return float64(s.Accepted) },
		},
		{
			name: "meterd.ingest.duplicates", help: "Events that repeated an earlier event of the same request.",
			value: func(s meter.IngestStats) float64 { return float64(s.Duplicates) },
		},
		{
			name: "meterd.ingest.conflicts", help: "Events with the identity of another event of the same request and other content.",
			value: func(s meter.IngestStats) float64 { return float64(s.Conflicts) },
		},
		{
			name: "meterd.ingest.without_meter", help: "Durable events whose type no meter has; kept as raw events.",
			value: func(s meter.IngestStats) float64 { return float64(s.WithoutMeter) },
		},
		{
			name: "meterd.ingest.stamped", help: "Durable events that came without a time.",
			value: func(s meter.IngestStats) float64 { return float64(s.Stamped) },
		},
		{
			name: "meterd.ingest.rejected", help: "Events refused for a fault of their own, by reason.", label: "reason",
			labelled: func(s meter.IngestStats) map[string]float64 { return byLabel(s.Rejected) },
		},
		{
			name: "meterd.ingest.refused", help: "Good events refused because another event of their request was bad.",
			value: func(s meter.IngestStats) float64 { return float64(s.Refused) },
		},
		{
			name: "meterd.ingest.failed", help: "Events that could not be made durable, by cause; their senders were told.", label: "cause",
			labelled: func(s meter.IngestStats) map[string]float64 { return byLabel(s.Failed) },
		},
	}, stats)
}

func byLabel[K ~string](counts map[K]uint64) map[string]float64 {
	out := make(map[string]float64, len(counts))
	for k, v := range counts {
		out[string(k)] = float64(v)
	}
	return out
}

// ObserveLoader exports how far the loader is.
func (t *Telemetry) ObserveLoader(progress func() meter.LoaderProgress) error {
	return observe(t.Meter(), []reading[meter.LoaderProgress]{
		{
			name: "meterd.loader.events", help: "Events confirmed by the store.",
			value: func(p meter.LoaderProgress) float64 { return float64(p.Events) },
		},
		{
			name: "meterd.loader.batches", help: "Inserts confirmed by the store.",
			value: func(p meter.LoaderProgress) float64 { return float64(p.Batches) },
		},
		{
			name: "meterd.loader.retries", help: "Failed attempts to read, insert or confirm; they are repeated until they succeed.",
			value: func(p meter.LoaderProgress) float64 { return float64(p.Retries) },
		},
		{
			name: "meterd.loader.refused", help: "Accepted events that the store refused; they are in the dead letters.",
			value: func(p meter.LoaderProgress) float64 { return float64(p.Refused) },
		},
		{
			name: "meterd.loader.undecodable", help: "Spooled payloads that could not be decoded; they are in the dead letters.",
			value: func(p meter.LoaderProgress) float64 { return float64(p.Payloads) },
		},
		{
			name: "meterd.loader.late", help: "Events of hours that were closed already.",
			value: func(p meter.LoaderProgress) float64 { return float64(p.Late) },
		},
		{
			name: "meterd.loader.no_value", help: "Values of a meter that could not be read from an accepted event.",
			value: func(p meter.LoaderProgress) float64 { return float64(p.NoValue) },
		},
		{
			name: "meterd.loader.panics", help: "Panics recovered in the loader.",
			value: func(p meter.LoaderProgress) float64 { return float64(p.Panics) },
		},
	}, progress)
}

// ObserveDeadLetters exports the state of the dead-letter file.
func (t *Telemetry) ObserveDeadLetters(stats func() meter.DeadLetterStats) error {
	return observe(t.Meter(), []reading[meter.DeadLetterStats]{
		{
			name: "meterd.dead_letters.count", gauge: true, help: "Refused events in the dead-letter file.",
			value: func(s meter.DeadLetterStats) float64 { return float64(s.Letters) },
		},
		{
			name: "meterd.dead_letters.size", unit: "By", gauge: true, help: "Size of the dead-letter file.",
			value: func(s meter.DeadLetterStats) float64 { return float64(s.Bytes) },
		},
		{
			name: "meterd.dead_letters.written", help: "Refused events written to the dead-letter file.",
			value: func(s meter.DeadLetterStats) float64 { return float64(s.Written) },
		},
		{
			name: "meterd.dead_letters.repeated", help: "Refused events not written again because the dead-letter file has the same one.",
			value: func(s meter.DeadLetterStats) float64 { return float64(s.Repeated) },
		},
		{
			name: "meterd.dead_letters.dropped", help: "Refused events not kept because the dead-letter file was full.",
			value: func(s meter.DeadLetterStats) float64 { return float64(s.Dropped) },
		},
		{
			name: "meterd.dead_letters.failed", help: "Refused events not kept because writing them failed.",
			value: func(s meter.DeadLetterStats) float64 { return float64(s.Failed) },
		},
	}, stats)
}
