package reporter

import (
	"context"
	"time"

	"github.com/meterd/meterd/meter"
)

// WindowUsage is a meter's usage of one subject in one window, as aggregated from events.
type WindowUsage struct {
	Subject  string
	Meter    string // slug
	Quantity meter.Quantity
	Events   uint64
	// Overflow says that the quantity is beyond what the store can hold; Quantity is zero then.
	Overflow bool
}

// Scope limits what is counted of an hour.
type Scope struct {
	Hour     meter.Window
	Subjects []string  // nil: all
	Before   time.Time // only events with a time before it; zero: all of the hour
}

// WindowBooks is the part of the ledger that booking needs. What "counts" is defined by ADR 9: rows of committed bookings.
type WindowBooks interface {
	// LastBooking returns the booking with the highest number, after completing one that was committed by a process that
	// ended before it could write it down; ok is false when nothing was booked yet.
	LastBooking(ctx context.Context) (b Booking, ok bool, err error)
	// LastClosed returns the close (BookingClose) with the latest window; ok is false when no window was closed yet.
	LastClosed(ctx context.Context) (b Booking, ok bool, err error)
	// FirstEventHour returns the window of the earliest stored event; ok is false when there is none.
	FirstEventHour(ctx context.Context) (w meter.Window, ok bool, err error)

	// Touches returns the touches of an hour that no committed booking covers, to be covered by the booking that counts the hour after this call.
	Touches(ctx context.Context, hour meter.Window) ([]uint64, error)
	// StaleHours returns up to limit hours that ended at or before the given time and have touches that no committed booking
	// covers, oldest first.
	StaleHours(ctx context.Context, before time.Time, limit int) ([]StaleHour, error)
	// AggregateWindow computes the deduplicated usage of every (subject, meter) in the scope and calls yield for each,
	// ordered by subject, then meter. Rows without events are not yielded. Memory does not grow with the number of events.
	AggregateWindow(ctx context.Context, sc Scope, meters []meter.Meter, yield func(WindowUsage) error) error
	// CountWindowEvents returns the number of deduplicated events of the hour, of whatever type.
	CountWindowEvents(ctx context.Context, hour meter.Window) (uint64, error)
	// BookedUsage returns the usage of an hour as last booked, ordered by subject, then meter; subjects nil means all.
	BookedUsage(ctx context.Context, hour meter.Window, subjects []string) ([]HourlyUsage, error)
	// Balances returns the balances that are not zero after the last booking, ordered by subject, then meter; subjects nil
	// means all.
	Balances(ctx context.Context, subjects []string) ([]Balance, error)
	// RecordsBySN returns those of the records that count, whatever their state, with their last transition.
	RecordsBySN(ctx context.Context, sns []MeteringSN) ([]BillRecord, error)
	// HeldUsage returns held usage that is not decided about, oldest booking first; at most limit, after the given ID.
	// With ids, only those.
	HeldUsage(ctx context.Context, ids []AdjustmentID, after AdjustmentID, limit int) ([]HeldUsage, error)
	// Lives returns what is known of instances that were not simply open during the whole window: opened after its
	// start, released or frozen before its end. Instances without any row are not returned. Only the given ones are looked at;
	// nil means all: what that costs grows with the number of instances ever released.
	Lives(ctx context.Context, w meter.Window, instances []string) ([]Life, error)

	// WriteRows writes rows of a booking. Idempotent by the version and the identity of each row. They don't count yet.
	WriteRows(ctx context.Context, b Booking, rows Rows) error
	// Commit takes the booking's number: from then on its rows count. It compares the numbers of rows written with those in b
	// first. The error wraps [ErrBookingTaken] when the number was taken by another version: then nothing of b counts. After
	// any other error b may have been committed or not; LastBooking tells, by the version. Idempotent.
	Commit(ctx context.Context, b Booking) error
}

// DeliveryBooks is the part of the ledger that delivery needs.
type DeliveryBooks interface {
	// UnsettledBookings returns committed bookings with records that are not settled, by number.
	UnsettledBookings(ctx context.Context) ([]Booking, error)
	// DueRecords returns up to limit due records of a booking in order of SN, after the given SN.
	DueRecords(ctx context.Context, b Booking, after MeteringSN, limit int) ([]BillRecord, error)
	// AppendTransitions appends rows and returns once they are durable. The caller checked them against the table of
	// states. Idempotent by (SN, seq); of two different rows under one (SN, seq) the earlier in time stays.
	// A record that becomes due again makes its booking unsettled.
	AppendTransitions(ctx context.Context, ts []Transition) error
	// SettleBooking records that nothing of the booking is due any more.
	SettleBooking(ctx context.Context, b Booking) error
}

