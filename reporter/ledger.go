package reporter

import (
	"context"
	"time"

	"github.com/meterd/meterd/meter"
)

// WindowClose is the row that makes a window closed. Its bill records count only once it is written, and only those of its
// Version do: a close that was interrupted leaves nothing that could be sent.
type WindowClose struct {
	Window   meter.Window
	Version  uint64
	ClosedAt time.Time
	Events   uint64 // deduplicated events of the window
	Usages   uint64 // rows of hourly usage written
	Records  uint64 // bill records written
	// SettledAt is when the last record of the window was settled; zero while some are due.
	SettledAt time.Time
}

// WindowUsage is a meter's usage of one subject in one window, as aggregated from events.
type WindowUsage struct {
	Subject  string
	Meter    string // slug
	Quantity meter.Quantity
	Events   uint64
}

// CarriedRemainder is what is left below the marketplace's scale, in the meter's unit.
type CarriedRemainder struct {
	Subject, Meter string
	Quantity       meter.Quantity
}

// WindowBooks is the part of the ledger that closing needs.
type WindowBooks interface {
	// LastClosed returns the close with the latest window; ok is false when no window was closed yet.
	LastClosed(ctx context.Context) (c WindowClose, ok bool, err error)
	// FirstEventHour returns the window of the earliest stored event; ok is false when there is none.
	FirstEventHour(ctx context.Context) (w meter.Window, ok bool, err error)
	// AggregateWindow computes the deduplicated usage of every (subject, meter) in w and calls yield for each, ordered by
	// subject, then meter. Rows without events are not yielded. Memory does not grow with the number of events. An
	// aggregate that could exceed the store's decimal range is an error.
	AggregateWindow(ctx context.Context, w meter.Window, meters []meter.Meter, yield func(WindowUsage) error) error
	// CountWindowEvents returns the number of deduplicated events of the window, of whatever type.
	CountWindowEvents(ctx context.Context, w meter.Window) (uint64, error)
	// Remainders returns the remainders open before w: for each (subject, meter) the CarriedOut of its latest bill record
	// in a closed window that ends at or before w.Start, if not zero.
	Remainders(ctx context.Context, w meter.Window) ([]CarriedRemainder, error)
	// WriteUsage writes hourly usage of one close. Idempotent by (window, subject, meter, version).
	WriteUsage(ctx context.Context, usage []HourlyUsage) error
	// WriteRecords writes bill records of one close, each with its first transition (BillRecord.Last, Seq 1).
	// Idempotent by (SN, version) and (SN, seq).
	WriteRecords(ctx context.Context, records []BillRecord) error
	// WriteClose makes the window closed. Everything written before with the same version is durable and visible.
	WriteClose(ctx context.Context, c WindowClose) error
}

// DeliveryBooks is the part of the ledger that delivery needs.
type DeliveryBooks interface {
	// UnsettledWindows returns closed windows that are not settled, oldest first.
	UnsettledWindows(ctx context.Context) ([]WindowClose, error)
	// DueRecords returns up to limit due records of a closed window in order of SN, after the given SN.
	DueRecords(ctx context.Context, c WindowClose, after MeteringSN, limit int) ([]BillRecord, error)
	// AppendTransitions appends rows and returns once they are durable. The caller checked them against the table of
	// states. Idempotent by (SN, seq).
	AppendTransitions(ctx context.Context, ts []Transition) error
	// SettleWindow records that nothing of the window is due any more.
	SettleWindow(ctx context.Context, c WindowClose) error
}

// VersionReader is implemented by books that can tell which versions were used for a window, closed or not. A [Closer]
// whose books implement it never reuses a version that an interrupted close left behind, even when the clock was set back
// in between.
type VersionReader interface {
	// HighestVersion returns the highest version under which usage or records of w were written; 0 when there are none.
	HighestVersion(ctx context.Context, w meter.Window) (uint64, error)
}

// DueCounter is implemented by books that can count due records without reading them.
type DueCounter interface {
	// CountDue returns the number of due records of closed windows.
	CountDue(ctx context.Context) (uint64, error)
}

// RecordFilter selects bill records for reading. Zero fields select everything.
type RecordFilter struct {
	SN         MeteringSN
	InstanceID string
	Subject    string
	Meter      string
	States     []State
	From, To   time.Time // of the window's start, half-open
	After      string    // opaque cursor from the previous page's last record: Cursor(record)
	Limit      int       // 0 means 100; at most 10000
}

// RecordReader reads the ledger for people.
type RecordReader interface {
	// Records returns records of closed windows with their last transition, ordered by window start, then SN.
	Records(ctx context.Context, f RecordFilter) ([]BillRecord, error)
	// Transitions returns the whole life of one record, by seq.
	Transitions(ctx context.Context, sn MeteringSN) ([]Transition, error)
	// Windows returns closes by window start in [from, to), oldest first.
	Windows(ctx context.Context, from, to time.Time) ([]WindowClose, error)
	// Usage returns the hourly usage of closed windows (latest version) with window start in [from, to), at most limit rows.
	Usage(ctx context.Context, from, to time.Time, limit int) ([]HourlyUsage, error)
}
