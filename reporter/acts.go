package reporter

import (
	"time"

	"github.com/meterd/meterd/meter"
)

// EarlyClose asks for the usage of one instance up to a moment to be billed at once, because it is being released or frozen
// (KooGallery usage push, section 4.2: nothing may end after the resource was closed).
type EarlyClose struct {
	InstanceID string
	At         time.Time // the moment; not in the future
	Release    bool      // false: frozen
	Actor      string
	Reason     string
}

// Decision is a person's word about held usage.
type Decision struct {
	IDs     []AdjustmentID
	Approve bool // true: into the balance, billed with the next record; false: written off
	Actor   string
	Reason  string
}

// RecordAct is a person's word about records that delivery can't settle: To is StatePending (send it, or send it again
// under the same number), StateWrittenOff or StateUnbillable.
type RecordAct struct {
	SNs    []MeteringSN
	To     State
	Actor  string
	Reason string
}

// ResendAct reports records again, under new numbers, that the marketplace's own books show as failed. The old ones become
// StateReplaced. Records in StateAccepted or StateConfirmed must be given as failed first: see Failures.
type ResendAct struct {
	SNs    []MeteringSN
	Actor  string
	Reason string
}

// Failure is what the marketplace's own books say about a record that it had accepted (KooGallery usage push, section 1.6).
type Failure struct {
	SN      MeteringSN
	Code    string // 001 … 013
	Message string
}

// LifeAct is a change in an instance's life as somebody reports it.
type LifeAct struct {
	InstanceID string
	Kind       LifeChangeKind
	At         time.Time
	Actor      string
	Reason     string
}

// Explanation is everything that led to a record.
type Explanation struct {
	Record      BillRecord
	Transitions []Transition
	Booking     Booking
	Before      *BillRecord // the account's record before, whose CarriedOut began the balance; nil if none
	// Usage is the hourly usage of the record's hours, as last booked and as this record's booking counted it.
	Usage []ExplainedUsage
	// Adjustments are those of the account made since the record before, up to the record's own booking.
	Adjustments []Adjustment
	// Carried is what went into and out of the account's balance between the record before and this one, by booking:
	// CarriedIn = Before.CarriedOut + Σ Carried + Unexplained, and Unexplained is 0 unless something is wrong.
	Carried     []CarriedLine
	Unexplained meter.Quantity
	// Replaces is the failed record that this one reports again; nil if none.
	Replaces *BillRecord
	// ReplacedBy is the record that reports this one again; nil if none.
	ReplacedBy *BillRecord
}

// ExplainedUsage is the usage of one hour behind a record.
type ExplainedUsage struct {
	Hour   meter.Window
	Then   HourlyUsage // as counted for the record
	Latest HourlyUsage // as last booked; differs after a recount
}