// LifeBooks keeps the lives of instances.
type LifeBooks interface {
	// AppendLife appends changes and returns once they are durable. The same (instance, kind, At) again changes nothing.
	AppendLife(ctx context.Context, changes []LifeChange) error
	// LifeOf returns the changes of one instance in order of time.
	LifeOf(ctx context.Context, instanceID string) ([]LifeChange, error)
	// ReleasedWithoutFinal returns releases and freezes that no booking of kind release or freeze has dealt with yet, oldest
	// first: a process may have ended between the two. A booking of the instance made when the change was recorded or later
	// (Booking.At, LifeChange.RecordedAt) has dealt with it; one of kind release deals with freezes too.
	ReleasedWithoutFinal(ctx context.Context, limit int) ([]LifeChange, error)
}

// AuditBooks keeps the audit log.
type AuditBooks interface {
	// AppendAudit appends entries and returns once they are durable.
	AppendAudit(ctx context.Context, entries []AuditEntry) error
	// Audit returns entries of [from, to), newest first, at most limit.
	Audit(ctx context.Context, from, to time.Time, limit int) ([]AuditEntry, error)
}

// DueCounter is implemented by books that can count due records without reading them.
type DueCounter interface {
	// CountDue returns the number of due records of committed bookings.
	CountDue(ctx context.Context) (uint64, error)
}

// RecordFilter selects bill records for reading. Zero fields select everything.
type RecordFilter struct {
	SN         MeteringSN
	InstanceID string
	Subject    string
	Meter      string
	States     []State
	From, To   time.Time // of the start of the record's own window, half-open
	After      string    // opaque cursor from the previous page's last record: Cursor(record)
	Limit      int       // 0 means 100; at most 10000
}

// RecordReader reads the ledger for people.
type RecordReader interface {
	// Records returns records of committed bookings with their last transition, ordered by the hour they were booked in,
	// then SN.
	Records(ctx context.Context, f RecordFilter) ([]BillRecord, error)
	// Transitions returns the whole life of one record, by seq; none for an unknown number.
	Transitions(ctx context.Context, sn MeteringSN) ([]Transition, error)
	// Bookings returns committed bookings by window start in [from, to), by number.
	Bookings(ctx context.Context, from, to time.Time) ([]Booking, error)
	// Usage returns hourly usage as last booked with window start in [from, to), by window, subject, meter; at most limit rows.
	Usage(ctx context.Context, from, to time.Time, limit int) ([]HourlyUsage, error)
	// Adjustments returns adjustments that match the filter, by booking, then ID.
	Adjustments(ctx context.Context, f AdjustmentFilter) ([]Adjustment, error)
}

// AdjustmentFilter selects adjustments for reading. Zero fields select everything.
type AdjustmentFilter struct {
	Subject, Meter string
	Into           Destination
	Hours          meter.Window // of the true hour's start, half-open; zero: any
	FromBooking    uint64       // number of the first booking of interest
	ToBooking      uint64       // number of the last one; 0: no bound
	Limit          int          // 0 means 1000
}

// AccountSum is everything the books hold of one account, each figure derived from rows. Quantities are in the meter's unit.
type AccountSum struct {
	Subject, Meter string
	// Stored is the usage as counted from the stored events of the hours in question, now; Booked is Σ of the hours' usage
	// as last booked. They agree unless an hour is stale or something is wrong.
	Stored, Booked meter.Quantity
	// Records is Σ billed × scale by state, without records that another one replaces.
	Records map[State]meter.Quantity
	Balance meter.Quantity
	// Held, WrittenOff and Unbillable are the sums of the adjustments that went there.
	Held, WrittenOff, Unbillable meter.Quantity
}

// VerifyBooks re-derives the books from rows.
type VerifyBooks interface {
	// AccountSums yields the sums of every account, ordered by subject, then meter, over everything booked so far. With recount,
	// Stored is computed from the events of closed hours in [from, to) and Booked limited to the same hours; without,
	// Stored is zero. Records, Balance and adjustments are always complete when from and to are zero, and left empty otherwise.
	AccountSums(ctx context.Context, from, to time.Time, recount bool, meters []meter.Meter, yield func(AccountSum) error) error
	// CheckRows returns contradictions within the rows themselves, each as a sentence, at most limit: rows missing of a committed
	// booking, two records of one (instance, window), records whose amounts don't add up, transitions that the table of states
	// forbids, gaps in the log, windows closed twice.
	CheckRows(ctx context.Context, limit int) ([]string, error)
}

// Lease lets one of several daemons book and deliver, to save double work. Correctness never hangs on it (ADR 9).
type Lease interface {
	// Hold acquires or renews the lease and reports whether this process holds it now.
	Hold(ctx context.Context) (bool, error)
	// Release gives it up, so that another daemon need not wait for it to run out.
	Release(ctx context.Context) error
}
