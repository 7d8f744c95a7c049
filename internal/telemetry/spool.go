package telemetry

import (
	"time"

	"github.com/meterd/meterd/meter/spool"
)

// ObserveSpool exports the spool's levels and counters.
func (t *Telemetry) ObserveSpool(stats func() spool.Stats, now func() time.Time) error {
	return observe(t.Meter(), []reading[spool.Stats]{
		{
			name: "meterd.spool.unconfirmed", unit: "By", gauge: true, help: "Bytes on disk that the store has not confirmed.",
			value: func(s spool.Stats) float64 { return float64(s.UnconfirmedBytes + s.QueuedBytes) },
		},
		{
			name: "meterd.spool.capacity", unit: "By", gauge: true, help: "Bound of the unconfirmed bytes; ingest answers 429 beyond it.",
			value: func(s spool.Stats) float64 { return float64(s.CapacityBytes) },
		},
		{
			name: "meterd.spool.disk", unit: "By", gauge: true, help: "Size of the segment files.",
			value: func(s spool.Stats) float64 { return float64(s.DiskBytes) },
		},
		{
			name: "meterd.spool.unconfirmed_events", gauge: true, help: "Durable events that the store has not confirmed.",
			value: func(s spool.Stats) float64 { return float64(s.UnconfirmedEvents) },
		},
		{
			name: "meterd.spool.oldest", unit: "s", gauge: true, help: "Age of the oldest record that the store has not confirmed; 0 if there is none.",
			value: func(s spool.Stats) float64 { return age(s.OldestUnconfirmedAt, now()) },
		},
		{
			name: "meterd.spool.written", unit: "By", help: "Bytes made durable, as written.",
			value: func(s spool.Stats) float64 { return float64(s.StoredBytes) },
		},
		{
			name: "meterd.spool.syncs", help: "Groups of records made durable by one sync each.",
			value: func(s spool.Stats) float64 { return float64(s.Syncs) },
		},
		{
			name: "meterd.spool.sync_time", unit: "s", help: "Time spent in syncs.",
			value: func(s spool.Stats) float64 { return s.SyncTime.Seconds() },
		},
		{
			name: "meterd.spool.failed_commits", help: "Groups of records that the disk refused; nothing of them was acknowledged.",
			value: func(s spool.Stats) float64 { return float64(s.FailedCommits) },
		},
		{
			name: "meterd.spool.full", help: "Appends refused because the bound was reached.",
			value: func(s spool.Stats) float64 { return float64(s.FullRefusals) },
		},
		{
			name: "meterd.spool.damaged", unit: "By", help: "Unreadable bytes found and quarantined.",
			value: func(s spool.Stats) float64 { return float64(s.DamagedBytes) },
		},
		{
			name: "meterd.spool.lost_events", help: "Acknowledged events in damaged stretches, as far as they can be counted.",
			value: func(s spool.Stats) float64 { return float64(s.LostEvents) },
		},
		{
			name: "meterd.spool.torn", unit: "By", help: "Bytes of unfinished groups cut off at start; never acknowledged.",
			value: func(s spool.Stats) float64 { return float64(s.TornBytes) },
		},
	}, stats)
}
