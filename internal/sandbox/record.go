package sandbox

import "time"

// State is where a record stands in its life: received, then valid or abnormal, and a valid one is collected at last.
type State string

// States of a record.
const (
	// StateReceived was uploaded and waits for the background validation.
	StateReceived State = "received"
	// StateValid passed the background validation and waits for the next collection.
	StateValid State = "valid"
	// StateAbnormal failed the background validation; its code says why. It is never billed.
	StateAbnormal State = "abnormal"
	// StateCollected is part of a bill and immutable.
	StateCollected State = "collected"
)

// Record is one usage record as the marketplace keeps it. Texts are as sent.
type Record struct {
	// Seq numbers the records from 1 in the order of their arrival.
	Seq int64 `json:"seq"`
	// Seller is who signed the call.
	Seller            string `json:"seller"`
	MeteringSN        string `json:"metering_sn"`
	InstanceID        string `json:"instance_id"`
	ProductID         string `json:"product_id"`
	BeginTime         string `json:"begin_time"`
	EndTime           string `json:"end_time"`
	RecordTime        string `json:"record_time"`
	UsageValue        string `json:"usage_value"`
	RelatePkgInstance string `json:"relate_pkg_instance"`
	// ReceivedAt is when the call was accepted.
	ReceivedAt time.Time `json:"received_at"`
	State      State     `json:"state"`
	// Code is the record code of an abnormal record, else empty.
	Code string `json:"code"`
	// ValidatedAt is when the background validation saw the record; zero while received.
	ValidatedAt time.Time `json:"validated_at,omitzero"`
	// CollectedAt is the time of the collection, which also names the bill; zero unless collected.
	CollectedAt   time.Time     `json:"collected_at,omitzero"`
	API           API           `json:"api"`
	SignatureForm SignatureForm `json:"signature_form"`
}

// counts reports whether the record's usage is, or will be, billed.
func (r *Record) counts() bool { return r.State == StateValid || r.State == StateCollected }

// windowKey identifies a window of an instance by what the times mean, not by their texts.
type windowKey struct {
	instance   string
	begin, end int64
}

// window reads begin and end; false where one is not a time.
func (r *Record) window() (begin, end time.Time, ok bool) {
	begin, beginOK := parseTime(r.BeginTime)
	end, endOK := parseTime(r.EndTime)
	return begin, end, beginOK && endOK
}

// parseTime reads a time of exactly the wire's form. time.Parse alone would also take a fraction of a second.
func parseTime(text string) (time.Time, bool) {
	if !looksLikeTime(text) {
		return time.Time{}, false
	}
	at, err := time.Parse(wireTime, text)
	return at, err == nil
}

// validate gives the record's code as of a time, "" if nothing is wrong. Of several faults the lowest code is
// reported; the marketplace does not publish an order.
func (s *Sandbox) validate(r *Record, asOf time.Time) string {
	inst, exists := s.known(r.InstanceID)
	begin, end, timesOK := r.window()
	_, recordTimeOK := parseTime(r.RecordTime)
	_, valueOK := parseUnits(r.UsageValue)
	foreign, notPayPerUse, badState := inst.unusable(r.Seller, end)
	switch {
	case !exists:
		return RecordUnknownInstance
	case !timesOK || !recordTimeOK:
		return RecordBadTime
	case !valueOK:
		return RecordBadValue
	case r.API == APINew && r.MeteringSN == "":
		return RecordNoSN
	case r.API == APINew && s.snOwner[snKey{r.Seller, r.MeteringSN}] != r.Seq:
		return RecordDuplicateSN
	case inst.Delisted:
		return RecordDelisted
	case asOf.Sub(begin) > MaxRecordAge:
		return RecordExpired
	case foreign:
		return RecordForeign
	case s.windowTaken(r, begin, end):
		return RecordDuplicateWindow
	case !rangeOK(inst, begin, end, r.ReceivedAt):
		return RecordBadRange
	case notPayPerUse:
		return RecordNotPayPerUse
	case badState:
		return RecordBadState
	default:
		return ""
	}
}

// windowTaken reports whether an earlier record of the same instance and window counts.
func (s *Sandbox) windowTaken(r *Record, begin, end time.Time) bool {
	owner, ok := s.windowOwner[windowKey{r.InstanceID, begin.Unix(), end.Unix()}]
	return ok && owner != r.Seq
}

// rangeOK checks the window against the upload and the instance's life (KooGallery usage push, section 4.2). The page
// writes begin ≤ end; an empty window cannot hold usage, so it is refused here.
func rangeOK(inst Instance, begin, end, uploaded time.Time) bool {
	return begin.Before(end) &&
		!end.After(uploaded) &&
		(inst.Start.IsZero() || !begin.Before(inst.Start)) &&
		(inst.ClosedAt.IsZero() || !end.After(inst.ClosedAt))
}

// snKey is a record's unique id within its seller.
type snKey struct{ seller, sn string }
