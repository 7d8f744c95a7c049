package reporter

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/meterd/meterd/meter"
)

// MeteringSN is the number of a bill record, unique at the marketplace.
type MeteringSN string

// RecordIdentity is everything a bill record's number depends on. It is the same after a restart, on every retry and on
// every replica, so two reporters by mistake produce the same records and not double bills.
type RecordIdentity struct {
	Seller     string // configured name of the seller account, never its key
	InstanceID string // the marketplace's instance id
	Window     meter.Window
	Revision   uint32 // 0; raised only after the marketplace confirmed that a record failed
	// Subject and Meter count only when InstanceID is empty: usage that could not be given to one instance is held under a
	// number of its own.
	Subject, Meter string
}

// SN derives the number: 32 lower-case hex digits of SHA-256 over the identity.
func (id RecordIdentity) SN() MeteringSN {
	parts := []string{
		"meterd/sn/1", id.Seller, id.InstanceID,
		id.Window.Start.UTC().Format(time.RFC3339), id.Window.End.UTC().Format(time.RFC3339),
		strconv.FormatUint(uint64(id.Revision), 10),
	}
	if id.InstanceID == "" {
		parts = append(parts, id.Subject, id.Meter)
	}
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return MeteringSN(hex.EncodeToString(h.Sum(nil)[:16]))
}

// HourlyUsage is the exact usage of one subject and meter in one hour as a booking counted it, in the meter's unit. A later
// booking's row for the same (window, subject, meter) replaces an earlier one; it never adds.
type HourlyUsage struct {
	Window   meter.Window
	Subject  string
	Meter    string // slug
	Quantity meter.Quantity
	Events   uint64 // deduplicated events behind the quantity
	Version  uint64 // version of the booking that wrote it
}

// BillRecord is what is, was or will be reported for one instance and window. It never changes once its booking is
// committed; its state is the last of its transitions.
type BillRecord struct {
	SN         MeteringSN
	Seller     string
	InstanceID string // the marketplace's instance id
	ProductID  string // only for marketplaces that want it
	Subject    string // whose usage it is
	Meter      string // slug
	// Window is what the marketplace is told: an hour, a day, or the part of one in which the instance was open. Booked is
	// the hour under which the record is kept: the window of its booking.
	Window, Booked meter.Window
	// Mode says where the record goes; it was decided when the record was made and never changes.
	Mode Mode
	// Usage is the usage that its booking booked for the account and CarriedIn the balance before, both in the meter's unit;
	// CarriedOut is the balance after. Usage + CarriedIn = Billed × Scale + CarriedOut.
	Usage, CarriedIn, CarriedOut, Scale meter.Quantity
	// Billed is what the marketplace is told, truncated to its number of decimals. It may be zero: then nothing is sent
	// and the record goes straight to StateCarried.
	Billed     meter.Quantity
	RecordTime time.Time // when the record was produced; part of what is sent
	Package    string    // package instance the usage is taken from; "" if none
	Revision   uint32
	Replaces   MeteringSN // the record that this one reports again; "" if none. The replaced one's amount doesn't count.
	Version    uint64     // version of the booking that wrote it

	// State, Seq, Attempt and the rest of the last transition, filled when read from the ledger.
	Last Transition
}

// Identity returns what the record's number depends on: r.SN equals r.Identity().SN() for every record.
func (r BillRecord) Identity() RecordIdentity {
	return RecordIdentity{
		Seller: r.Seller, InstanceID: r.InstanceID, Window: r.Window, Revision: r.Revision,
		Subject: r.Subject, Meter: r.Meter,
	}
}

// UsageRecord is what the marketplace is told. It depends on nothing but the stored record, so that every attempt, after
// whatever restart, sends the same bytes.
func (r BillRecord) UsageRecord() UsageRecord {
	return UsageRecord{
		SN: r.SN, InstanceID: r.InstanceID, ProductID: r.ProductID, Window: r.Window, RecordTime: r.RecordTime,
		Quantity: r.Billed, Package: r.Package,
	}
}

// Transition is one appended row in the life of a bill record.
type Transition struct {
	SN      MeteringSN
	Booked  meter.Window // of the record; the ledger is ordered by it
	Seq     uint32       // 1, 2, 3 … within the record
	State   State
	At      time.Time
	Attempt uint32 // number of calls made for this record so far
	// Endpoint, Code and Message are those of the call that led here; RequestHash is the SHA-256 of the body sent and
	// Latency how long the answer took. Empty for transitions without a call.
	Endpoint    string
	Code        string
	Message     string
	RequestHash string
	Latency     time.Duration
	// Detail is raw text of the marketplace about this record, kept as it came; "" if none.
	Detail string
	// Actor is the person whose act it was; "" for what happens by itself. The reason is the Message.
	Actor string
}
