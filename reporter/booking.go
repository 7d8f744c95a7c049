package reporter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
)

// BookingKind says why something was booked. The numbers are stored: never renumber, only add.
type BookingKind uint8

// The kinds of bookings (ADR 9).
const (
	// BookingClose: an hour ended and its grace passed.
	BookingClose BookingKind = 1
	// BookingRecount: events or voids arrived for an hour after it was last counted.
	BookingRecount BookingKind = 2
	// BookingRelease: an instance was released; its final record is made at once.
	BookingRelease BookingKind = 3
	// BookingFreeze: an instance was frozen; what it used so far is billed at once.
	BookingFreeze BookingKind = 4
	// BookingDecision: a person decided about held usage.
	BookingDecision BookingKind = 5
	// BookingResend: records that failed in the marketplace's own books are reported again under new numbers.
	BookingResend BookingKind = 6
)

var bookingKindNames = map[BookingKind]string{
	BookingClose: "close", BookingRecount: "recount", BookingRelease: "release", BookingFreeze: "freeze",
	BookingDecision: "decision", BookingResend: "resend",
}

// String is the name shown to people and used in APIs; "" for a value that is no kind.
func (k BookingKind) String() string { return bookingKindNames[k] }

// MarshalText writes [BookingKind.String].
func (k BookingKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// ErrBookingTaken is returned by [WindowBooks.Commit] when another booking has the number: nothing of this one counts,
// and it must be computed again from the books as they are now.
var ErrBookingTaken = errors.New("another booking took this number")

// Booking is one entry in the log that the books are. Rows count only if their version is that of a committed booking.
type Booking struct {
	Number  uint64 // 1, 2, 3 … without gaps
	Version uint64 // of its rows; unique, and higher than that of every booking before
	Kind    BookingKind
	// Window is the hour under which the booking's records are kept: the hour closed, the hour recounted, or the
	// hour in which anything else was booked.
	Window meter.Window
	At     time.Time
	// Events is the number of deduplicated events of the hour that were counted; 0 where none were.
	Events uint64
	// Usages, Records, Adjustments, Balances and Covers are the numbers of rows written under Version.
	Usages, Records, Adjustments, Balances, Covers uint64
	// InstanceID is the instance of a release or freeze.
	InstanceID string
	// Actor and Reason are those of the person whose act it was; empty for what happens by itself.
	Actor, Reason string
	// Meters are the meters that a close counted its hour with, as they were declared then (see [CountedMeters]); "" for other
	// kinds.
	Meters string
	// SettledAt is when the last record of the booking was settled; zero while some are due.
	SettledAt time.Time
}

// CountedMeters writes down meters for [Booking].Meters: slug, fingerprint and whether it is billed, separated by commas.
func CountedMeters(meters []meter.Meter) string {
	marks := make([]string, len(meters))
	for i, m := range meters {
		marks[i] = meterMark(m)
		if m.Billed {
			marks[i] += billedMark
		}
	}
	slices.Sort(marks)
	return strings.Join(marks, ",")
}

const billedMark = ":billed"

func meterMark(m meter.Meter) string { return fmt.Sprintf("%s:%016x", m.Slug, m.Fingerprint()) }

// Counted reports whether a close counted its hour with the meter as it is declared now. A meter that was declared or changed
// later must not be counted in the hour again: the difference would be billed for the past.
func (b Booking) Counted(m meter.Meter) bool {
	mark := meterMark(m)
	for text := range strings.SplitSeq(b.Meters, ",") {
		if text == mark || text == mark+billedMark {
			return true
		}
	}
	return false
}

// billed reports whether the booking says nothing of the slug, or that it was billed, however it was declared.
func (b Booking) billed(slug string) bool {
	for text := range strings.SplitSeq(b.Meters, ",") {
		if strings.HasPrefix(text, slug+":") {
			return strings.HasSuffix(text, billedMark)
		}
	}
	return true
}

// Rows is what a booking writes before it is committed.
type Rows struct {
	Usage       []HourlyUsage
	Records     []BillRecord // each with its first transition (BillRecord.Last, Seq 1)
	Adjustments []Adjustment
	Balances    []Balance
	Covers      []Cover
}

// Account is whose usage of what: the unit in which amounts are conserved.
type Account = SubjectMeter

// Balance is what an account has left over after a booking, in the meter's unit: the remainder below the marketplace's
// scale, usage that waits for the next window, or, negative, a credit. A row with zero says that nothing is left.
type Balance struct {
	Subject, Meter string
	Quantity       meter.Quantity
}

// Cover says that a booking counted an hour with everything that one touch announced.
type Cover struct {
	Hour  meter.Window
	Touch uint64
}

// StaleHour is a closed hour with touches that no booking covers yet.
type StaleHour struct {
	Hour meter.Window
	// Subjects are those whose usage may have changed, ordered; nil means any.
	Subjects []string
	Touches  []uint64
}

// Destination is where an adjustment took its amount. The numbers are stored: never renumber, only add.
type Destination uint8

// The destinations of adjustments.
const (
	// IntoBalance: the account's balance; billed with the next record.
	IntoBalance Destination = 1
	// IntoHeld: waits for a person.
	IntoHeld Destination = 2
	// IntoWrittenOff: given up, with the reason.
	IntoWrittenOff Destination = 3
	// IntoUnbillable: fits nowhere within the marketplace's rules, with the reason.
	IntoUnbillable Destination = 4
	// IntoRecord: a record of its own late window (Adjustment.Record).
	IntoRecord Destination = 5
)

var destinationNames = map[Destination]string{
	IntoBalance: "balance", IntoHeld: "held", IntoWrittenOff: "written_off", IntoUnbillable: "unbillable", IntoRecord: "record",
}

// String is the name shown to people and used in APIs; "" for a value that is no destination.
func (d Destination) String() string { return destinationNames[d] }

// MarshalText writes [Destination.String].
func (d Destination) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// AdjustmentID identifies an adjustment: 32 lower-case hex digits.
type AdjustmentID string

// Adjustment is an amount that did not go the ordinary way from its hour into that hour's record.
type Adjustment struct {
	ID             AdjustmentID
	Booking        uint64 // number of the booking that made it
	Version        uint64
	Booked         meter.Window // the booking's window
	Hour           meter.Window // the true hour of the usage
	Subject, Meter string
	InstanceID     string // "" if none is known
	// Quantity is in the meter's unit. It may be negative: a credit, or what a decision takes out of IntoHeld.
	Quantity meter.Quantity
	Into     Destination
	// Of is the held adjustment that a decision is about; "" otherwise.
	Of AdjustmentID
	// Record is the number of the record that carries it, for IntoRecord.
	Record MeteringSN
	Reason string
	Actor  string // "" for what happens by itself
	At     time.Time
}

// HeldUsage is held usage that nobody decided about yet.
type HeldUsage struct {
	Adjustment // the one that held it

	// Open is what is left of it to decide about.
	Open meter.Quantity
}

// Life is what is known of an instance's life. Zero times mean "not known" for Opened and "not yet" for the others. Of several
// openings or releases the earliest counts; a freeze while frozen and an unfreeze while not frozen change nothing.
type Life struct {
	InstanceID string
	Opened     time.Time
	Released   time.Time
	// Frozen lists the times in which the instance was frozen, by start; the last one has a zero End while it lasts.
	Frozen []meter.Window
}

// LifeChangeKind says what happened to an instance. The numbers are stored: never renumber, only add.
type LifeChangeKind uint8

// The changes in an instance's life.
const (
	LifeOpened   LifeChangeKind = 1
	LifeFrozen   LifeChangeKind = 2
	LifeUnfrozen LifeChangeKind = 3
	LifeReleased LifeChangeKind = 4
)

var lifeChangeNames = map[LifeChangeKind]string{
	LifeOpened: "opened", LifeFrozen: "frozen", LifeUnfrozen: "unfrozen", LifeReleased: "released",
}

// String is the name shown to people and used in APIs; "" for a value that is no kind.
func (k LifeChangeKind) String() string { return lifeChangeNames[k] }

// MarshalText writes [LifeChangeKind.String].
func (k LifeChangeKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// LifeChange is one appended row in an instance's life.
type LifeChange struct {
	InstanceID string
	Kind       LifeChangeKind
	At         time.Time // when it happened, by the marketplace
	RecordedAt time.Time
	Actor      string
	Reason     string
}

// AuditEntry is one act of a person, or of a program that acts for one.
type AuditEntry struct {
	At     time.Time `json:"at"`
	Actor  string    `json:"actor"`
	Action string    `json:"action"` // for example "void", "backfill", "approve", "write_off", "release", "resend"
	Target string    `json:"target"` // what it was done to, for example an instance, a record's number
	Reason string    `json:"reason"`
	Detail string    `json:"detail,omitempty"` // short, safe to show
}
