package reporter

import (
	"context"
	"time"

	"github.com/meterd/meterd/meter"
)

// UsageRecord is what a marketplace is told about one instance and window.
type UsageRecord struct {
	SN         MeteringSN
	InstanceID string
	ProductID  string
	Window     meter.Window
	RecordTime time.Time
	Quantity   meter.Quantity // already truncated to Limits.Scale, positive
	Package    string
}

// Class is what an answer means for the reporter. The classes are those of design section 7; the marketplace's client
// decides which one an answer belongs to, by the answer's code and never by its HTTP status alone.
type Class uint8

// The classes of answers.
const (
	// ClassAccepted: the whole batch was received, except the records listed in Result.Refused.
	ClassAccepted Class = iota + 1
	// ClassUnavailable: the endpoint is sick and said so (5xx without a permanent code, throttling), or was never
	// reached: nothing was taken. Counts towards the breaker.
	ClassUnavailable
	// ClassUnknown: the request may have arrived and no usable answer came back. Counts towards the breaker.
	ClassUnknown
	// ClassRecordBad: the batch was refused because of one or more of its records; with one record, that record is the
	// bad one, with several the batch is bisected. Never trips the breaker.
	ClassRecordBad
	// ClassRecordExpired is ClassRecordBad for records that are too old to be taken.
	ClassRecordExpired
	// ClassBatchTooLarge: halve the batch and try again.
	ClassBatchTooLarge
	// ClassMisconfigured: our key, signature, clock or authority is wrong. Stop and alarm; nothing was taken.
	ClassMisconfigured
)

var classNames = map[Class]string{
	ClassAccepted: "accepted", ClassUnavailable: "unavailable", ClassUnknown: "unknown", ClassRecordBad: "record_bad",
	ClassRecordExpired: "record_expired", ClassBatchTooLarge: "batch_too_large", ClassMisconfigured: "misconfigured",
}

// String is the name of the class in logs and metrics; "" for a value that is no class.
func (c Class) String() string { return classNames[c] }

// Sick reports whether the answer counts towards the breaker.
func (c Class) Sick() bool { return c == ClassUnavailable || c == ClassUnknown }

// Result is the marketplace's answer to one batch.
type Result struct {
	Class       Class
	Code        string // the marketplace's own code, "" when there was none
	Message     string // short and safe to log and store
	Status      int    // HTTP status, 0 when there was no answer
	Endpoint    string // which of the configured endpoints answered
	RequestHash string // hex SHA-256 of the body sent
	Latency     time.Duration
	RetryAfter  time.Duration // what the marketplace asked for, 0 if nothing
	// Refused names records of an accepted batch that were refused one by one, with code and message. With any other class only
	// what the marketplace said about the records is used, not that they were refused.
	Refused map[MeteringSN]Refusal
}

// said is the answer in short, for a breaker's story.
func (r Result) said() string {
	if r.Code == "" {
		return r.Message
	}
	if r.Message == "" {
		return r.Code
	}
	return r.Code + " " + r.Message
}

// Refusal is why one record was refused.
type Refusal struct {
	Code, Message string
	// Duplicate says that the marketplace refused the record because it already holds one of this number, or of this
	// instance and window. After an earlier attempt whose answer is not known that means that the attempt arrived, and the
	// record counts as accepted; where no earlier attempt can have arrived somebody else reported the window, and a person must
	// look.
	Duplicate bool
	// Raw is what the marketplace said about the record as it came, bounded by its client; "" if nothing.
	Raw string
}

// Limits are the marketplace's rules that shape records and batches.
type Limits struct {
	MaxBatch    int            // records in one call
	Scale       int32          // decimals of a quantity
	MaxQuantity meter.Quantity // largest quantity of one record
	MaxAge      time.Duration  // begin of a record must not be older than this
}

// Rules are what a marketplace demands of records, as far as it can be told without sending anything.
type Rules interface {
	// Limits are constant.
	Limits() Limits
	// Check reports why a record can't be sent at all (format, length, range), without sending anything.
	Check(r UsageRecord) error
}

// Marketplace is a place to report usage to.
type Marketplace interface {
	Rules
	// Name names the marketplace in logs, metrics and the ledger.
	Name() string
	// Push sends one batch of at most Limits.MaxBatch records, which all passed Check. It makes one call (plus one to a
	// fallback address if the first could not even be connected) and never retries by itself. Push always returns a Result;
	// ctx bounds the call.
	Push(ctx context.Context, batch []UsageRecord) Result
}
